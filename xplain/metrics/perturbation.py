"""Perturbation curves: deletion, insertion, their difference, MoRF and LeRF.

A curve holds the target's probability (or its value, if the model has no probabilities) while pixels are removed or inserted in the
order of their attribution.
"""

from __future__ import annotations

from functools import partial
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
from xplain.oracle.batching import Block

Fill = Literal["black", "mean", "blur", "black+blur", "rise-blur"]
Unit = Literal["pixel", "union3", "scalar"]
Area = Literal["trapezoid", "mean"]
RISE = Paper(
    "RISE: randomized input sampling for explanation of black-box models",
    "Vitali Petsiuk, Abir Das, Kate Saenko",
    2018,
    "BMVC",
    "1806.07421",
)
SAMEK = Paper(
    "Evaluating the visualization of what a deep neural network has learned",
    "Wojciech Samek, Alexander Binder, Grégoire Montavon, Sebastian Lapuschkin, Klaus-Robert Müller",
    2017,
    "IEEE TNNLS",
    "1509.06321",
    journal=True,
)
UNDEFINED = "with relative, where the image and the baseline have the same value"
RELATIVE = frozenset({"relative"})
MIN_RANGE = 1e-6  # difference of the ends of a relative curve, in units of 1 + |value of the image|
NO_RANGE = "the image and the baseline have the same value"


def _count_forwards(side: int, steps: int | None, baseline: str, **_: object) -> int:
    return (1 + baseline.count("+")) * ((steps or side) + 1)


# Registers a metric that is the area under a curve; the arguments may be overridden.
curve_metric = partial(
    metric, unit="mean target probability", forwards=_count_forwards, undefined=UNDEFINED, added=RELATIVE
)


@curve_metric("deletion", better="lower", paper=RISE)
def deletion(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    area: Area = "trapezoid",
    relative: bool = False,
) -> Score:
    """Average the target's probability while the most important pixels are removed first.

    After step k of K, the baseline replaces the round(k·N/K) highest of N units. The value is the area under the curve of
    the K+1 probabilities over [0, 1].

    steps: number of steps K; defaults to the longer side of the image, so 224 steps for 224 x 224 pixels.
    baseline: what replaces units: ``mean`` is the zero of the normalized input, ``blur`` a Gaussian blur of 5 pixels, ``rise-blur``
    the 11 x 11 kernel of the RISE code, and ``black+blur`` the mean of both curves.
    unit: ``pixel`` ranks pixels by the sum over channels, ``scalar`` ranks and replaces single values, ``union3`` replaces a
    pixel if it is among the highest of any channel (as in the code of AGI and MFABA). Ties keep raster order.
    area: rule of the area: ``mean`` is the plain mean of the probabilities (as in the AGI code).
    relative: scale the curve to 1 at the image and 0 at the baseline, (v - v') / (v(x) - v'); undefined (NaN) where the two differ by
    less than 1e-6 (1 + |v(x)|). For models that return values, whose range is arbitrary.
    """
    return _score(perturbation_curve(inputs, steps, baseline, unit, insert=False, relative=relative), area, relative)


@curve_metric("insertion", better="higher", paper=RISE)
def insertion(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    area: Area = "trapezoid",
    relative: bool = False,
) -> Score:
    """Average the target's probability while the most important pixels are inserted into the baseline first.

    The curve leads from the baseline to the image.

    steps, baseline, unit, area, relative: as in ``deletion``.
    """
    return _score(perturbation_curve(inputs, steps, baseline, unit, insert=True, relative=relative), area, relative)


@curve_metric(
    "difference",
    better="higher",
    bounds=(-1, 1),
    paper=RISE,
    forwards=lambda **settings: 2 * _count_forwards(**settings),
)
def difference(
    inputs: MetricInput,
    *,
    steps: Steps | None = None,
    baseline: Fill = "black",
    unit: Unit = "pixel",
    area: Area = "trapezoid",
    relative: bool = False,
) -> Score:
    """Subtract deletion from insertion, which cancels the effect of unnatural images.

    The curve is the difference of the two curves. A random map scores 0 on average.

    steps, baseline, unit, area, relative: as in ``deletion``.
    """
    inserted = perturbation_curve(inputs, steps, baseline, unit, insert=True, relative=relative)
    deleted = perturbation_curve(inputs, steps, baseline, unit, insert=False, relative=relative)
    return _score(inserted - deleted, area, relative)


@curve_metric("morf", better="lower", paper=SAMEK)
def morf(
    inputs: MetricInput,
    *,
    steps: Steps = 20,
    baseline: Fill = "mean",
    unit: Unit = "pixel",
    relative: bool = False,
) -> Score:
    """Average the target's probability while the most relevant pixels are removed first, in coarse steps.

    The curve of ``deletion`` with 20 steps and the mean color: the pixel perturbation of the DGA paper (section 4.1).

    steps: number of steps K.
    baseline, unit, relative: as in ``deletion``.
    """
    return _score(
        perturbation_curve(inputs, steps, baseline, unit, insert=False, relative=relative), "trapezoid", relative
    )


@curve_metric("lerf", better="higher", paper=SAMEK)
def lerf(
    inputs: MetricInput,
    *,
    steps: Steps = 20,
    baseline: Fill = "mean",
    unit: Unit = "pixel",
    relative: bool = False,
) -> Score:
    """Average the target's probability while the least relevant pixels are removed first, in coarse steps.

    As ``morf`` in the opposite order. Equals the area of ``insertion`` with the same steps and baseline if the number of
    steps divides the number of units and there are no ties.

    steps, baseline, unit, relative: as in ``morf``.
    """
    return _score(
        perturbation_curve(inputs, steps, baseline, unit, insert=False, lowest=True, relative=relative),
        "trapezoid",
        relative,
    )


def _score(curve: Tensor, area: Area, relative: bool) -> Score:
    """Return the area under each curve (B, K+1), with the curves; a relative curve without a range is undefined."""
    undefined = {NO_RANGE: curve.isnan().any(dim=1)} if relative else {}
    if area == "mean":
        return Score(curve.mean(dim=1), curve, undefined=undefined)
    steps = curve.shape[1] - 1
    return Score(torch.trapezoid(curve, dim=1) / steps, curve, undefined=undefined)


def perturbation_curve(
    inputs: MetricInput,
    steps: int | None,
    baseline: Fill,
    unit: Unit,
    *,
    insert: bool,
    lowest: bool = False,
    relative: bool = False,
) -> Tensor:
    """Return the curves (B, K+1), which metrics of the same input share.

    insert: lead from the baseline to the image, not from the image to the baseline.
    lowest: replace the lowest values first. relative: scale each curve to 1 at the image and 0 at the baseline.
    """
    curves = [_get_curve_of(inputs, steps, kind, unit, insert=insert, lowest=lowest) for kind in baseline.split("+")]
    if relative:
        curves = [_scale_to_ends(curve, insert=insert) for curve in curves]
    return torch.stack(curves).mean(dim=0)


def _get_curve_of(
    inputs: MetricInput, steps: int | None, kind: str, unit: Unit, *, insert: bool, lowest: bool
) -> Tensor:
    """Return the curves (B, K+1) of one baseline. Arguments as in ``_get_curve``."""
    key = (steps, kind, unit, insert, lowest)
    if key not in inputs.cache:
        attributions = -inputs.attributions if lowest else inputs.attributions
        count = steps or max(inputs.images.shape[-2:])
        step_of_value = find_replacement_steps(attributions, count, unit)
        fill = make_fill_images(kind, inputs)
        start, end = (fill, inputs.images) if insert else (inputs.images, fill)
        inputs.cache[key] = _compute_curve(inputs, step_of_value, count, start, end)
    return inputs.cache[key]


def _scale_to_ends(curve: Tensor, *, insert: bool) -> Tensor:
    """Return the curves (B, K+1) scaled to 1 at the image and 0 at the baseline; NaN where these are equal."""
    baseline, image = (curve[:, :1], curve[:, -1:]) if insert else (curve[:, -1:], curve[:, :1])
    has_range = (image - baseline).abs() >= MIN_RANGE * (1 + image.abs())
    return torch.where(has_range, (curve - baseline) / (image - baseline), torch.nan)


def _compute_curve(inputs: MetricInput, step_of_value: Tensor, steps: int, start: Tensor, end: Tensor) -> Tensor:
    """Return the target probabilities or values (B, K+1) on the way from ``start`` to ``end`` (B, C, H, W)."""
    curve = inputs.images.new_zeros(len(inputs.images), steps + 1)
    for block in inputs.oracle.blocks(inputs.images, steps + 1):
        points = _replace_values(block, step_of_value, start, end)
        curve[block.images, block.points] = inputs.oracle.block_scores(block, points, inputs.y).to(curve.dtype)
    return curve


def _replace_values(block: Block, step_of_value: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the block's points (b, k, C, H, W): ``start`` with the values of ``end`` that are replaced by each step."""
    steps = block.point_indices(step_of_value.device)[None, :, None, None, None]
    replaced = step_of_value[block.images, None] <= steps
    return torch.where(replaced, end[block.images, None], start[block.images, None])


def make_fill_images(kind: str, inputs: MetricInput) -> Tensor:
    """Return the images (B, C, H, W) whose values replace removed pixels."""
    mean = inputs.oracle.mean_color(inputs.images).to(inputs.images)
    if kind == "black":
        return torch.zeros_like(inputs.images)
    if kind == "blur":
        return gaussian_blur(inputs.images, BLUR_SIGMA)
    if kind == "rise-blur":  # the zero padding is the mean color
        return rise_blur(inputs.images - mean) + mean
    return mean.expand_as(inputs.images)


def find_replacement_steps(attributions: Tensor, steps: int, unit: Unit) -> Tensor:
    """Return the step 1 .. ``steps`` (B, 1 or C, H, W) at which each value is replaced, the highest values first."""
    values = attributions.sum(dim=1, keepdim=True) if unit == "pixel" else attributions
    rows = values.flatten(2) if unit == "union3" else values.flatten(1)[:, None]
    size = rows.shape[2]
    edges = torch.tensor([round(k * size / steps) for k in range(steps + 1)], device=values.device)
    step_of_value = torch.searchsorted(edges, ranks(rows), right=True).reshape(values.shape)
    if unit == "union3":
        return step_of_value.amin(dim=1, keepdim=True)
    return step_of_value
