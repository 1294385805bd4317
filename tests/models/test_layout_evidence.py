"""The evidence for layouts, on features whose dependence on the image is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.models.layout_evidence import ROWS, Responses, make_stimuli, place_map, place_tokens, token_grids
from xplain.models.layouts import Layout

SIZE = (48, 80)
GRID = (6, 10)


def patches() -> Tensor:
    """Return a projection (ROWS, 60, 12) of the patches of 8 x 8 pixels, row by row."""
    weight = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.conv2d(make_stimuli(SIZE, 3), weight, stride=8).flatten(2).mT


def with_others(tokens: Tensor, before: int, after: int) -> Tensor:
    """Return the tokens with others that depend on all patches."""
    mean = tokens.mean(dim=1, keepdim=True)
    return torch.cat([mean.expand(-1, before, -1), tokens, mean.expand(-1, after, -1)], dim=1)


def test_stimuli_show_one_of_two_textures_per_cell():
    stimuli = make_stimuli((32, 32), 4)
    assert stimuli.shape == (ROWS, 4, 32, 32)
    assert 0 <= stimuli.min() < 0.05
    assert 0.95 < stimuli.max() <= 1
    cells = stimuli.unflatten(2, (16, 2)).unflatten(4, (16, 2)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1).flatten(2)
    for cell in cells[::17]:
        different = cell.unique(dim=0)
        assert len(different) == 2
        assert (cell == different[0]).all(dim=1).sum() == ROWS // 2
    assert torch.equal(stimuli, make_stimuli((32, 32), 4))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (5, 0), (0, 1)])
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("mixing", [0, 3])
def test_place_tokens(before, after, order, mixing):
    tokens = patches()
    if order == "columns":
        tokens = tokens.unflatten(1, GRID).transpose(1, 2).flatten(1, 2)
    tokens = tokens + mixing * tokens.mean(dim=1, keepdim=True)  # attention adds the same to all tokens
    evidence = place_tokens(with_others(tokens, before, after), SIZE, {})
    assert evidence.layout == Layout("tokens", GRID, before, after, order)
    assert evidence.score > 0.8


@pytest.mark.parametrize("prefix", [0, 1])
def test_random_order_is_not_placed(prefix):
    permutation = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    evidence = place_tokens(with_others(patches()[:, permutation], prefix, 0), SIZE, {GRID: Responses.of(patches())})
    assert evidence.layout is None
    assert evidence.is_local
    assert evidence.score < 0.2


def test_tokens_without_positions_are_not_local():
    mixing = torch.randn(60, 60, generator=torch.Generator().manual_seed(1))
    evidence = place_tokens(mixing @ patches(), SIZE, {})
    assert (evidence.layout, evidence.is_local, evidence.moves) == (None, False, True)


def test_constant_tokens_do_not_move():
    evidence = place_tokens(torch.ones(ROWS, 60, 4), SIZE, {})
    assert (evidence.layout, evidence.moves) == (None, False)
    assert not place_tokens(torch.full((ROWS, 60, 4), torch.nan), SIZE, {}).moves


def test_reference_places_tokens_with_wide_receptive_fields():
    """Positions that see most of the image are told apart by a convolution with the same receptive fields."""
    wide = F.avg_pool2d(patches().mT.unflatten(2, GRID), 5, stride=1, padding=2).flatten(2).mT
    mixed = wide + 0.5 * wide.flip(1)
    references = {GRID: Responses.of(wide)}
    assert place_tokens(mixed, SIZE, references).layout == Layout("tokens", GRID)


def test_maps_are_placed_by_evidence():
    values = patches()[:, :, :10].unflatten(1, GRID)  # (ROWS, 6, 10, 10): both kinds fit the shape
    wrong = values.permute(0, 3, 1, 2)  # channels and rows as positions
    assert place_map({"channels-first": values, "channels-last": wrong}, SIZE, {}).layout == Layout(
        "channels-first", GRID
    )
    assert place_map({"channels-first": wrong, "channels-last": values}, SIZE, {}).layout == Layout(
        "channels-last", GRID
    )
    assert place_map({"channels-last": wrong}, SIZE, {}).layout is None


@pytest.mark.parametrize(
    ("count", "size", "grids"),
    [(49, (224, 224), [(7, 7), (6, 8), (8, 6), (6, 7), (7, 6), (6, 6), (5, 7), (7, 5)]), (2, (64, 64), [])],
)
def test_token_grids_have_the_proportions_of_the_image(count, size, grids):
    found = token_grids(count, size)
    assert set(found) == {grid for grid in grids if 3 / 4 <= grid[0] / grid[1] <= 4 / 3}
    assert all(0 <= count - height * width <= 16 for height, width in found)
