"""Pointing game: whether the highest value of a map lies on the object."""

from __future__ import annotations

from typing import Annotated

import torch

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, ExistingPath
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput


@metric(
    "pointing-game",
    better="higher",
    unit="hit",
    version=2,
    undefined="where the image has no box of the target, or no box overlaps the crop",
    paper=Paper(
        "Top-down neural attention by excitation backprop",
        "Jianming Zhang, Zhe Lin, Jonathan Brandt, Xiaohui Shen, Stan Sclaroff",
        2016,
        "ECCV",
        "1608.00507",
    ),
)
def pointing_game(
    inputs: MetricInput, *, boxes: ExistingPath | None = None, tolerance: Annotated[float, Bounds(low=0)] = 15.0
) -> Score:
    """Test whether the pixel with the highest attribution lies on an object of the target's class: 1 or 0.

    The pixel is the first maximum, in raster order, of the sum over channels. It hits if its center is at most ``tolerance``
    pixels of the model input away from a box.
    boxes: a CSV file with the columns image, x0, y0, x1, y1 in pixels of the upright file, and an optional class, which limits
    a box to that target; or a folder of XML files (ImageNet, Pascal VOC). Boxes are resized and cropped like the image. In the
    library also a tensor (B, N, 4) in pixels of the images, padded with NaN.
    The mean over images equals the paper's accuracy if all classes are equally frequent; the paper averages the
    accuracies of the classes. Undefined (NaN) where no box of the target is visible.
    """
    if inputs.boxes is None:
        raise UsageError("pointing-game requires object boxes", "set boxes=FILE, or pass a boxes tensor in Python")
    height, width = inputs.images.shape[-2:]
    highest = inputs.attributions.sum(dim=1).flatten(1).argmax(dim=1)
    column, row = (highest % width + 0.5)[:, None], (highest // width + 0.5)[:, None]
    left, top, right, bottom = inputs.boxes.to(inputs.images).unbind(dim=2)
    is_visible = (right > 0) & (left < width) & (bottom > 0) & (top < height)
    distance_x = torch.maximum(left - column, column - right).clamp(min=0)
    distance_y = torch.maximum(top - row, row - bottom).clamp(min=0)
    hit = (is_visible & (torch.hypot(distance_x, distance_y) <= tolerance)).any(dim=1)
    has_no_box = inputs.boxes.isnan().all(dim=2).all(dim=1).to(hit.device)
    is_outside = ~has_no_box & ~is_visible.any(dim=1)
    return Score(
        hit.double().masked_fill(has_no_box | is_outside, torch.nan),
        undefined={
            "the image has no box of the target": has_no_box,
            "all boxes of the target are outside the crop": is_outside,
        },
    )
