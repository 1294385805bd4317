"""Pointing game: whether the highest value of a map lies on the object."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, ExistingPath
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._regions import Difficult, MaxShare, Regions, check_annotations, find_regions
from xplain.metrics.inputs import MetricInput


@metric(
    "pointing-game",
    better="higher",
    has_chance=True,
    unit="hit",
    version=2,
    added=frozenset(("masks", "max_share", "categories", "difficult")),
    undefined="where the image has no object of the target in the crop",
    paper=Paper(
        "Top-down neural attention by excitation backprop",
        "Jianming Zhang, Zhe Lin, Jonathan Brandt, Xiaohui Shen, Stan Sclaroff",
        2016,
        "ECCV",
        "1608.00507",
    ),
)
def pointing_game(
    inputs: MetricInput,
    *,
    boxes: ExistingPath | None = None,
    tolerance: Annotated[float, Bounds(low=0)] = 15.0,
    masks: ExistingPath | None = None,
    max_share: MaxShare = 1.0,
    categories: ExistingPath | None = None,
    difficult: Difficult = "keep",
) -> Score:
    """Test whether the pixel with the highest attribution lies on an object of the target's class: 1 or 0.

    The pixel is the first maximum, in raster order, of the sum over channels. It hits if its center is at most ``tolerance``
    pixels of the model input away from a box, or from the square of a pixel of a mask. The chance level is the share of such pixels.
    The mean over images equals the paper's accuracy if all classes are equally frequent; the paper averages the
    accuracies of the classes, as the summary by class does. Undefined (NaN) where no object of the target is visible.

    boxes: a CSV file with the columns image, x0, y0, x1, y1 in pixels of the upright file, and an optional class, which limits
    a box to that target; or a folder of XML files (ImageNet, Pascal VOC). Boxes are resized and cropped like the image. In the
    library also a tensor (B, N, 4) in pixels of the images, padded with NaN.
    tolerance: largest distance from the object, in pixels of the model input.
    masks: a folder of PNG masks named after the images (binary, class indices as in Pascal VOC, or ImageNet-S), a COCO JSON file, or
    a folder of Pascal VOC XML files. Masks are turned, resized and cropped like the image; a pixel of the model input belongs to a mask
    that covers at least half of it. Masks without categories count for every target. In the library also a tensor
    (B, M, H, W) of 0 and 1, with NaN for ignored pixels.
    max_share: images whose object covers a larger share of the pixels are undefined (0.25 for the difficult images of the paper).
    categories: a CSV file with the columns category and class, for masks whose categories are no classes of the model.
    difficult: ``ignore`` ignores the pixels of objects that Pascal VOC marks as difficult; requires a folder of its XML files, as ``masks``
    or as ``boxes``, which are then read as masks.
    """
    check_annotations(inputs, "pointing-game")
    if inputs.masks is not None:
        return _play_with_masks(inputs, tolerance, find_regions(inputs, "pointing-game", max_share))
    regions = find_regions(inputs, "pointing-game", max_share) if max_share < 1 else None
    return _play_with_boxes(inputs, tolerance, regions)


def _play_with_masks(inputs: MetricInput, tolerance: float, regions: Regions) -> Score:
    """Return the hits on masks. Ignored pixels are not the highest."""
    height, width = inputs.images.shape[-2:]
    sums = inputs.attributions.sum(dim=1).flatten(1)
    highest = sums.masked_fill(~regions.counted, -torch.inf).argmax(dim=1)
    near = _dilate(regions.inside.unflatten(1, (height, width)), tolerance).flatten(1)
    values, reasons = regions.mask_undefined(near.gather(1, highest[:, None])[:, 0].double(), {})
    chance = (near & regions.counted).sum(dim=1) / regions.totals.double()
    return Score(values, undefined=reasons, chance=chance)


def _dilate(pixels: Tensor, tolerance: float) -> Tensor:
    """Return the pixels (B, H, W) whose centers are at most ``tolerance`` away from the square of a given one.

    A row that is dr away reaches columns up to w(dr) away, with max(dr - 1/2, 0)² + (w - 1/2)² <= tolerance².
    """
    height, width = pixels.shape[1:]
    counts = torch.nn.functional.pad(pixels.long().cumsum(dim=2), (1, 0))
    columns = torch.arange(width, device=pixels.device)
    near = torch.zeros_like(pixels)
    for row in range(min(height - 1, math.floor(tolerance + 0.5)) + 1):
        reach = _find_reach(max(row - 0.5, 0.0), tolerance, width)
        first, last = (columns - reach).clamp(min=0), (columns + reach + 1).clamp(max=width)
        has_pixel = counts[:, :, last] > counts[:, :, first]
        near[:, row:] |= has_pixel[:, : height - row]
        near[:, : height - row] |= has_pixel[:, row:]
    return near


def _find_reach(distance: float, tolerance: float, width: int) -> int:
    """Return how many columns away a pixel may be whose row is ``distance`` away."""
    reach = min(width - 1, math.floor(math.sqrt(max(tolerance**2 - distance**2, 0.0)) + 0.5) + 1)
    while reach > 0 and math.hypot(distance, reach - 0.5) > tolerance:
        reach -= 1
    return reach


def _play_with_boxes(inputs: MetricInput, tolerance: float, regions: Regions | None) -> Score:
    """Return the hits on boxes, whose edges may lie between pixels. regions: of images that are undefined if an object is too large."""
    assert inputs.boxes is not None
    height, width = inputs.images.shape[-2:]
    boxes = inputs.boxes.to(inputs.images)
    highest = inputs.attributions.sum(dim=1).flatten(1).argmax(dim=1)
    left, top, right, bottom = boxes.unbind(dim=2)
    is_visible = (right > 0) & (left < width) & (bottom > 0) & (top < height)
    distances = _measure_distances(boxes, highest % width + 0.5, highest // width + 0.5)
    hit = (is_visible & (distances <= tolerance)).any(dim=1)
    has_no_box = inputs.boxes.isnan().all(dim=2).all(dim=1).to(hit.device)
    is_outside = ~has_no_box & ~is_visible.any(dim=1)
    undefined = {
        "the image has no box of the target": has_no_box,
        "all boxes of the target are outside the crop": is_outside,
    }
    values = hit.double().masked_fill(has_no_box | is_outside, torch.nan)
    if regions is not None:
        *_, (reason, is_too_large) = regions.undefined.items()
        undefined[reason] = is_too_large
        values = values.masked_fill(is_too_large, torch.nan)
    return Score(values, undefined=undefined, chance=_find_box_chance(boxes, is_visible, tolerance, height, width))


def _measure_distances(boxes: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Return the distance (B, N) of a point per image, (B,) each coordinate, from boxes (B, N, 4)."""
    left, top, right, bottom = boxes.unbind(dim=2)
    distance_x = torch.maximum(left - column[:, None], column[:, None] - right).clamp(min=0)
    distance_y = torch.maximum(top - row[:, None], row[:, None] - bottom).clamp(min=0)
    return torch.hypot(distance_x, distance_y)


def _find_box_chance(boxes: Tensor, is_visible: Tensor, tolerance: float, height: int, width: int) -> Tensor:
    """Return the share (B,) of the pixels whose centers are near enough to a visible box."""
    rows = torch.arange(height, device=boxes.device).to(boxes) + 0.5
    columns = torch.arange(width, device=boxes.device).to(boxes) + 0.5
    near = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    for box, visible in zip(boxes.unbind(dim=1), is_visible.unbind(dim=1), strict=True):
        left, top, right, bottom = (edge[:, None] for edge in box.unbind(dim=1))
        distance_x = torch.maximum(left - columns, columns - right).clamp(min=0)
        distance_y = torch.maximum(top - rows, rows - bottom).clamp(min=0)
        near |= (torch.hypot(distance_y[:, :, None], distance_x[:, None, :]) <= tolerance) & visible[:, None, None]
    return near.flatten(1).double().mean(dim=1)
