"""Tests of ``score`` as a parameter of a method, such as ``mfaba:score=logit``."""

import json

import pytest
import torch

import xplain
from tests.conftest import TINY
from tests.helpers import toys
from xplain.core.config import Choice
from xplain.core.errors import UsageError
from xplain.pipelines.attribution import check_methods, resolve_methods

CLASSIFIER = toys.classifier(toys.small_net(1, scale=15.0))
X = toys.images(2)


def test_own_score_takes_precedence():
    choices = [Choice.parse(text) for text in ("mfaba:score=logit", "mfaba", "ig", "sm:score=margin")]
    check_methods(choices)
    runs = resolve_methods(choices, "log-prob", CLASSIFIER)
    assert [run.score for run in runs] == ["logit", "log-prob", "log-prob", "margin"]
    assert [run.label for run in runs] == [
        "mfaba:score=logit",
        "mfaba",
        "integrated-gradients",
        "saliency:score=margin",
    ]
    assert "score" not in runs[0].settings
    assert runs[0].describe() == resolve_methods([Choice("mfaba")], "logit", CLASSIFIER)[0].describe()


def test_unknown_score_is_refused():
    with pytest.raises(UsageError, match=r"unknown score 'logits'; did you mean 'logit'\?"):
        check_methods([Choice.parse("mfaba:score=logits")])


def test_measure_uses_score_of_method():
    result = xplain.attribute(CLASSIFIER, X, "mfaba", score="logit")
    gap = xplain.measure(CLASSIFIER, X, result.values, "completeness-gap", method="mfaba:score=logit").values
    toys.assert_same(gap, result.gap.abs(), rtol=1e-6)
    other = xplain.measure(CLASSIFIER, X, result.values, "completeness-gap", method="mfaba").values
    assert float((other - gap).abs().min()) > 0.01


def test_one_command_explains_two_scores(xp, photos):
    ran = xp(
        "explain",
        photos / "cat",
        *TINY,
        "-a",
        "mfaba:score=logit",
        "-a",
        "mfaba",
        "--save",
        "raw",
        "--json",
        "-o",
        "out",
    )
    assert ran.code == 0, ran.err
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert [record["score"] for record in records] == ["logit", "prob"]
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    x = xplain.read_image(photos / "cat" / "a.jpg", preprocessing=classifier.preprocessing)[None]
    for record in records:
        expected = xplain.attribute(classifier, x, "mfaba", score=record["score"])
        assert record["completeness"]["sum"] == pytest.approx(float(expected.total), rel=1e-4)
    assert not torch.equal(
        *(xplain.attribute(classifier, x, "mfaba", score=score).values for score in ("logit", "prob"))
    )
