"""The pixels of objects in images, of boxes or masks, and what metrics of localization have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds
from xplain.metrics.inputs import MetricInput

MaxShare = Annotated[float, Bounds(above=0, high=1)]
Difficult = Literal["keep", "ignore"]
CLEVR_XAI = Paper(
    "CLEVR-XAI: a benchmark dataset for the ground truth evaluation of neural network explanations",
    "Leila Arras, Ahmed Osman, Wojciech Samek",
    2022,
    "Information Fusion",
    "2003.07258",
    journal=True,
)
COVERED = 0.5 - 1e-9  # a pixel belongs to boxes that cover at least half of it


@dataclass(frozen=True, eq=False)
class Regions:
    """The pixels of the objects of a batch of images.

    inside: (B, H·W) pixels of the object. counted: (B, H·W) pixels that are not ignored.
    undefined: masks (B,) of the images without an object, by reason.
    """

    inside: Tensor
    counted: Tensor
    undefined: dict[str, Tensor]

    @property
    def sizes(self) -> Tensor:
        """(B,) number of pixels of the object."""
        return self.inside.sum(dim=1)

    @property
    def totals(self) -> Tensor:
        """(B,) number of pixels that are not ignored."""
        return self.counted.sum(dim=1)

    @property
    def shares(self) -> Tensor:
        """(B,) float64 share of the object in the pixels that are not ignored; NaN if all are ignored."""
        return self.sizes.double() / self.totals.double()

    def mask_undefined(self, values: Tensor, reasons: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return values (B,) with NaN where a reason applies, and all reasons; the first that applies to an image is the one given."""
        given: dict[str, Tensor] = {}
        is_undefined = torch.zeros_like(values, dtype=torch.bool)
        for reason, mask in (self.undefined | reasons).items():
            given[reason] = mask & ~is_undefined
            is_undefined = is_undefined | mask
        return values.masked_fill(is_undefined, torch.nan), given


def find_regions(inputs: MetricInput, metric: str, max_share: float = 1.0) -> Regions:
    """Return the pixels of the objects. Raises UsageError unless there are either boxes or masks.

    max_share: images whose object has a larger share of the pixels are undefined.
    """
    check_annotations(inputs, metric)
    if inputs.masks is not None:
        noun = "mask"
        masks = inputs.masks.to(inputs.images.device).flatten(2)
        inside = (masks == 1).any(dim=1)
        is_missing = masks.isnan().all(dim=2).all(dim=1)
        counted = inside | ~masks.isnan().any(dim=1)
    else:
        assert inputs.boxes is not None
        noun = "box"
        inside = fill_boxes(inputs.boxes, *inputs.images.shape[-2:]).flatten(1).to(inputs.images.device)
        is_missing = inputs.boxes.isnan().all(dim=2).all(dim=1).to(inside.device)
        counted = torch.ones_like(inside)
    is_empty = ~inside.any(dim=1) & ~is_missing
    shares = inside.sum(dim=1) / counted.sum(dim=1)
    reasons = {
        f"the image has no {noun} of the target": is_missing,
        f"the {noun} of the target covers no pixel of the crop": is_empty,
    }
    if max_share < 1:
        reasons[f"the object covers more than {max_share:g} of the image"] = shares > max_share
    return Regions(inside, counted, reasons)


def check_annotations(inputs: MetricInput, metric: str) -> None:
    """Raise UsageError unless the input has either boxes or masks."""
    if inputs.boxes is None and inputs.masks is None:
        raise UsageError(
            f"{metric} requires object boxes or masks", "set boxes=FILE or masks=PATH, or pass a tensor in Python"
        )
    if inputs.boxes is not None and inputs.masks is not None:
        raise UsageError(f"{metric} accepts either boxes or masks", "remove one of them")


def fill_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the pixels (B, height, width) of which boxes cover at least half, all boxes of an image together.

    boxes: (B, N, 4) left, top, right and bottom edges; unused rows are NaN.
    """
    filled = [_measure_union(rows[~rows.isnan().any(dim=1)], height, width) for rows in boxes.double().cpu()]
    return torch.stack(filled) >= COVERED


def _measure_union(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the area (height, width) of each pixel that boxes (N, 4) cover together."""
    left, top, right, bottom = boxes.unbind(dim=1)
    xs = _split_axis(torch.cat([left, right]), width)
    ys = _split_axis(torch.cat([top, bottom]), height)
    center_x, center_y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2
    covered = torch.zeros((len(center_y), len(center_x)), dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        covered |= ((center_y > y0) & (center_y < y1))[:, None] & ((center_x > x0) & (center_x < x1))
    areas = covered * ys.diff()[:, None] * xs.diff()
    rows = torch.zeros((height, len(center_x)), dtype=areas.dtype).index_add_(0, center_y.long(), areas)
    return torch.zeros((height, width), dtype=areas.dtype).index_add_(1, center_x.long(), rows)


def _split_axis(edges: Tensor, side: int) -> Tensor:
    """Return the sorted edges of pixels and boxes on an axis, each once."""
    return torch.cat([torch.arange(side + 1, dtype=edges.dtype), edges.clamp(0, side)]).unique()


def sum_channels(inputs: MetricInput) -> Tensor:
    """Return the attributions of pixels (B, H·W) in float64: the signed sums over channels."""
    return inputs.attributions.double().sum(dim=1).flatten(1)


def find_constant_maps(values: Tensor, counted: Tensor) -> Tensor:
    """Return which maps (B, N) have equal values in all pixels that are counted (B, N): (B,)."""
    highest = values.masked_fill(~counted, -torch.inf).amax(dim=1)
    lowest = values.masked_fill(~counted, torch.inf).amin(dim=1)
    return highest <= lowest
