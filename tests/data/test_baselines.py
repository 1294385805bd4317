"""Tests of xplain.data.baselines."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from tests.helpers import toys
from xplain.core.rng import Streams
from xplain.data.baselines import make_baseline

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]


def baseline(kind: str, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return make_baseline(kind, x, MEAN, Streams.of(x, seed, "m"))


def test_constant_baselines():
    x = toys.images(2, 3, 4)
    assert (baseline("black", x) == 0).all()
    assert (baseline("white", x) == 1).all()
    assert baseline("mean", x)[1, :, 2, 3].tolist() == [0.485, 0.456, 0.406]
    for kind in ("black", "white", "mean", "blur", "uniform"):
        assert baseline(kind, x).shape == x.shape
        assert baseline(kind, x).dtype == x.dtype


def test_mean_baseline_normalizes_to_zero():
    model = toys.classifier(toys.small_net(), mean=[0.485, 0.456, 0.406], std=[0.2, 0.3, 0.4])
    x = make_baseline("mean", toys.images(1), model.mean, Streams.of(toys.images(1), 0, "m"))
    assert ((x - model.mean) / model.std).abs().max() == 0


def test_blur_baseline_equals_scipy():
    x = toys.images(2, 24, 30)
    expected = torch.tensor(gaussian_filter(x.numpy(), (0, 0, 5, 5), mode="reflect", truncate=4.0))
    assert (baseline("blur", x) - expected).abs().max() < 1e-12


def test_uniform_baseline_depends_on_image_and_seed():
    x = toys.images(3, 40, 50)
    noise = baseline("uniform", x)
    assert 0 < noise.min() < noise.max() < 1
    assert abs(noise.mean() - 0.5) < 4 * (1 / 12 / noise.numel()) ** 0.5
    assert torch.equal(noise[1:2], baseline("uniform", x[1:2]))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, baseline("uniform", x, seed=1))


def test_baselines_do_not_change_images():
    x = toys.images(1, 6, 6)
    before = x.clone()
    for kind in ("black", "white", "mean", "blur", "uniform"):
        baseline(kind, x)
    assert torch.equal(x, before)
    assert np.isfinite(baseline("blur", x)).all()
