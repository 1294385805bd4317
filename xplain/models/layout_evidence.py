"""Decide the layout of outputs by evidence: how each position of a layer responds to changes of image regions.

The images of ``make_stimuli`` show one of two textures in each cell of the image, as a random code of the cell says. A position
that depends on a cell varies over the images as the code of that cell does. The layout that assigns the positions to the cells,
or to the positions of a convolution whose layout is known, to which they respond most is accepted if chance does not explain it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from xplain.models.layouts import MAP_KINDS, Layout, MapKind, Order, Size

ROWS = 32  # images of the stimuli
CELLS = 16  # along the shorter side of the image
CHANNELS = 32  # outputs are projected to this number of channels
SAMPLES = 128  # positions of a layer that are judged
MAX_PREFIX = 16  # class and register tokens
MAX_RATIO = (
    4 / 3
)  # between the proportions of the image and those of the tokens' grid, unless a convolution has that grid
MIN_SCORE = 0.25
MIN_SCORE_TIMES_POSITIONS = 3  # three standard deviations of the score of a random order, which are 1 / positions each
CLEAR_SCORE = 0.5
MIN_NEAR = 0.5  # share of the positions that respond most to their own cell or one beside it
SMALL_GRID = 9  # with fewer positions, no order stands out from chance, and tokens are read row by row
MIN_LOST_ROW = 4  # tokens of a row of the grid
LOCAL = 1.5  # a position is local if it responds to a cell this much more than to any code that is not shown
CODE_SEED, UNUSED_CODE_SEED = 2, 3


class Responses(NamedTuple):
    """How the positions of a layer vary over the stimuli: features (ROWS, positions, channels), centered."""

    features: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Responses:
        """Center features over the images, and subtract the component that all positions share."""
        features = features.double()
        features = features - features.mean(dim=0)
        return cls(features - features.mean(dim=1, keepdim=True))

    def similarities(self, positions: Tensor) -> Tensor:
        """Return the products of each pair of images (positions, ROWS * ROWS), scaled to norm 1."""
        selected = self.features[:, positions]
        products = torch.einsum("rpk,spk->prs", selected, selected).flatten(1)
        return products / products.norm(dim=1, keepdim=True).clamp(min=torch.finfo(products.dtype).tiny)


@dataclass(frozen=True)
class Evidence:
    """The result for one layer.

    layout: None if no layout is accepted. score: of the best layout, 1 for a perfect fit and 0 for a random order.
    is_local: the positions respond to regions of the image, whatever their order.
    moves: the output depends on the image.
    """

    layout: Layout | None
    score: float = 0.0
    is_local: bool = False
    moves: bool = True


def make_stimuli(size: Size, channels: int) -> Tensor:
    """Return images (ROWS, channels, H, W) in [0, 1] that show one of two textures in each cell, as the code of the cell says."""
    generator = torch.Generator().manual_seed(1)
    grid = _cell_grid(size)
    rows, columns = (torch.arange(side) * cells // side for side, cells in zip(size, grid, strict=True))

    def draw_texture() -> Tensor:
        colors = torch.rand(channels, *grid, generator=generator)
        return (colors[:, rows][:, :, columns] + torch.rand(channels, *size, generator=generator)) / 2

    first, second = draw_texture(), draw_texture()
    codes = _make_codes(grid, CODE_SEED).T.reshape(ROWS, 1, *grid)
    return torch.where(codes[:, :, rows][:, :, :, columns] > 0, first, second)


def project(output: Tensor, dimension: int) -> Tensor:
    """Return an output (rows, ...) with its channels, which are moved to the end, projected to at most CHANNELS."""
    output = output.detach().movedim(dimension, -1)
    channels = output.shape[-1]
    if channels <= CHANNELS:
        return output.clone()
    generator = torch.Generator().manual_seed(channels)
    projection = torch.randn(channels, CHANNELS, generator=generator).to(output) / channels**0.5
    return output @ projection


def place_tokens(
    features: Tensor, size: Size, references: Mapping[Size, Responses], usual: Layout | None = None
) -> Evidence:
    """Return the layout of tokens.

    features: (ROWS, N, K) at the stimuli. references: responses of convolutions by grid, row by row.
    usual: the layout of other layers with N tokens, which is taken if it fits clearly. Otherwise grids of the convolutions are tried
    first, then all grids with about the proportions of the image.
    """
    responses = Responses.of(features)
    if not _moves(responses):
        return Evidence(None, moves=False)
    if usual is not None:
        evidence = _judge(responses, usual, size, references)
        if evidence.score >= CLEAR_SCORE and evidence.layout is not None:
            return evidence
    count = features.shape[1]
    known = [layout for grid in references for layout in _token_layouts(count, grid)]
    others = [
        layout for grid in token_grids(count, size) if grid not in references for layout in _token_layouts(count, grid)
    ]
    best = Evidence(None)
    for layouts in (known, others):
        judged = [_judge(responses, layout, size, references) for layout in layouts]
        accepted = max(judged, key=_preference, default=best)
        if accepted.layout is not None:
            return accepted
        best = max([best, *judged], key=lambda evidence: evidence.score)
    is_local = _are_local(responses, size)
    small = [layout for layout in known if layout.grid[0] * layout.grid[1] < SMALL_GRID and layout.order == "rows"]
    if small and count < SMALL_GRID + MAX_PREFIX:
        smallest = min(small, key=lambda layout: (layout.suffix > 0, layout.prefix + layout.suffix))
        if any(_is_shuffled(responses, layout, size) for layout in small):
            return Evidence(None, best.score, is_local=True)
        return Evidence(smallest, best.score, is_local)
    return Evidence(None, best.score, is_local)


def place_map(features: Mapping[MapKind, Tensor], size: Size, references: Mapping[Size, Responses]) -> Evidence:
    """Return the layout of a four-dimensional output.

    features: (ROWS, height, width, K) at the stimuli for each kind that is possible, channels-first or channels-last.
    """
    judged = []
    for kind in MAP_KINDS:
        if kind not in features:
            continue
        grid = (features[kind].shape[1], features[kind].shape[2])
        responses = Responses.of(features[kind].flatten(1, 2))
        if not _moves(responses):
            return Evidence(None, moves=False)
        layout = Layout(kind, grid)
        evidence = _judge(responses, layout, size, references)
        if len(features) == 1 and grid[0] * grid[1] < SMALL_GRID:
            evidence = replace(evidence, layout=layout)
        judged.append(evidence)
    accepted = [evidence for evidence in judged if evidence.layout is not None]
    return max(accepted or judged, key=lambda evidence: evidence.score)


def token_grids(count: int, size: Size) -> list[Size]:
    """Return the grids of patches among ``count`` tokens, MAX_PREFIX others at most, with about the image's proportions."""
    grids = []
    for others in range(min(MAX_PREFIX, count) + 1):
        patches = count - others
        for height in range(2, patches // 2 + 1):
            width = patches // height
            ratio = height * size[1] / (width * size[0])
            is_possible = patches % height == 0 and height <= size[0] and width <= size[1]
            if is_possible and 1 / MAX_RATIO <= ratio <= MAX_RATIO:
                grids.append((height, width))
    return grids


def _token_layouts(count: int, grid: Size) -> Iterator[Layout]:
    """Yield the layouts of ``count`` tokens with this grid: the other tokens before or after the patches, by rows or columns."""
    others = count - grid[0] * grid[1]
    if not 0 <= others <= MAX_PREFIX:
        return
    orders: tuple[Order, ...] = ("rows", "columns")
    for order in orders:
        yield Layout("tokens", grid, others, 0, order)
        if others:
            yield Layout("tokens", grid, 0, others, order)


def _preference(evidence: Evidence) -> float:
    """Return the score; of equal layouts, the usual order and few other tokens come first."""
    layout = evidence.layout
    if layout is None:
        return -1
    is_unusual = (layout.order == "columns") + (layout.suffix > 0)
    others = layout.prefix + layout.suffix  # the grid without its first rows also fits, shifted, and has more of them
    return evidence.score - 0.02 * is_unusual - min(0.03 * others, 0.15)


def _judge(responses: Responses, layout: Layout, size: Size, references: Mapping[Size, Responses]) -> Evidence:
    """Return the evidence for one layout; its ``layout`` is None if it is not accepted, and if the other tokens are patches too.

    A position matches a cell as their similarities over pairs of images do. The score is the mean over positions of the match
    with the own cell, in standard deviations over all cells, divided by its greatest possible value.
    """
    height, width = layout.grid
    count = height * width
    cells = _sample(count)
    positions = cells if layout.order == "rows" else cells % width * height + cells // width
    own = responses.similarities(layout.prefix + positions)
    expected = [_cell_similarities(size, layout.grid, CODE_SEED)]
    if layout.grid in references:
        expected.append(references[layout.grid].similarities(cells))
    best = Evidence(None, -1)
    others = torch.cat([torch.arange(layout.prefix), torch.arange(layout.patches.stop, responses.features.shape[1])])
    if layout.kind == "tokens" and len(others) >= MIN_LOST_ROW and _are_local(responses, size, others):
        return best  # a grid without its first or last row
    for similarities in expected:
        matches = own @ (similarities - similarities.mean(dim=0)).T
        deviations = matches - matches.mean(dim=1, keepdim=True)
        spread = deviations.norm(dim=1).clamp(min=torch.finfo(matches.dtype).tiny)
        score = (deviations.diag() / spread).mean().item() * (len(cells) / (len(cells) - 1)) ** 0.5
        found = cells[matches.argmax(dim=1)]
        distances = torch.maximum((found // width - cells // width).abs(), (found % width - cells % width).abs())
        is_near = (distances <= 1).double().mean().item() >= MIN_NEAR
        is_accepted = is_near and score >= max(MIN_SCORE, MIN_SCORE_TIMES_POSITIONS / count)
        if score > best.score:
            best = Evidence(layout if is_accepted else None, score)
    return best


def _is_shuffled(responses: Responses, layout: Layout, size: Size) -> bool:
    """Return whether each position of a small grid clearly matches a cell, all match different ones, and not in this order."""
    cells = torch.arange(layout.grid[0] * layout.grid[1])
    similarities = _cell_similarities(size, layout.grid, CODE_SEED)
    matches = responses.similarities(layout.prefix + cells) @ (similarities - similarities.mean(dim=0)).T
    deviations = matches - matches.mean(dim=1, keepdim=True)
    spread = deviations.norm(dim=1).clamp(min=torch.finfo(matches.dtype).tiny)
    greatest, found = deviations.max(dim=1)
    score = (greatest / spread).mean().item() * (len(cells) / (len(cells) - 1)) ** 0.5
    return score >= CLEAR_SCORE and len(found.unique()) == len(cells) and not torch.equal(found, cells)


def _are_local(responses: Responses, size: Size, positions: Tensor | None = None) -> bool:
    """Return whether at least half of the positions respond to a region of the image more than to any code that is not shown.

    positions: indices; None: a sample of all, which must be SMALL_GRID or more.
    """
    count = responses.features.shape[1]
    if positions is None:
        if count < SMALL_GRID:
            return False
        positions = _sample(count)
    height = max(round((count * size[0] / size[1]) ** 0.5), 1)
    grid = (min(height, size[0]), min(max(count // height, 1), size[1]))
    own = responses.similarities(positions)
    shown, unused = (
        (own @ _cell_similarities(size, grid, seed).T).amax(dim=1) for seed in (CODE_SEED, UNUSED_CODE_SEED)
    )
    return (shown > LOCAL * unused).double().mean().item() >= 0.5


def _moves(responses: Responses) -> bool:
    """Return whether the output is finite and depends on the image."""
    return bool(responses.features.isfinite().all()) and bool((responses.features != 0).any())


def _cell_grid(size: Size) -> Size:
    """Return the number of rows and columns of cells: about square ones, at least one pixel each."""
    side = max(min(size) / CELLS, 1)
    return max(round(size[0] / side), 1), max(round(size[1] / side), 1)


def _make_codes(grid: Size, seed: int) -> Tensor:
    """Return a balanced code (cells, ROWS) of 1 and -1 per cell."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(grid[0] * grid[1], ROWS, generator=generator).argsort(dim=1)
    return torch.where(order < ROWS // 2, 1.0, -1.0).double()


def _sample(count: int) -> Tensor:
    """Return at most SAMPLES of ``count`` positions, always the same, in increasing order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:SAMPLES].sort().values


@lru_cache(maxsize=64)
def _cell_similarities(size: Size, grid: Size, seed: int) -> Tensor:
    """Return the expected similarities (samples, ROWS * ROWS) of positions of a grid over the image: those of its codes."""
    positions = _sample(grid[0] * grid[1])
    cells = _cell_grid(size)
    codes = _make_codes(cells, seed)
    products = (codes[:, :, None] * codes[:, None]).flatten(1)
    vertical, horizontal = (_overlaps(parts, whole) for parts, whole in zip(grid, cells, strict=True))
    shares = vertical[positions // grid[1], :, None] * horizontal[positions % grid[1], None]
    similarities = shares.flatten(1) @ products
    return similarities / similarities.norm(dim=1, keepdim=True)


def _overlaps(parts: int, cells: int) -> Tensor:
    """Return the share (parts, cells) of each part of a side that lies in each cell."""
    part_edges = torch.linspace(0, 1, parts + 1, dtype=torch.float64)
    cell_edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    starts = torch.maximum(part_edges[:-1, None], cell_edges[:-1])
    ends = torch.minimum(part_edges[1:, None], cell_edges[1:])
    return (ends - starts).clamp(min=0) * parts
