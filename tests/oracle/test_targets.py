"""Scores: the scalar that is explained, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xplain.oracle.targets import compute_scores

KINDS = ["logit", "prob", "log-prob", "margin"]
LOGITS = torch.tensor([[1.0, 3.0, 2.0, -1.0], [0.5, 0.0, 4.0, 4.5]], dtype=torch.float64)


def softmax(row: Tensor, index: int) -> float:
    values = [math.exp(each) for each in row.tolist()]
    return values[index] / sum(values)


def by_hand(row: Tensor, index: int, kind: str) -> float:
    if kind == "logit":
        return row[index].item()
    if kind == "margin":
        return row[index].item() - max(value for i, value in enumerate(row.tolist()) if i != index)
    return softmax(row, index) if kind == "prob" else math.log(softmax(row, index))


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_formula_of_its_kind(kind):
    y = torch.tensor([1, 0])
    expected = [by_hand(row, index, kind) for row, index in zip(LOGITS, y.tolist(), strict=True)]
    assert compute_scores(LOGITS, y, kind).tolist() == pytest.approx(expected, abs=1e-14)


def test_scores_of_known_numbers():
    y = torch.tensor([1, 0])
    assert compute_scores(LOGITS, y, "logit").tolist() == [3.0, 0.5]
    assert compute_scores(LOGITS, y, "margin").tolist() == [1.0, -4.0]
    equal = torch.zeros(1, 4, dtype=torch.float64)
    assert compute_scores(equal, y[:1], "prob").tolist() == [0.25]
    assert compute_scores(equal, y[:1], "log-prob").tolist() == pytest.approx([-math.log(4)], abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_several_classes_of_a_row_are_read_at_once(kind):
    y = torch.tensor([[1, 3], [0, 2]])
    expected = [[by_hand(row, index, kind) for index in some] for row, some in zip(LOGITS, y.tolist(), strict=True)]
    assert torch.allclose(
        compute_scores(LOGITS, y, kind), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("kind", ["logit", "prob", "log-prob"])
def test_against_rivals_the_score_is_the_target_minus_their_mean(kind):
    y, against = torch.tensor([1, 0]), torch.tensor([[0, 3], [2, 1]])
    expected = [
        by_hand(row, index, kind) - sum(by_hand(row, each, kind) for each in some) / 2
        for row, index, some in zip(LOGITS, y.tolist(), against.tolist(), strict=True)
    ]
    assert compute_scores(LOGITS, y, kind, against).tolist() == pytest.approx(expected, abs=1e-14)


def test_a_margin_against_rivals_is_over_the_largest_of_them():
    y, against = torch.tensor([1, 0]), torch.tensor([[0, 3], [2, 1]])
    assert compute_scores(LOGITS, y, "margin", against).tolist() == [2.0, -3.5]


@pytest.mark.parametrize("kind", ["prob", "log-prob"])
def test_scores_of_wide_logits_are_finite(kind):
    logits = torch.tensor([[0.0, 1e4, -1e4]])
    found = compute_scores(logits, torch.tensor([[0, 1, 2]]), kind)
    assert found.isfinite().all()
    assert found[0, 1] == (1 if kind == "prob" else 0)
