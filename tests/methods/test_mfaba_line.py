"""Tests of MFABA on the line, with and without non-aggressive nodes (Fig. 2)."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import mfaba as reference
from tests.reference.integrated_gradients import integrated_gradients
from xplain.core.errors import UsageError

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 2, 0]
WALK = {"ascent": "sharp", "step_size": 0.1, "steps": 12}


def attribute(**settings) -> xplain.Attribution:
    return xplain.attribute(CLASSIFIER, X, "mfaba", target=TARGETS, path="line", nodes=6, **WALK, **settings)


def integrate(i: int, keep: str, within: float = float("inf")) -> torch.Tensor:
    """Return the sum over the kept Gauss-Legendre nodes, one at a time."""
    f = gradients.probability(NETWORK, TARGETS[i])
    end = reference.descend(NETWORK, f, X[i], TARGETS[i], **WALK)[-1]
    nodes, weights = np.polynomial.legendre.leggauss(6)
    total = torch.zeros_like(X[i])
    for node, weight in zip(nodes, weights, strict=True):
        point = end + (node + 1) / 2 * (X[i] - end)
        is_aggressive = bool(f(point) < f(X[i])) and float((point - X[i]).abs().max()) < within
        if keep == "all" or (keep == "aggressive") == is_aggressive:
            total += (X[i] - end) * gradients.gradient(f, point) * weight / 2
    return total


@pytest.mark.parametrize("within", [None, 0.03])
@pytest.mark.parametrize("keep", ["all", "aggressive", "other"])
def test_line_equals_reference(keep, within):
    result = attribute(keep=keep, within=within)
    for i in range(3):
        toys.assert_same(result.values[i], integrate(i, keep, within or float("inf")))
    assert (result.expected is not None) == (keep == "all")


@pytest.mark.parametrize("within", [None, 0.03])
def test_aggressive_and_other_nodes_add_up(within):
    parts = {keep: attribute(keep=keep, within=within) for keep in ("all", "aggressive", "other")}
    toys.assert_same(parts["all"].values, parts["aggressive"].values + parts["other"].values)
    shares = parts["aggressive"].details["kept_share"] + parts["other"].details["kept_share"]
    assert shares.tolist() == pytest.approx([1.0] * 3)


def test_all_nodes_are_integrated_gradients_from_end():
    f = gradients.probability(NETWORK, 2)
    end = reference.descend(NETWORK, f, X[0], 2, **WALK)[-1]
    result = attribute()
    toys.assert_same(result.values[0], integrated_gradients(f, X[0], end, 6, "gauss-legendre"))
    assert float((result.gap / result.expected).abs().max()) < 0.01


def test_score_that_falls_along_line_keeps_every_node():
    """Linear logits: all nodes are aggressive, and no other node remains, which is flagged."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4
    model = toys.classifier(toys.Linear(weight, torch.tensor([100.0, 0.0], dtype=torch.float64)))
    settings = {"target": 0, "score": "logit", "path": "line", "steps": 4, "nodes": 5}
    kept, other, everything = (
        xplain.attribute(model, X, "mfaba", keep=keep, **settings) for keep in ("aggressive", "other", "all")
    )
    toys.assert_same(kept.values, everything.values)
    assert kept.details["kept_share"].tolist() == [1.0] * 3
    assert not other.values.any()
    assert toys.warned(other, "no node on the line is kept (keep=other)") == [True] * 3
    assert toys.warned(kept, "no node on the line is kept") == [False] * 3


def test_nodes_beyond_a_valley_are_removed():
    """f = (x - 1/2)² of one value; a step goes from 0.6 to 0.3, where f is larger: nodes below 0.4 are not aggressive.

    They integrate to f(0.4) - f(0.3) = -0.03, the aggressive ones to f(0.6) - f(0.4) = 0.
    """

    def logits(x):
        f = (x[:, 0, 0, 0] - 0.5) ** 2
        return torch.stack([f + 1, 0 * f], dim=1)

    x = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    x[0, 0, 0, 0] = 0.6
    settings = {"target": 0, "score": "logit", "ascent": "smooth", "step_size": 0.3, "steps": 1, "nodes": 200}
    model = toys.classifier(toys.Function(logits))
    for keep, total in (("aggressive", 0.0), ("other", -0.03), ("all", -0.03)):
        result = xplain.attribute(model, x, "mfaba", path="line", keep=keep, **settings)
        assert float(result.total) == pytest.approx(total, abs=3e-4)


@pytest.mark.parametrize("path", ["curve", "norm", "cosine"])
def test_aggressive_and_other_segments_add_up(path):
    """Steps of 4 overshoot, so that both kinds exist; keep=aggressive is aggressive_only."""
    settings = {"target": 2, "path": path, "step_size": 4.0, "steps": 6}
    parts = {
        keep: xplain.attribute(CLASSIFIER, X, "mfaba", keep=keep, **settings) for keep in ("all", "aggressive", "other")
    }
    toys.assert_same(parts["all"].values, parts["aggressive"].values + parts["other"].values, rtol=1e-7)
    only = xplain.attribute(CLASSIFIER, X, "mfaba", aggressive_only=True, **settings)
    assert torch.equal(only.values, parts["aggressive"].values)
    assert parts["other"].expected is None


def test_within_removes_segments_that_end_far_away():
    """Linear logits and steps of 0.01 per value: segment j ends at distance 0.01 (j + 1)."""
    weight = torch.full((2, 3, 8, 10), 0.01, dtype=torch.float64)
    model = toys.classifier(toys.Linear(weight, torch.tensor([100.0, 0.0], dtype=torch.float64)))
    settings = {"target": 0, "score": "logit", "ascent": "smooth", "step_size": 0.01, "steps": 5}
    for within, kept in ((0.005, 0), (0.025, 2), (0.045, 4), (0.1, 5)):
        values = xplain.attribute(model, X, "mfaba", keep="aggressive", within=within, **settings).values
        toys.assert_same(values, torch.full_like(X, kept * 0.01 * 0.01) if kept else torch.zeros_like(X))


def test_aggressive_only_contradicts_other():
    with pytest.raises(UsageError, match=r"mfaba: aggressive_only contradicts keep=other"):
        xplain.attribute(CLASSIFIER, X, "mfaba", keep="other", aggressive_only=True)
    on_line = attribute(aggressive_only=True)
    assert torch.equal(on_line.values, attribute(keep="aggressive").values)
