"""Whether the cells of a map lie where the image shows them: change single regions of an image, and find where its map changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xplain
from xplain.oracle import Oracle

GRID = 4  # cells per side
REGIONS = [(row, column) for row in range(GRID) for column in range(GRID)]
CORRELATION = 0.5  # smallest correlation between the positions of changed regions and of changed cells, along both axes

SEEDS = 4  # number of images that are tried


def layer_keeps_places(classifier: xplain.Classifier) -> bool:
    """Return whether the cells of the layer that CAM methods read lie where the image shows them.

    All channels of the layer are used, because the weights of the channels, which differ between images, hide the places in a map.
    """

    def read(images: Tensor) -> Tensor:
        target = torch.zeros(len(images), dtype=torch.long)
        return Oracle(classifier).probe(images, target, differentiate=False).activations

    return _keeps_places(read, classifier)


def map_keeps_places(method: str, classifier: xplain.Classifier, settings: Mapping[str, Any]) -> bool:
    """Return whether the cells of a method's maps of class 0 lie where the image shows them."""

    def explain(images: Tensor) -> Tensor:
        return xplain.attribute(classifier, images, method, target=0, **settings).values

    return _keeps_places(explain, classifier)


def _keeps_places(read: Callable[[Tensor], Tensor], classifier: xplain.Classifier) -> bool:
    """Return whether ``keeps_places`` holds for maps that are read from images, with the changes averaged over up to SEEDS images."""
    total = torch.zeros(len(REGIONS), GRID * GRID, dtype=torch.float64)
    for seed in range(SEEDS):
        images = make_images(classifier.size, classifier.input_channels, seed)
        total += relative_changes(read(images.to(classifier.dtype)))
        if keeps_places(total):
            return True
    return False


def keeps_places(changes: Tensor) -> bool:
    """Return whether each region changes mostly its own cell. changes: (regions, cells).

    This holds if most regions change their own cell or one beside it most, and if the rows and the columns of these cells are correlated
    with those of the regions.
    """
    peaks = changes.argmax(dim=1)
    found = torch.stack([peaks // GRID, peaks % GRID], dim=1).double()
    expected = torch.tensor(REGIONS, dtype=torch.float64)
    is_near = (found - expected).abs().amax(dim=1) <= 1
    rows, columns = (_correlation(found[:, axis], expected[:, axis]) for axis in (0, 1))
    return float(is_near.double().mean()) > 0.5 and min(rows, columns) >= CORRELATION


def relative_changes(maps: Tensor) -> Tensor:
    """Return how much each region changes each cell of a map, (regions, cells), as logarithms without the mean of each cell and region.

    The means are subtracted because global operations (attention, squeeze-and-excitation, weights of channels) change all cells.
    maps: (1 + regions, channels, height, width), as of ``make_images``.
    """
    values = maps.double()
    changes = F.adaptive_avg_pool2d((values[1:] - values[:1]).square().sum(dim=1, keepdim=True), GRID).flatten(1)
    floor = changes.amax(dim=1, keepdim=True) * 1e-12
    logarithms = changes.clamp(min=floor.clamp(min=torch.finfo(changes.dtype).tiny)).log()
    return logarithms - logarithms.mean(dim=0, keepdim=True) - logarithms.mean(dim=1, keepdim=True)


def make_images(size: tuple[int, int], channels: int, seed: int) -> Tensor:
    """Return an image of noise, followed by copies with other noise in one region each: (1 + regions, channels, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(1, channels, *size, generator=generator).repeat(1 + len(REGIONS), 1, 1, 1)
    for image, (row, column) in zip(images[1:], REGIONS, strict=True):
        region = image[:, _span(row, size[0]), _span(column, size[1])]
        region.copy_(torch.rand(region.shape, generator=generator))
    return images


def _span(index: int, side: int) -> slice:
    """Return the pixels of a region along one axis."""
    return slice(index * side // GRID, (index + 1) * side // GRID)


def _correlation(found: Tensor, expected: Tensor) -> float:
    """Return Pearson's correlation, 0 if a value is constant."""
    return float(torch.corrcoef(torch.stack([found, expected]))[0, 1].nan_to_num())
