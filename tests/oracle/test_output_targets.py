"""Targets and contrast classes of each kind of output."""

import pytest
import torch
from torch import nn

from tests.helpers.output_kinds import with_output
from xplain.core.errors import ModelNote, UsageError
from xplain.oracle.targets import TargetSpec, find_contrasts, find_targets

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [-1.0, -3.0, -2.0]])
RAW = torch.tensor([[-0.5, 0.5], [0.0, 0.0], [2.0, -2.0]])
ONE = torch.tensor([[2.0], [-1.0]])


def parse(target, activation, classes=3, against=None, **options):
    classifier = with_output(nn.Identity(), activation, classes, **options)
    return classifier, TargetSpec.parse(target, against, classifier)


def explained(target, activation, logits, **options):
    _, spec = parse(target, activation, logits.shape[1], **options)
    return [targets.tolist() for targets in spec.targets(logits, [None] * len(logits))]


def test_auto_is_the_best_label_whether_present_or_not():
    assert explained("auto", "sigmoid", LOGITS) == [[1, 0]]


@pytest.mark.parametrize(("threshold", "expected"), [(None, [1, 0, 0]), (0.7, [0, 0, 0]), (0.1, [1, 1, 1])])
def test_auto_is_the_decision_of_a_binary_model(threshold, expected):
    assert explained("auto", "binary", RAW, threshold=threshold) == [expected]
    classifier = with_output(nn.Identity(), "binary", threshold=threshold)
    assert find_targets(classifier, None, RAW).tolist() == expected


def test_top_of_a_binary_model_starts_with_the_decision():
    assert explained("top:2", "binary", RAW, threshold=0.7) == [[0, 0, 0], [1, 1, 1]]
    assert explained("top:1", "binary", RAW) == [[1, 0, 0]]
    assert explained("top:5", "binary", RAW) == [[1, 0, 0], [0, 1, 1]]


def test_top_of_labels_and_values_are_the_largest():
    for activation in ("sigmoid", "none"):
        assert explained("top:2", activation, LOGITS) == [[1, 0], [2, 2]]


def test_auto_of_values_is_the_largest_with_a_note():
    with pytest.warns(ModelNote, match="the model returns several values; explaining the largest one of each image"):
        assert explained("auto", "none", LOGITS) == [[1, 0]]


def test_auto_of_one_value(recwarn):
    assert explained("auto", "none", ONE) == [[0, 0]]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("activation", "logits", "y", "expected"),
    [
        ("sigmoid", LOGITS, [1, 1], [2, 0]),
        ("none", LOGITS, [1, 0], [2, 2]),
        ("binary", RAW[:2], [1, 1], [0, 0]),
        ("binary", RAW[:2], [0, 0], [1, 1]),
    ],
)
def test_runner_up(activation, logits, y, expected):
    classifier, spec = parse("auto", activation, logits.shape[1], against="runner-up")
    assert spec.contrasts(classifier, logits, torch.tensor(y)).tolist() == [[index] for index in expected]


def test_one_value_has_no_runner_up():
    classifier = with_output(nn.Identity(), "none", 1)
    with pytest.raises(UsageError, match=r"^a model with one output has no runner-up; remove --against$"):
        find_contrasts(classifier, "runner-up", ONE, torch.tensor([0, 0]))


def test_values_have_no_labels():
    with pytest.raises(UsageError) as refusal:
        parse("label", "none")
    assert str(refusal.value) == "--target label requires classes, but the model returns values; remove --target label"
