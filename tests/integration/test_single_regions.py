"""The patch test of the table of models: maps in the right order pass, and scrambled ones fail."""

from __future__ import annotations

import pytest
import torch

import xplain
from tests.helpers import single_regions, small_models
from tests.helpers.single_regions import GRID, REGIONS, keeps_places, layer_keeps_places, map_keeps_places
from tests.helpers.token_networks import ordered_tokens
from xplain.core.errors import XplainError
from xplain.core.registry import METHODS

CAMS = [spec.name for spec in METHODS if "layer" in spec.parameters and spec.name != "guided-grad-cam"]
ATTENTION = ["attention-rollout", "attention-relevance", "legrad"]
OWN_CELL = torch.eye(len(REGIONS), dtype=torch.float64)


@pytest.mark.parametrize("method", CAMS)
def test_maps_of_convolutions_are_in_order(method):
    classifier = xplain.load_classifier(small_models.four_channels(), device="cpu")
    assert map_keeps_places(method, classifier, {})


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_maps_of_tokens_are_in_order(order):
    classifier = ordered_tokens((64, 64), order, before=1)
    assert layer_keeps_places(classifier)
    assert all(map_keeps_places(method, classifier, {}) for method in ATTENTION)


def test_wrong_order_of_tokens_is_found():
    """Tokens that lie column by column are read row by row if the user says so."""
    classifier = ordered_tokens((64, 64), "columns", before=1)
    stated = {"layout": "8x8+1"}
    assert not any(map_keeps_places(method, classifier, stated) for method in ATTENTION)


def test_random_order_of_tokens_is_refused():
    classifier = ordered_tokens((64, 64), "random", before=1)
    with pytest.raises(XplainError, match="order"):
        layer_keeps_places(classifier)


def test_most_permutations_fail():
    generator = torch.Generator().manual_seed(0)
    permutations = [torch.randperm(len(REGIONS), generator=generator) for _ in range(500)]
    assert keeps_places(OWN_CELL)
    assert sum(keeps_places(OWN_CELL[permutation]) for permutation in permutations) / 500 < 0.01


@pytest.mark.parametrize("change", [lambda grid: grid.mT, lambda grid: grid.flip(0), lambda grid: grid.flip(1)])
def test_mirrored_maps_fail(change):
    cells = change(torch.arange(GRID * GRID).reshape(GRID, GRID)).flatten()
    assert not keeps_places(OWN_CELL[cells])


def test_only_one_region_changes_in_each_image():
    images = single_regions.make_images((16, 24), 2, seed=0)
    changed = (images[1:] != images[:1]).any(dim=1)
    for mask, (row, column) in zip(changed, REGIONS, strict=True):
        expected = torch.zeros(16, 24, dtype=torch.bool)
        expected[4 * row : 4 * row + 4, 6 * column : 6 * column + 6] = True
        assert torch.equal(mask, expected)
