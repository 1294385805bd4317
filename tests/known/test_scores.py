"""Measures of maps against closed forms, scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from xplain.known import MECHANISMS, Planted
from xplain.pipelines.known_scores import best_scale, correlate_ranks, score_maps

PATCH = MECHANISMS["gate"].plant(0, 0)
SIGNED = MECHANISMS["linear-signed"].plant(0, 0)
LINEAR = MECHANISMS["linear-dense"].plant(0, 0)
COUNT = MECHANISMS["count"].plant(0, 0)


def measure(planted: Planted, maps: torch.Tensor, *, slopes: bool = False, score: str = "logit") -> list[dict]:
    return score_maps(maps, planted, slopes=slopes, score=score)


def test_truth_scores_one_and_its_negative_zero():
    for sign, auroc in ((1, 1.0), (-1, 0.0)):
        for scores in measure(PATCH, sign * PATCH.truth_map):
            assert (scores["auroc"], scores["silent"]) == (auroc, False)
    assert [scores["auroc"] for scores in measure(PATCH, -PATCH.truth_map, slopes=True)] == [1.0] * 4
    share = 32 / 1024
    rounding = 1e-10 * PATCH.truth_map  # too small to count
    for silent in (torch.full((4, 1, 32, 32), 3.0), torch.full((4, 1, 32, 32), torch.nan), rounding):
        for scores in measure(PATCH, silent):
            assert scores["auroc"] == 0.5
            assert (scores["ap"], scores["top"], scores["silent"]) == (share, share, True)


def test_signed_truth_is_ranked_by_magnitude():
    (scores, *_) = measure(SIGNED, SIGNED.truth_map)
    assert (scores["auroc"], scores["auroc_absolute"], scores["sign"]) == (1.0, 1.0, 1.0)
    assert scores["auroc_signed"] == pytest.approx(0.5, abs=1e-12)  # half of the relevant pixels are negative
    (scores, *_) = measure(SIGNED, SIGNED.truth_map.abs())
    assert scores["sign"] == pytest.approx(float(SIGNED.values[0].clamp(min=0).sum() / SIGNED.values[0].abs().sum()))
    (scores, *_) = measure(SIGNED, torch.zeros(4, 1, 32, 32))
    assert (scores["sign"], scores["value"], scores["shape"]) == (0.5, 0.0, 0.0)


def test_ranking_equals_scikit_learn():
    maps = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.4
    planted = MECHANISMS["texture"].plant(0, 0)  # with pixels that are not scored
    for i, scores in enumerate(measure(planted, maps)):
        counted = ~planted.relevant[i].flatten().isnan()
        inside = (planted.relevant[i].flatten()[counted] == 1).numpy()
        sums = maps[i].sum(dim=0).flatten()[counted].numpy()
        assert scores["auroc_signed"] == pytest.approx(roc_auc_score(inside, sums), abs=1e-12)
        assert scores["auroc"] == scores["auroc_absolute"]
        assert scores["auroc"] == pytest.approx(roc_auc_score(inside, abs(sums)), abs=1e-12)
        assert scores["ap"] == pytest.approx(average_precision_score(inside, abs(sums)), abs=1e-12)
        top = np.argsort(-abs(sums), kind="stable")[: inside.sum()]
        assert scores["top"] == pytest.approx(inside[top].mean(), abs=1e-12)


def test_values_in_units_and_at_the_best_scale():
    truth = torch.nn.functional.interpolate(LINEAR.values.reshape(4, 1, 8, 8), scale_factor=4) / 16
    for factor, value in ((1, 1.0), (0.5, 0.5), (3, 0.0), (-1, 0.0)):
        for scores in measure(LINEAR, factor * truth):
            assert scores["value"] == pytest.approx(value, abs=1e-12)
            assert scores["shape"] == pytest.approx(1.0 if factor > 0 else 0.0, abs=1e-12)
            assert "auroc" not in scores
    assert all("value" not in scores for scores in measure(LINEAR, truth, slopes=True))


def test_best_scale_minimizes_the_distance():
    rng = torch.Generator().manual_seed(4)
    for _ in range(20):
        values, truth = torch.randn(2, 30, generator=rng, dtype=torch.float64)
        scale = best_scale(values, truth)
        grid = torch.linspace(0, 5, 5001, dtype=torch.float64)
        distances = (grid[:, None] * values - truth).abs().sum(dim=1)
        assert float((scale * values - truth).abs().sum()) <= float(distances.min()) + 1e-12
    assert best_scale(torch.zeros(3), torch.ones(3)) == 0.0


def test_order_of_parts_equals_scipy():
    rng = np.random.default_rng(0)
    for _ in range(10):
        first, second = rng.integers(0, 4, 6).astype(float), rng.normal(size=6)
        expected = spearmanr(first, second).statistic
        assert correlate_ranks(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, abs=1e-12)
    assert correlate_ranks(torch.ones(3), torch.arange(3.0)) == 0.0
    graded = MECHANISMS["linear-graded"].plant(0, 0)
    assert [scores["order"] for scores in measure(graded, graded.truth_map)] == pytest.approx([1.0] * 4)
    assert [scores["order"] for scores in measure(graded, -graded.truth_map)] == pytest.approx([-1.0] * 4)


def test_evenness_of_dots():
    dots = COUNT.parts / COUNT.parts.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    scores = measure(COUNT, dots.sum(dim=1, keepdim=True))
    assert "evenness" not in scores[0]  # a single dot
    assert [entry["evenness"] for entry in scores[1:]] == pytest.approx([1.0] * 3, abs=1e-12)
    weights = torch.tensor([3.0, 1, 0, 0], dtype=torch.float64)[None, :, None, None]
    (_, entry, *_) = measure(COUNT, (dots * weights).sum(dim=1, keepdim=True))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert entry["evenness"] == pytest.approx(entropy, abs=1e-12)
    assert measure(COUNT, -dots.sum(dim=1, keepdim=True))[1]["evenness"] == 0.0


def test_only_zero_maps_are_quiet():
    planted = MECHANISMS["null"].plant(0, 0)
    maps = torch.zeros(4, 1, 32, 32)
    maps[1] += 1e-7
    maps[2, 0, 3, 3] = 1e-5
    maps[3] = torch.nan
    scores = measure(planted, maps)
    assert [entry["quiet"] for entry in scores] == [1.0, 1.0, 0.0, 0.0]
    assert [entry["silent"] for entry in scores] == [True, True, False, True]


def test_scores_that_compare_classes_ignore_what_both_have():
    planted = MECHANISMS["rivals"].plant(0, 0)
    second = (planted.relevant_to_others == 1).double()
    assert [entry["auroc"] for entry in measure(planted, second, score="margin")] == [1.0] * 4
    assert [entry["auroc"] for entry in measure(planted, second)] == pytest.approx([0.75] * 4)


def test_dark_stripes_contribute_negatively():
    """Gradient times input of the texture has both signs within the stripes, so that maps are ranked by magnitude."""
    planted = MECHANISMS["texture"].plant(0, 0)
    x = planted.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(planted.network(x)[:, 0].sum(), x)
    terms = (slope * planted.images).sum(dim=1, keepdim=True)
    stripes = terms[planted.relevant == 1]
    assert 0.2 < float((stripes > 0).double().mean()) < 0.4
    assert 0.4 < float((stripes < 0).double().mean()) < 0.8
    for scores in measure(planted, terms):
        assert scores["auroc"] == scores["auroc_absolute"] > 0.9
        assert scores["auroc_signed"] < 0.4
