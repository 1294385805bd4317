"""Parameter randomization: which methods depend on the learned weights."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import xplain
from tests.conftest import SAMPLES
from tests.helpers import toys
from xplain.core.errors import UsageError

NET = toys.classifier(toys.small_net(1))
X = toys.images(3, 16, 18)
Y = [2, 0, 4]
MAPS = xplain.attribute(NET, X, "saliency", target=Y).values


def compute_score(method="saliency", maps: Tensor = MAPS, images: Tensor = X, target=Y, **options) -> xplain.Score:
    return xplain.measure(NET, images, maps, "parameter-randomisation", method=method, target=target, **options)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    return float(spearmanr(a.detach().flatten(), b.detach().flatten()).statistic)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_curve_matches_scipy_spearman(order):
    maps = []

    def gradient(classifier, images: Tensor, target: Tensor) -> Tensor:
        maps.append(xplain.attribute(classifier, images, "saliency", target=target.tolist()).values)
        return maps[-1]

    score = compute_score(gradient, order=order)
    assert len(maps) == 3  # the network has three layers
    for i in range(3):
        expected = [1.0] + [rank_correlation(values[i].sum(dim=0), MAPS[i].sum(dim=0)) for values in maps]
        assert score.curve[i].tolist() == pytest.approx(expected, abs=1e-12)
        assert score.values[i].item() == pytest.approx(sum(expected[1:]) / 3, abs=1e-12)
    assert score.curve[:, 1:].max() < 0.9
    toys.assert_same(compute_score(order=order).curve, score.curve)
    absolute = compute_score(order=order, absolute=True).curve[0, 1].item()
    assert absolute == pytest.approx(rank_correlation(maps[0][0].sum(dim=0).abs(), MAPS[0].sum(dim=0).abs()))


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_unchanged_network_scores_one(similarity, monkeypatch):
    changed = compute_score(similarity=similarity).values
    monkeypatch.setattr("xplain.models.randomization.reinitialize", lambda module, seed: None)
    score = compute_score(similarity=similarity)
    assert score.values.tolist() == pytest.approx([1] * 3, abs=1e-12)
    assert changed.max() < 0.9


@pytest.mark.parametrize("method", ["random", "sobel", "center"])
def test_model_independent_methods_score_one(method):
    maps = xplain.attribute(NET, X, method).values
    assert compute_score(method, maps).values.tolist() == pytest.approx([1] * 3, abs=1e-12)


def test_unrelated_maps_score_zero():
    generator = torch.Generator().manual_seed(0)
    score = compute_score(lambda c, x, y: torch.rand(x.shape, generator=generator, dtype=x.dtype))
    assert score.values.abs().max() < 0.15  # the mean of three, each with a standard deviation of 288^-1/2 = 0.06


def test_networks_depend_on_seed_only():
    weights: list[Tensor] = []

    def record_weights(classifier, images: Tensor, target: Tensor) -> Tensor:
        weights.append(classifier.model.conv2.weight.detach().clone())
        return images

    compute_score(record_weights)
    compute_score(record_weights, maps=MAPS[1:2], images=X[1:2], target=Y[1])
    assert all(torch.equal(a, b) for a, b in zip(weights[:3], weights[3:], strict=True))
    compute_score(record_weights, seed=1)
    assert not torch.equal(weights[1], weights[7])


def test_score_is_independent_of_batch():
    together = compute_score(stages=2, batch_size=2)
    for i in range(3):
        alone = compute_score(maps=MAPS[i : i + 1], images=X[i : i + 1], target=Y[i], stages=2)
        toys.assert_same(together.curve[i], alone.curve[0])
    assert (together.cost.forwards, together.cost.backwards) == (6, 6)


def test_constant_map_is_undefined():
    maps = MAPS.clone()
    maps[1] = 3.0
    score = compute_score(maps=maps, stages=1)
    assert score.values.isnan().tolist() == [False, True, False]
    stages = iter([MAPS, torch.ones_like(MAPS), MAPS])
    score = compute_score(lambda *_: next(stages))
    assert score.values.isnan().all()
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {"a map is constant": [True] * 3}


def test_model_without_weights_is_rejected():
    model = toys.classifier(toys.Function(lambda x: x.sum(dim=(2, 3))))
    with pytest.raises(UsageError, match="requires a model with parameters"):
        xplain.measure(model, X, X, "parameter-randomisation", method="saliency")


def test_lite0_reproduces_adebayo_findings():
    """Gradients change and guided backpropagation does not, with 25 of 50 layers randomized.

    At seed 0 the maps of Grad-CAM are zero.
    """
    clf = xplain.load_classifier(device="cpu")
    x = xplain.read_image(SAMPLES / "cat.jpg", preprocessing=clf.preprocessing)[None]
    similarity = {}
    for method in ("saliency", "grad-cam", "guided-backprop"):
        att = xplain.attribute(clf, x, method)
        score = xplain.measure(clf, x, att.values, "parameter-randomisation", method=method, stages=2, seed=1)
        similarity[method] = score.curve[0, 1].item()
    assert abs(similarity["saliency"]) < 0.1
    assert similarity["grad-cam"] < 0.4
    assert similarity["guided-backprop"] > 0.8
