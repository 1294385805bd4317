"""Perturbation curves: the target's probability while pixels come or go in the order of the attribution.

One evaluator; deletion, insertion, their difference, MoRF and LeRF are readings of its curves.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.data.baselines import BLUR_SIGMA
from xplain.data.filters import gaussian_blur, rise_blur
from xplain.metrics._ranking import ranks
from xplain.metrics.inputs import MetricInput
from xplain.oracle.blocks import Block

Fill = Literal["black", "mean", "blur", "black+blur", "rise-blur"]
Unit = Literal["pixel", "union3", "scalar"]
Area = Literal["trapezoid", "mean"]
RISE = Paper(
    "RISE: randomized input sampling for explanation of black-box models",
    "Petsiuk, Das, Saenko",
    2018,
    "BMVC",
    "1806.07421",
)
SAMEK = Paper(
    "Evaluating the visualization of what a deep neural network has learned",
    "Samek, Binder, Montavon, Lapuschkin, Müller",
    2017,
    "IEEE TNNLS",
    "1509.06321",
    journal=True,
)


def _rows(side: int, steps: int | None, baseline: str, **_: object) -> int:
    return (1 + baseline.count("+")) * ((steps or side) + 1)


@metric("deletion", better="lower", unit="mean target probability", paper=RISE, forwards=_rows)
def deletion(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    area: Area = "trapezoid",
) -> Score:
    """The mean probability of the target while the most important pixels are removed first.

    Step k of K has replaced the round(k·N/K) highest of N units by the baseline; the value is the area under the curve of
    K+1 probabilities over [0, 1]. steps: K; none: the image's side, so that 224 x 224 pixels go in 224 steps.
    unit: ``pixel`` ranks the sum over channels; ``scalar`` ranks and replaces single values; ``union3`` replaces a pixel that is
    among the highest of any channel (the AGI and MFABA programs). Ties keep raster order.
    baseline: ``mean`` is the zero of the normalised input; ``blur`` a Gaussian of 5 pixels; ``black+blur`` the mean of both
    curves; ``rise-blur`` the RISE program's 11 x 11 kernel. area=mean is the plain mean of the values (the AGI program).
    """
    return _score(_curve(inputs, steps, baseline, unit, insert=False), area)


@metric("insertion", better="higher", unit="mean target probability", paper=RISE, forwards=_rows)
def insertion(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    area: Area = "trapezoid",
) -> Score:
    """The mean probability of the target while the most important pixels are put into the baseline first.

    As ``deletion``, from the baseline to the image.
    """
    return _score(_curve(inputs, steps, baseline, unit, insert=True), area)


@metric(
    "difference",
    better="higher",
    bounds=(-1, 1),
    unit="mean target probability",
    paper=RISE,
    forwards=lambda **settings: 2 * _rows(**settings),
)
def difference(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    area: Area = "trapezoid",
) -> Score:
    """Insertion minus deletion, in which the effect of unnatural images cancels.

    Both as above; the curve is the difference of the curves. A random map has 0 on average.
    """
    curves = [_curve(inputs, steps, baseline, unit, insert=insert) for insert in (True, False)]
    return _score(curves[0] - curves[1], area)


@metric("morf", better="lower", unit="mean target probability", paper=SAMEK, forwards=_rows)
def morf(inputs: MetricInput, *, steps: Steps = 20, baseline: Fill = "mean", unit: Unit = "pixel") -> Score:
    """The mean probability of the target while the most relevant pixels are removed first, in coarse steps.

    The curve of ``deletion`` at K = 20 and the mean colour: the DGA paper's pixel perturbation (section 4.1).
    """
    return _score(_curve(inputs, steps, baseline, unit, insert=False), "trapezoid")


@metric("lerf", better="higher", unit="mean target probability", paper=SAMEK, forwards=_rows)
def lerf(inputs: MetricInput, *, steps: Steps = 20, baseline: Fill = "mean", unit: Unit = "pixel") -> Score:
    """The mean probability of the target while the least relevant pixels are removed first.

    As ``morf`` in the opposite order. Equals the insertion area at the same K and baseline where K divides N and values differ.
    """
    return _score(_curve(inputs, steps, baseline, unit, insert=False, lowest=True), "trapezoid")


def _score(curve: Tensor, area: Area) -> Score:
    steps = curve.shape[1] - 1
    return Score(curve.mean(dim=1) if area == "mean" else torch.trapezoid(curve, dim=1) / steps, curve)


def _curve(
    inputs: MetricInput, steps: int | None, baseline: Fill, unit: Unit, *, insert: bool, lowest: bool = False
) -> Tensor:
    """(B, K+1) probabilities of the targets, kept for the other metrics of the inputs."""
    key = (steps, baseline, unit, insert, lowest)
    if key not in inputs.cache:
        count = steps or max(inputs.images.shape[-2:])
        order = -inputs.attributions if lowest else inputs.attributions
        step = replacement_steps(order, count, unit)
        fills = [fill_image(kind, inputs) for kind in baseline.split("+")]
        inputs.cache[key] = torch.stack([_run(inputs, step, count, fill, insert) for fill in fills]).mean(dim=0)
    return inputs.cache[key]


def _run(inputs: MetricInput, step: Tensor, count: int, fill: Tensor, insert: bool) -> Tensor:
    start, end = (fill, inputs.images) if insert else (inputs.images, fill)
    curve = inputs.images.new_zeros(len(inputs.images), count + 1)
    for block in inputs.oracle.blocks(inputs.images, count + 1):
        points = _replace_values(block, step, start, end)
        curve[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y).to(curve.dtype)
    return curve


def _replace_values(block: Block, step: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the block's images (b, k, C, H, W): the values of ``end`` up to each point's step, then those of ``start``."""
    done = block.samples(step.device)[None, :, None, None, None]
    return torch.where(step[block.images, None] <= done, end[block.images, None], start[block.images, None])


def fill_image(kind: str, inputs: MetricInput) -> Tensor:
    """What stands for removed pixels, shaped like the images."""
    mean = inputs.oracle.mean.to(inputs.images)
    if kind == "blur":
        return gaussian_blur(inputs.images, BLUR_SIGMA)
    if kind == "rise-blur":  # zero padding where zero is the mean colour
        return rise_blur(inputs.images - mean) + mean
    return torch.zeros_like(inputs.images) if kind == "black" else mean.expand_as(inputs.images)


def replacement_steps(attributions: Tensor, steps: int, unit: Unit) -> Tensor:
    """(B, 1 or C, H, W) the step k = 1 .. K at which each value is replaced, the highest first."""
    values = attributions.sum(dim=1, keepdim=True) if unit == "pixel" else attributions
    lists = values.flatten(2) if unit == "union3" else values.flatten(1)[:, None]
    size = lists.shape[2]
    edges = torch.tensor([round(k * size / steps) for k in range(steps + 1)], device=values.device)
    found = torch.searchsorted(edges, ranks(lists), right=True).reshape(values.shape)
    return found.amin(dim=1, keepdim=True) if unit == "union3" else found
