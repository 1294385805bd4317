"""Parameter randomisation: who looks at what the network learned."""

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


def measured(method="saliency", maps: Tensor = MAPS, images: Tensor = X, target=Y, **options) -> xplain.Score:
    return xplain.measure(NET, images, maps, "parameter-randomisation", method=method, target=target, **options)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    return float(spearmanr(a.detach().flatten(), b.detach().flatten()).statistic)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_the_curve_is_the_correlation_with_the_maps_of_the_networks_that_were_used(order):
    maps = []

    def gradient(classifier, images: Tensor, target: Tensor) -> Tensor:
        maps.append(xplain.attribute(classifier, images, "saliency", target=target.tolist()).values)
        return maps[-1]

    found = measured(gradient, order=order)
    assert len(maps) == 3  # the network has three layers
    for i in range(3):
        expected = [1.0] + [rank_correlation(each[i].sum(dim=0), MAPS[i].sum(dim=0)) for each in maps]
        assert found.curve[i].tolist() == pytest.approx(expected, abs=1e-12)
        assert found.values[i].item() == pytest.approx(sum(expected[1:]) / 3, abs=1e-12)
    assert found.curve[:, 1:].max() < 0.9
    toys.assert_same(measured(order=order).curve, found.curve)
    absolute = measured(order=order, absolute=True).curve[0, 1].item()
    assert absolute == pytest.approx(rank_correlation(maps[0][0].sum(dim=0).abs(), MAPS[0].sum(dim=0).abs()))


@pytest.mark.parametrize("similarity", ["spearman", "ssim"])
def test_a_network_that_forgets_nothing_gives_one(similarity, monkeypatch):
    changed = measured(similarity=similarity).values
    monkeypatch.setattr("xplain.models.randomization.initialise", lambda module, seed: None)
    found = measured(similarity=similarity)
    assert found.values.tolist() == pytest.approx([1] * 3, abs=1e-12)
    assert changed.max() < 0.9


@pytest.mark.parametrize("method", ["random", "sobel", "center"])
def test_maps_that_do_not_look_at_the_network_have_one(method):
    maps = xplain.attribute(NET, X, method).values
    assert measured(method, maps).values.tolist() == pytest.approx([1] * 3, abs=1e-12)


def test_unrelated_maps_have_about_zero():
    generator = torch.Generator().manual_seed(0)
    found = measured(lambda c, x, y: torch.rand(x.shape, generator=generator, dtype=x.dtype))
    assert found.values.abs().max() < 0.15  # the mean of three, each with a standard deviation of 288^-1/2 = 0.06


def test_networks_are_the_same_for_all_images_and_methods_and_another_for_another_seed():
    seen: list[Tensor] = []

    def look(classifier, images: Tensor, target: Tensor) -> Tensor:
        seen.append(classifier.model.conv2.weight.detach().clone())
        return images

    measured(look)
    measured(look, maps=MAPS[1:2], images=X[1:2], target=Y[1])
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True))
    measured(look, seed=1)
    assert not torch.equal(seen[1], seen[7])


def test_images_are_measured_as_if_alone_and_rows_are_counted():
    together = measured(stages=2, batch_size=2)
    for i in range(3):
        alone = measured(maps=MAPS[i : i + 1], images=X[i : i + 1], target=Y[i], stages=2)
        toys.assert_same(together.curve[i], alone.curve[0])
    assert (together.cost.forwards, together.cost.backwards) == (6, 6)


def test_a_constant_map_is_undefined():
    flat = MAPS.clone()
    flat[1] = 3.0
    found = measured(maps=flat, stages=1)
    assert found.values.isnan().tolist() == [False, True, False]
    once = iter([MAPS, torch.ones_like(MAPS), MAPS])
    later = measured(lambda *_: next(once))
    assert later.values.isnan().all()
    assert {reason: mask.tolist() for reason, mask in later.undefined.items()} == {"a map is constant": [True] * 3}


def test_a_model_without_weights_cannot_forget():
    bare = toys.classifier(toys.Function(lambda x: x.sum(dim=(2, 3))))
    with pytest.raises(UsageError, match="requires a model with parameters"):
        xplain.measure(bare, X, X, "parameter-randomisation", method="saliency")


def test_on_the_embedded_network_gradients_forget_and_guided_backpropagation_does_not():
    """Adebayo et al.'s finding, with 25 of 50 layers new. At seed 0 Grad-CAM's maps are zero."""
    clf = xplain.load_classifier(device="cpu")
    x = xplain.read_image(SAMPLES / "cat.jpg", preprocessing=clf.preprocessing)[None]
    half = {}
    for method in ("saliency", "grad-cam", "guided-backprop"):
        att = xplain.attribute(clf, x, method)
        found = xplain.measure(clf, x, att.values, "parameter-randomisation", method=method, stages=2, seed=1)
        half[method] = found.curve[0, 1].item()
    assert abs(half["saliency"]) < 0.1
    assert half["grad-cam"] < 0.4
    assert half["guided-backprop"] > 0.8
