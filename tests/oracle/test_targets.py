"""Scores of known logits, computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.oracle.helpers import KINDS
from xplain.oracle.scores import compute_scores

LOGITS = torch.tensor([[1.0, 3.0, 2.0, -1.0], [0.5, 0.0, 4.0, 4.5]], dtype=torch.float64)


def softmax(row: Tensor, index: int) -> float:
    exponentials = [math.exp(logit) for logit in row.tolist()]
    return exponentials[index] / sum(exponentials)


def score_by_hand(row: Tensor, index: int, kind: str) -> float:
    if kind == "logit":
        return row[index].item()
    if kind == "margin":
        return row[index].item() - max(logit for i, logit in enumerate(row.tolist()) if i != index)
    return softmax(row, index) if kind == "prob" else math.log(softmax(row, index))


@pytest.mark.parametrize("kind", KINDS)
def test_score_follows_formula(kind):
    y = torch.tensor([1, 0])
    expected = [score_by_hand(row, index, kind) for row, index in zip(LOGITS, y.tolist(), strict=True)]
    assert compute_scores(LOGITS, y, kind).tolist() == pytest.approx(expected, abs=1e-14)


def test_scores_of_simple_logits():
    y = torch.tensor([1, 0])
    assert compute_scores(LOGITS, y, "logit").tolist() == [3.0, 0.5]
    assert compute_scores(LOGITS, y, "margin").tolist() == [1.0, -4.0]
    equal = torch.zeros(1, 4, dtype=torch.float64)
    assert compute_scores(equal, y[:1], "prob").tolist() == [0.25]
    assert compute_scores(equal, y[:1], "log-prob").tolist() == pytest.approx([-math.log(4)], abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_several_classes(kind):
    y = torch.tensor([[1, 3], [0, 2]])
    expected = [
        [score_by_hand(row, index, kind) for index in indices] for row, indices in zip(LOGITS, y.tolist(), strict=True)
    ]
    assert torch.allclose(
        compute_scores(LOGITS, y, kind), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("kind", ["logit", "prob", "log-prob"])
def test_score_subtracts_mean_of_contrasts(kind):
    y, against = torch.tensor([1, 0]), torch.tensor([[0, 3], [2, 1]])
    expected = [
        score_by_hand(row, index, kind) - sum(score_by_hand(row, contrast, kind) for contrast in contrasts) / 2
        for row, index, contrasts in zip(LOGITS, y.tolist(), against.tolist(), strict=True)
    ]
    assert compute_scores(LOGITS, y, kind, against).tolist() == pytest.approx(expected, abs=1e-14)


def test_margin_subtracts_largest_contrast():
    y, against = torch.tensor([1, 0]), torch.tensor([[0, 3], [2, 1]])
    assert compute_scores(LOGITS, y, "margin", against).tolist() == [2.0, -3.5]


@pytest.mark.parametrize("kind", ["prob", "log-prob"])
def test_scores_of_extreme_logits_are_finite(kind):
    logits = torch.tensor([[0.0, 1e4, -1e4]])
    scores = compute_scores(logits, torch.tensor([[0, 1, 2]]), kind)
    assert scores.isfinite().all()
    assert scores[0, 1] == (1 if kind == "prob" else 0)
