"""Scores of images from which one part at a time is removed."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.types import ScoreKind
from xplain.metrics.inputs import MetricInput


def scores_without_parts(
    inputs: MetricInput, part_of_pixel: Tensor, parts: int, fill: Tensor, kind: ScoreKind | None = None
) -> Tensor:
    """Return the scores (B, parts) of the images from which each part is removed alone, in float64.

    part_of_pixel: (B or 1, 1, H, W) the index of the part of each pixel. fill: (B, C, H, W) what replaces removed pixels.
    kind: the kind of score; defaults to that of the oracle.
    """
    images = inputs.images
    part_of_pixel = part_of_pixel.expand(len(images), -1, -1, -1)
    scores = torch.zeros(len(images), parts, dtype=torch.float64, device=images.device)
    for block in inputs.oracle.blocks(images, parts):
        part = block.point_indices(images.device)[None, :, None, None, None]
        is_removed = part_of_pixel[block.images, None] == part
        points = torch.where(is_removed, fill[block.images, None], images[block.images, None])
        scores[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y, kind).double()
    return scores


def assign_even_parts(length: int, parts: int, device: torch.device) -> Tensor:
    """Return the part 0 .. ``parts`` - 1 (length,) of each of ``length`` places; part k begins at round(k·length / parts)."""
    edges = torch.tensor([round(k * length / parts) for k in range(1, parts)], dtype=torch.long, device=device)
    return torch.searchsorted(edges, torch.arange(length, device=device), right=True)


def pixel_values(attributions: Tensor) -> Tensor:
    """Return the sums over channels (B, H, W) of attributions (B, C, H, W) in float64, divided by the map's largest magnitude.

    Sums of the largest floats do not overflow. Zero maps stay zero.
    """
    values = attributions.double()
    largest = values.abs().amax(dim=(1, 2, 3), keepdim=True)
    return (values / largest.where(largest > 0, 1)).sum(dim=1)
