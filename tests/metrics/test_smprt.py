"""sMPRT against literal code with the same noise and networks, its special cases, and controls."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.rng import Streams

NET = toys.classifier(toys.small_net(1))
X = toys.images(3)
Y = [2, 0, 4]
MAPS = xplain.attribute(NET, X, "saliency", target=Y).values


def measure(metric="smprt", method="saliency", maps: Tensor = MAPS, images: Tensor = X, target=Y, **options):
    return xplain.measure(NET, images, maps, metric, method=method, target=target, **options)


@pytest.mark.parametrize("order", ["bottom-up", "cascading"])
def test_curve_matches_literal_code(order):
    """The maps of each network, run one noisy image at a time."""
    networks: list[xplain.Classifier] = []

    def record(classifier, images: Tensor, target: Tensor) -> Tensor:
        networks.append(classifier)
        with toys.any_range():
            return xplain.attribute(classifier, images, "saliency", target=target.tolist()).values

    score = measure(method=record, smooth=4, noise=0.2, order=order, stages=3)
    assert len(networks) == 4
    sigma = 0.2 * (X.amax(dim=(1, 2, 3)) - X.amin(dim=(1, 2, 3)))
    drawn = Streams.of(X, 0, "smprt").normal(torch.arange(4), (3, 8, 10), torch.float64)
    for i in range(3):
        means = []
        for network in networks:
            noisy = X[i] + sigma[i] * drawn[i]
            with toys.any_range():
                maps = xplain.attribute(network, noisy, "saliency", target=[Y[i]] * 4).values
            means.append((maps[0] + maps[1] + maps[2] + maps[3]) / 4)
        expected = [float(spearmanr(means[0].sum(dim=0).flatten(), m.sum(dim=0).flatten()).statistic) for m in means]
        assert score.curve[i].tolist() == pytest.approx(expected, abs=1e-9)
        assert float(score.values[i]) == pytest.approx(sum(expected[1:]) / 3, abs=1e-9)
    assert score.curve[:, 1:].max() < 0.95
    plain = measure(smooth=4, noise=0.2, order=order, stages=3)
    toys.assert_same(plain.curve, score.curve)
    assert (plain.cost.forwards, plain.cost.backwards) == (3 * 4 * 4, 3 * 4 * 4)


@pytest.mark.parametrize("order", ["bottom-up", "cascading"])
def test_one_draw_without_noise_is_parameter_randomisation(order):
    smooth = measure(smooth=1, noise=0, order=order, stages=3)
    plain = measure("parameter-randomisation", order=order, stages=3)
    toys.assert_same(smooth.curve, plain.curve)


def test_orders_end_at_the_same_network():
    curves = [measure("parameter-randomisation", order=order, stages=3).curve for order in ("bottom-up", "cascading")]
    toys.assert_same(curves[0][:, -1], curves[1][:, -1])
    assert (curves[0][:, 1] - curves[1][:, 1]).abs().min() > 1e-3


def test_bottom_up_randomizes_the_first_layers_first():
    weights = []

    def record(classifier, images: Tensor, target: Tensor) -> Tensor:
        names = ("conv1", "conv2", "head")
        trained = NET.model.get_submodule
        weights.append([torch.equal(classifier.model.get_submodule(n).weight, trained(n).weight) for n in names])
        return images

    measure("parameter-randomisation", record, order="bottom-up", stages=3)
    assert weights == [[False, True, True], [False, False, True], [False, False, False]]


@pytest.mark.parametrize("method", ["random", "sobel", "center"])
def test_controls_ignore_the_weights(method):
    maps = xplain.attribute(NET, X, method, target=Y).values
    assert measure(method=method, maps=maps, smooth=2, stages=2).values.tolist() == pytest.approx([1] * 3, abs=1e-12)


def test_unchanged_network_scores_one(monkeypatch):
    monkeypatch.setattr("xplain.models.randomization.reinitialize", lambda module, seed: None)
    assert measure(smooth=3, stages=2).values.tolist() == pytest.approx([1] * 3, abs=1e-12)


def test_constant_map_is_undefined():
    score = measure(method=lambda c, x, y: torch.ones_like(x), smooth=2, stages=1)
    assert score.values.isnan().all()
    assert score.undefined["a map is constant"].tolist() == [True] * 3


@pytest.mark.parametrize("metric", ["smprt", "emprt"])
def test_model_without_weights_is_rejected(metric):
    model = toys.classifier(toys.Function(lambda x: x.sum(dim=(2, 3))))
    with pytest.raises(UsageError, match=rf"^{metric} requires a model with parameters; use another model or metric$"):
        xplain.measure(model, X, X, metric, method="saliency")
