"""The score ``contrast``: its text, its classes and its value, from the definitions."""

from __future__ import annotations

import pytest
import torch

from xplain.core.errors import UsageError
from xplain.core.scores import ContrastScore, parse_score
from xplain.models.outputs import OutputKind
from xplain.oracle.scores import check_score, compute_scores, contrast_weight
from xplain.oracle.targets import find_nearest_classes

SIGMOID, BINARY, VALUES = (OutputKind(name) for name in ("sigmoid", "binary", "none"))
LOGITS = torch.tensor([[4.0, 1.0, 3.5, -2.0, 4.5], [0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("contrast", "contrast:gamma=0.6,classes=3"),
        ("contrast:gamma=1", "contrast:gamma=1,classes=3"),
        ("contrast:classes=5", "contrast:gamma=0.6,classes=5"),
        ("contrast: classes=2 + gamma=0.25", "contrast:gamma=0.25,classes=2"),
        ("contrast:gamma=1e-1,classes=07", "contrast:gamma=0.1,classes=7"),
        ("contrast:gamma=0", "contrast:gamma=0,classes=3"),
        ("margin", "margin"),
    ],
)
def test_score_has_one_full_form(text, expected):
    assert parse_score(text) == expected
    assert parse_score(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["contrst", "contrast:", "contrast:gamma", "contrast:gamma=", "contrast:gamma=-0.1", "contrast:gamma=nan", "contrast:gamma=inf",
     "contrast:classes=0", "contrast:classes=1.5", "contrast:classes=-1", "contrast:gamma=1,gamma=1", "contrast:m=3", "logit:gamma=1",
     "contrast:classes=" + "9" * 5000, ""],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r".*"):
        parse_score(text)


def test_gamma_is_recorded_exactly():
    gamma = 0.1 + 0.2
    assert ContrastScore.parse(str(ContrastScore(gamma))) == ContrastScore(gamma, 3)
    assert str(ContrastScore(2)) == "contrast:gamma=2,classes=3"


def test_nearest_classes_have_the_nearest_logits():
    """To 4: 4.5 and 3.5 are equally near, then 1 and -2."""
    y = torch.tensor([0])
    assert find_nearest_classes(LOGITS[:1], y, 4).tolist() == [[2, 4, 1, 3]]
    assert find_nearest_classes(LOGITS[:1], y, 1).tolist() == [[2]]
    assert find_nearest_classes(LOGITS[:1], torch.tensor([3]), 2).tolist() == [[1, 2]]


@pytest.mark.parametrize("target", range(5))
def test_target_is_no_contrast_under_ties(target):
    nearest = find_nearest_classes(LOGITS[1:], torch.tensor([target]), 3)[0].tolist()
    assert nearest == [index for index in range(5) if index != target][:3]


@pytest.mark.parametrize("count", [4, 5, 1000])
def test_more_classes_than_exist_are_all_others(count):
    nearest = find_nearest_classes(LOGITS, torch.tensor([1, 2]), count)
    assert [sorted(row) for row in nearest.tolist()] == [[0, 2, 3, 4], [0, 1, 3, 4]]


@pytest.mark.parametrize("output", [OutputKind(), SIGMOID, VALUES], ids=["softmax", "sigmoid", "none"])
def test_score_subtracts_a_share_of_the_mean(output):
    against = torch.tensor([[2, 4], [1, 0]])
    y = torch.tensor([0, 3])
    scores = {
        gamma: compute_scores(LOGITS, y, f"contrast:gamma={gamma},classes=2", against, output) for gamma in (0, 0.5, 1)
    }
    assert scores[0].tolist() == compute_scores(LOGITS, y, "logit", output=output).tolist() == [4, 0]
    assert scores[0.5].tolist() == [4 - 0.5 * 4, 0]
    assert scores[1].tolist() == compute_scores(LOGITS, y, "logit", against, output).tolist() == [0, 0]


def test_weight_of_the_contrasts():
    assert [contrast_weight(kind) for kind in ("contrast:gamma=0.6,classes=3", "logit", "margin")] == [0.6, 1, 1]


def test_contrast_needs_two_logits():
    for arguments in ((BINARY,), (BINARY, 2)):
        with pytest.raises(UsageError) as error:
            check_score("contrast:gamma=0.6,classes=3", *arguments)
        assert str(error.value) == (
            "score=contrast:gamma=0.6,classes=3 is not defined, because the model has one logit, that of a class over the other; "
            "use the score logit"
        )
    with pytest.raises(UsageError) as error:
        check_score("contrast:gamma=0.6,classes=3", VALUES, 1)
    assert str(error.value) == (
        "score=contrast:gamma=0.6,classes=3 is not defined, because the model returns a single value; use the score logit"
    )
    check_score("contrast:gamma=0.6,classes=3", VALUES, 2)


def test_contrast_without_classes_is_an_error():
    for y in (torch.tensor([0, 1]), torch.tensor([[0, 1], [1, 2]])):
        with pytest.raises(UsageError, match=r"^score=contrast:gamma=1,classes=3 requires contrast classes; "):
            compute_scores(LOGITS, y, "contrast:gamma=1,classes=3")
