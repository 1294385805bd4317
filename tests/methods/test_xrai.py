"""Tests of XRAI: against its definition and PAIR's program; its parts tile the image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference import xrai as reference
from tests.reference.integrated_gradients import integrated_gradients
from xplain.methods._segmentation import find_regions
from xplain.methods.xrai import partition

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = F.interpolate(toys.images(2, 4, 5), scale_factor=10, mode="bilinear") + toys.images(2, 40, 50) / 100  # no ties
REGIONS = find_regions(X)


def values_of(image: torch.Tensor, steps: int, reduce: str) -> torch.Tensor:
    """Return the integrated gradients from black and white, averaged and reduced over the channels."""
    f = gradients.logit(NETWORK, 1)
    both = [integrated_gradients(f, image, torch.full_like(image, end), steps, "gauss-legendre") for end in (0.0, 1.0)]
    mean = (both[0] + both[1]) / 2
    return mean.amax(dim=0) if reduce == "max" else mean.sum(dim=0)


def random_masks(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values (20, 24) and 25 overlapping rectangles."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(25, 20, 24, dtype=torch.bool)
    for mask in masks:
        top, left = rng.integers(0, 14), rng.integers(0, 18)
        mask[top : top + rng.integers(4, 12), left : left + rng.integers(4, 14)] = True
    return torch.from_numpy(rng.normal(size=(20, 24))), masks


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("reduce", ["max", "sum"])
def test_xrai_equals_reference(reduce, fast):
    attribution = xplain.attribute(CLASSIFIER, X, "xrai", target=1, steps=4, fast=fast, reduce=reduce)
    for k, image in enumerate(X):
        values = values_of(image, 4, reduce).numpy()
        expected = reference.xrai(values, [mask.numpy() for mask in REGIONS[k]], fast=fast)
        np.testing.assert_allclose(attribution.values[k, 0], expected, atol=1e-12)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_partition_equals_pair(seed, fast):
    pair = pytest.importorskip("saliency.core.xrai")
    values, masks = random_masks(seed)
    program = pair.XRAI._xrai_fast if fast else pair.XRAI._xrai
    theirs, _ = program(attr=values.numpy(), segs=[mask.numpy() for mask in masks])
    part = partition(values, masks, fast)
    means = [values[part == index].mean() if (part == index).any() else values[0, 0] for index in range(26)]
    averaged = torch.stack(means)[part]
    np.testing.assert_allclose(averaged, theirs, atol=1e-12)


def test_find_regions_equals_pair():
    pair = pytest.importorskip("saliency.core.xrai")
    theirs = pair._get_segments_felzenszwalb(X[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.stack([mask for mask in theirs if mask.any()]), REGIONS[0].numpy())


@pytest.mark.parametrize("fast", [False, True])
def test_partition_tiles_the_image(fast):
    values, masks = random_masks(7)
    part = partition(values, masks, fast)
    sizes = part.flatten().bincount()
    assert int(sizes.sum()) == part.numel()
    assert (sizes[1:] >= 50).all()
    for index in range(1, int(part.max()) + 1):  # a part is one region without the parts before it
        earlier = (part > 0) & (part < index)
        assert any(torch.equal(mask & ~earlier, part == index) for mask in masks)


@pytest.mark.parametrize("fast", [False, True])
def test_xrai_keeps_the_sum(fast):
    attribution = xplain.attribute(CLASSIFIER, X, "xrai", target=1, steps=4, fast=fast)
    for value, image in zip(attribution.values, X, strict=True):
        torch.testing.assert_close(value.sum(), values_of(image, 4, "max").sum())


def test_xrai_sum_of_channels_is_complete():
    attribution = xplain.attribute(CLASSIFIER, X[:1, :, :24, :24], "xrai", target=1, steps=40, reduce="sum")
    assert float(attribution.gap.abs()) < 0.02 * float(attribution.expected.abs())


def test_xrai_single_region_is_constant():
    values, _ = random_masks(1)
    for fast in (False, True):
        assert partition(values, torch.ones(1, 20, 24, dtype=torch.bool), fast).unique().tolist() == [1]
    maps = xplain.attribute(CLASSIFIER, torch.full_like(X, 0.4), "xrai", target=1, steps=3).values
    assert (maps.amax(dim=(1, 2, 3)) == maps.amin(dim=(1, 2, 3))).all()


def test_xrai_small_image_is_one_part():
    attribution = xplain.attribute(CLASSIFIER, X[..., :6, :8], "xrai", target=1, steps=3)
    assert attribution.details["regions"].tolist() == [1, 1]
