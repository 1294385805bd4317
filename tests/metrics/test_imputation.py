"""Linear imputation against a dense solve, on ramps, and by the maximum principle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers import toys
from tests.reference import road as reference
from xplain.metrics import _imputation as imputation
from xplain.metrics._imputation import impute

X = toys.images(3)


def make_random_mask(share: float, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, height, width, generator=generator) < share


@pytest.mark.parametrize(("height", "width"), [(8, 10), (7, 9), (2, 5), (13, 4)])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_impute_matches_dense_solve(height, width, share):
    images = toys.images(4, height, width)
    masks = torch.cat([make_random_mask(share, height, width, seed) for seed in range(4)])
    masks[:, :, 0, 0] = False
    imputed = impute(images, masks)
    for i in range(4):
        expected = reference.imputed(images[i], masks[i, 0])
        assert float((imputed[i] - expected).abs().max()) < 1e-5
        assert torch.equal(imputed[i][:, ~masks[i, 0]], images[i][:, ~masks[i, 0]])


def test_impute_keeps_complete_images():
    assert torch.equal(impute(X, torch.zeros(3, 1, 8, 10, dtype=torch.bool)), X)


def test_impute_restores_linear_ramp():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="ij")
    ramp = (0.2 + 0.01 * rows + 0.005 * columns).double().expand(1, 3, 40, 30)
    inside = torch.zeros(1, 1, 40, 30, dtype=torch.bool)
    inside[..., 1:-1, 1:-1] = True
    for missing in (inside, inside & make_random_mask(0.7, 40, 30)):
        assert float((impute(ramp, missing) - ramp).abs().max()) < 2e-5


def test_impute_flattens_missing_border():
    ramp = torch.arange(30.0).double().expand(1, 3, 20, 30)
    missing = torch.zeros(1, 1, 20, 30, dtype=torch.bool)
    missing[..., -1] = True
    assert float((impute(ramp, missing) - ramp)[..., -1].max()) < -0.9


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_impute_obeys_maximum_principle(share):
    images = toys.images(2, 33, 41)
    missing = torch.cat([make_random_mask(share, 33, 41, seed) for seed in (1, 2)])
    imputed = impute(images, missing)
    for i in range(2):
        for channel in range(3):
            known = images[i, channel][~missing[i, 0]]
            new = imputed[i, channel][missing[i, 0]]
            assert known.min() - 1e-5 < new.min() <= new.max() < known.max() + 1e-5


def test_impute_from_single_pixel(monkeypatch):
    monkeypatch.setattr(imputation, "MAX_ITERATIONS", 150)
    missing = torch.ones(1, 1, 96, 96, dtype=torch.bool)
    missing[..., 20, 70] = False
    image = toys.images(1, 96, 96)
    expected = image[..., 20:21, 70:71].expand_as(image)
    assert float((impute(image, missing) - expected).abs().max()) < 1e-4


def test_impute_is_independent_of_batch():
    masks = torch.cat([make_random_mask(share, 8, 10) for share in (0.1, 0.5, 0.95)])
    together = impute(X, masks)
    for i in range(3):
        toys.assert_same(together[i], impute(X[i : i + 1], masks[i : i + 1])[0])
