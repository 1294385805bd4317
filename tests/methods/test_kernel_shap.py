"""Tests of KernelSHAP: against its regression, exact Shapley values and additive games."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import superpixels as reference
from xplain.core.rng import Streams
from xplain.methods._segmentation import find_superpixels

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = F.interpolate(toys.images(3, 3, 4), scale_factor=4, mode="bilinear")  # smooth, or it would be one segment
LABELS = find_superpixels(X, 12)
MEAN = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand_as(X[0])


def shown_of(k: int, samples: int) -> np.ndarray:
    """Return the coalitions of image k: a random size, the players of the lowest ranks, and then the complement."""
    rng = Streams.of(X[k : k + 1], 0, "kernel-shap")
    count = int(LABELS[k].max()) + 1
    pairs = torch.arange((samples + 1) // 2)
    sizes = rng.child("size").uniform(pairs, (), torch.float64)[0].numpy()
    keys = rng.uniform(pairs, (int(LABELS.max()) + 1,), torch.float64)[0, :, :count].numpy()
    weights = np.array([1 / (s * (count - s)) for s in range(1, count)])
    rows = []
    for u, key in zip(sizes, keys, strict=True):
        size = 1 + int(np.sum(np.cumsum(weights / weights.sum()) < u))
        shown = np.zeros(count, bool)
        shown[np.argsort(key)[:size]] = True
        rows += [shown, ~shown]
    return np.array(rows[:samples])


@pytest.mark.parametrize("samples", [40, 41])
@pytest.mark.parametrize("baseline", ["mean", "black"])
def test_kernel_shap_equals_reference(baseline, samples):
    attribution = xplain.attribute(
        CLASSIFIER, X, "kernel-shap", target=1, samples=samples, segments=12, baseline=baseline
    )
    for k, image in enumerate(X):
        fill = MEAN if baseline == "mean" else torch.zeros_like(image)
        expected = reference.kernel_shap(
            gradients.probability(NETWORK, 1), image, fill, LABELS[k], shown_of(k, samples)
        )
        torch.testing.assert_close(attribution.values[k], expected, rtol=1e-6, atol=1e-9)


BLOCKS = F.interpolate(toys.images(2, 2, 4, seed=5), scale_factor=4, mode="nearest")  # eight flat segments


@pytest.mark.parametrize(("images", "segments", "counts"), [(X, 6, [6, 5, 5]), (BLOCKS, 8, [8, 8])])
def test_kernel_shap_equals_shapley_values(images, segments, counts):
    labels = find_superpixels(images, segments)
    attribution = xplain.attribute(CLASSIFIER, images, "kernel-shap", target=1, samples=1000, segments=segments)
    values = attribution.values
    assert attribution.details["segments"].tolist() == counts
    assert attribution.cost.forwards == sum(2**count for count in counts)
    for k, image in enumerate(images):
        f, count = gradients.probability(NETWORK, 1), int(labels[k].max()) + 1

        def game(group, k=k, image=image, f=f, count=count):
            shown = [segment in group for segment in range(count)]
            return float(f(reference.show(image, MEAN[:, :1, :1].expand_as(image), labels[k], shown)).detach())

        exact = reference.spread(reference.shapley(game, count), labels[k])
        assert float((values[k] - exact).abs().max()) < 1e-8 * float(exact.abs().max())


def test_kernel_shap_sampling_approaches_shapley_values():
    labels = find_superpixels(X, 12)
    counts = labels.amax(dim=(1, 2)) + 1
    exact = xplain.attribute(CLASSIFIER, X, "kernel-shap", target=1, samples=2**12, segments=12).values
    few = int(2 ** counts.min() - 3)
    drawn = xplain.attribute(CLASSIFIER, X, "kernel-shap", target=1, samples=few, segments=12).values
    assert float((drawn - exact).abs().max()) < 0.1 * float(exact.abs().max())
    assert not torch.equal(drawn, exact)


@pytest.mark.parametrize("samples", [1, 3, 100])
def test_kernel_shap_is_complete(samples):
    attribution = xplain.attribute(CLASSIFIER, X, "kernel-shap", target=1, samples=samples, segments=6)
    full, empty = (NETWORK(images).softmax(1)[:, 1].detach() for images in (X, MEAN[None].expand_as(X)))
    torch.testing.assert_close(attribution.expected, full - empty)
    torch.testing.assert_close(attribution.gap, torch.zeros(3, dtype=torch.float64), atol=1e-8, rtol=0)


def test_kernel_shap_additive_game_is_exact():
    weight = torch.randn(2, 3, 12, 16, dtype=torch.float64)
    model = toys.classifier(toys.Linear(weight))
    values = xplain.attribute(
        model, X, "kernel-shap", target=0, score="logit", samples=60, segments=12, baseline="black"
    ).values
    for k in range(3):
        parts = (weight[0] * X[k]).sum(dim=0)
        sums = [float(parts[LABELS[k] == segment].sum()) for segment in LABELS[k].unique()]
        torch.testing.assert_close(values[k], reference.spread(np.array(sums), LABELS[k]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [7, 8, 9])
def test_kernel_shap_with_many_segments(side, monkeypatch):
    """2^K - 2 does not fit into 64 bits for 64 and 81 segments, but does for 49; sampling works for all."""
    x = toys.images(1, 2 * side, 2 * side)
    cells = torch.arange(side * side).reshape(1, side, side).repeat_interleave(2, 1).repeat_interleave(2, 2)
    monkeypatch.setattr("xplain.methods.kernel_shap.find_superpixels", lambda x, count: cells)
    weight = torch.randn(2, 3, 2 * side, 2 * side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = toys.classifier(toys.Linear(weight))
    attribution = xplain.attribute(model, x, "kernel-shap", target=0, score="logit", samples=400, baseline="black")
    parts = (weight[0] * x[0]).sum(dim=0)
    sums = np.array([float(parts[cells[0] == segment].sum()) for segment in range(side * side)])
    torch.testing.assert_close(attribution.values[0], reference.spread(sums, cells[0]), atol=1e-6, rtol=0)
    assert attribution.cost.forwards == 402


def test_kernel_shap_with_one_segment():
    attribution = xplain.attribute(CLASSIFIER, X, "kernel-shap", target=1, samples=5, segments=1)
    torch.testing.assert_close(
        attribution.values, (attribution.expected / 192)[:, None, None, None].expand_as(attribution.values)
    )


def test_kernel_shap_ignores_other_images():
    together = xplain.attribute(CLASSIFIER, X, "kernel-shap", target=1, samples=25, segments=12).values
    alone = [
        xplain.attribute(CLASSIFIER, x[None], "kernel-shap", target=1, samples=25, segments=12).values[0] for x in X
    ]
    torch.testing.assert_close(together, torch.stack(alone))


def test_kernel_shap_cost():
    cost = xplain.attribute(CLASSIFIER, X, "kernel-shap", samples=7, segments=12).cost
    assert (cost.forwards, cost.backwards) == (3 * 9, 0)
