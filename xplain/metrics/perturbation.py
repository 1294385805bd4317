"""Insertion and deletion: the target's probability while pixels come or go in the order of the attribution."""

from typing import Literal

import torch
from torch import Tensor

from xplain.baselines import BLUR_SIGMA
from xplain.oracle import Block, Case
from xplain.points import gaussian_blur
from xplain.registry import Steps, metric
from xplain.types import Paper, Score

Fill = Literal["black", "mean", "blur", "black+blur"]
Unit = Literal["pixel", "union3", "scalar"]
RISE = Paper(
    "RISE: randomized input sampling for explanation of black-box models",
    "Petsiuk, Das, Saenko",
    2018,
    "BMVC",
    "1806.07421",
)


@metric("deletion", better="lower", unit="mean target probability", paper=RISE)
def deletion(case: Case, *, steps: Steps = 224, baseline: Fill = "black", unit: Unit = "pixel") -> Score:
    """The mean probability of the target while the most important pixels are removed first.

    Step k of K has replaced the round(k·N/K) highest units by the baseline, in the original of which the rest stays; the value
    is the trapezoid area under the curve of K+1 probabilities over [0, 1]. unit: ``pixel`` ranks the channel sum;
    ``scalar`` ranks each channel's values by themselves; ``union3`` replaces a pixel that is among the highest of any
    channel (the AGI and MFABA programs). Ties keep raster order. ``black+blur`` is the mean of both baselines.
    """
    return _perturb(case, steps, baseline, unit, insert=False)


@metric("insertion", better="higher", unit="mean target probability", paper=RISE)
def insertion(case: Case, *, steps: Steps = 224, baseline: Fill = "black", unit: Unit = "pixel") -> Score:
    """The mean probability of the target while the most important pixels are put into the baseline first.

    As ``deletion``, from the baseline to the image.
    """
    return _perturb(case, steps, baseline, unit, insert=True)


def _perturb(case: Case, steps: int, baseline: Fill, unit: Unit, *, insert: bool) -> Score:
    """Curves of K+1 probabilities for each image, and the areas under them."""
    step = _first_step(case.attributions, steps, unit)[:, None]
    curves = []
    for kind in baseline.split("+"):
        fill = _fill(kind, case)
        first, second = (fill, case.images) if insert else (case.images, fill)

        def points(block: Block, first: Tensor = first, second: Tensor = second) -> Tensor:
            done = block.samples(step.device)[None, :, None, None, None]
            return torch.where(step[block.images] <= done, second[block.images, None], first[block.images, None])

        curve = case.images.new_zeros(len(case.images), steps + 1)
        for block, scores in case.oracle.scan(case.images, case.y, steps + 1, points):
            curve[block.images, block.points] = scores.to(curve.dtype)
        curves.append(curve)
    mean = torch.stack(curves).mean(dim=0)
    return Score(torch.trapezoid(mean, dim=1) / steps, mean)


def _fill(kind: str, case: Case) -> Tensor:
    if kind == "blur":
        return gaussian_blur(case.images, BLUR_SIGMA)
    return torch.zeros_like(case.images) if kind == "black" else case.oracle.mean.to(case.images).expand_as(case.images)


def _first_step(attributions: Tensor, steps: int, unit: Unit) -> Tensor:
    """(B, 1 or C, H, W) the step k = 1 .. K at which each value is replaced."""
    values = attributions.sum(dim=1, keepdim=True) if unit == "pixel" else attributions
    lists = values.flatten(2) if unit == "union3" else values.flatten(1)[:, None]
    order = lists.argsort(dim=2, descending=True, stable=True)
    size = lists.shape[2]
    edges = torch.tensor([round(k * size / steps) for k in range(steps + 1)], device=values.device)
    ranks = torch.searchsorted(edges, torch.arange(size, device=values.device), right=True)
    found = torch.empty_like(order).scatter_(2, order, ranks.expand_as(order)).reshape(values.shape)
    return found.amin(dim=1, keepdim=True) if unit == "union3" else found
