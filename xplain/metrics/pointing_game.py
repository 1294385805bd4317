"""The pointing game: whether the highest value of a map lies on the object."""

from __future__ import annotations

from typing import Annotated

import torch

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, NamedFile
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput


@metric(
    "pointing-game",
    better="higher",
    unit="hit",
    undefined="where the image has no box of the target, or none reaches into the crop",
    paper=Paper(
        "Top-down neural attention by excitation backprop",
        "Zhang, Lin, Brandt, Shen, Sclaroff",
        2016,
        "ECCV",
        "1608.00507",
    ),
)
def pointing_game(
    inputs: MetricInput, *, boxes: NamedFile | None = None, tolerance: Annotated[float, Bounds(low=0)] = 15.0
) -> Score:
    """Whether the pixel with the highest attribution lies on an object of the target's class: 1 or 0.

    The pixel is the first maximum of the channel sum in raster order; it hits when its centre is at most ``tolerance`` pixels of the
    model's input away from a box. boxes: CSV with image, x0, y0, x1, y1 in pixels of the upright file, and a class if only the target's
    boxes count; or a folder of XML files (ImageNet, Pascal VOC). Boxes go through the image's resizing and crop. In the library, a
    tensor (B, N, 4) in pixels of the images, NaN where there are fewer. The mean over images is the paper's accuracy where classes
    are equally frequent; the paper averages the classes' accuracies. Undefined (NaN) where no box of the target is in sight.
    """
    if inputs.boxes is None:
        raise UsageError("pointing-game needs boxes around the objects", "give boxes=FILE, or in the library a tensor")
    height, width = inputs.images.shape[-2:]
    highest = inputs.attributions.sum(dim=1).flatten(1).argmax(dim=1)
    column, row = (highest % width + 0.5)[:, None], (highest // width + 0.5)[:, None]
    left, top, right, bottom = inputs.boxes.to(inputs.images).unbind(dim=2)
    seen = (right > 0) & (left < width) & (bottom > 0) & (top < height)
    across = torch.maximum(left - column, column - right).clamp(min=0)
    down = torch.maximum(top - row, row - bottom).clamp(min=0)
    hit = (seen & (torch.hypot(across, down) <= tolerance)).any(dim=1)
    absent = inputs.boxes.isnan().all(dim=2).all(dim=1).to(hit.device)
    outside = ~absent & ~seen.any(dim=1)
    return Score(
        hit.double().masked_fill(absent | outside, torch.nan),
        undefined={"the image has no box of the target": absent, "the object is outside the crop": outside},
    )
