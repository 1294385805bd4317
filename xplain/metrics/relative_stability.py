"""Relative stability of explanations with respect to the input (RIS) and to the output (ROS)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics.inputs import Explain, MetricInput

Samples = Annotated[int, Bounds(low=2)]
Scale = Literal["norm", "elementwise"]
Over = Literal["max", "median"]
MAX_PIXELS = 512 * 224 * 224  # of perturbed images in memory at once: 0.3 GB
SMALLEST = 1e-6  # in place of divisors that are zero, and the smallest change of the image or the logits
ZERO_MAP = "the attribution is zero"
FEW_DRAWS = "fewer than two perturbed images keep the prediction"
BLACK_IMAGE = "the image is black"
EQUAL_LOGITS = "the logits do not change"

# Registers a metric of relative stability.
stability_metric = partial(
    metric,
    better="lower",
    bounds=(0, float("inf")),
    average="median",
    draws="relative-stability",
    forwards=lambda samples, **_: samples + 1,
    attributions=lambda samples, **_: samples,
    paper=Paper(
        "Rethinking stability for attribution-based explanations",
        "Chirag Agarwal, Nari Johnson, Martin Pawelczyk, Satyapriya Krishna, Eshika Saxena, Marinka Zitnik, Himabindu Lakkaraju",
        2022,
        arxiv="2203.06877",
    ),
    deviations="By default the changes are relative norms, as in the authors' OpenXAI; the paper divides value by value, where single "
    "pixels close to zero decide.",
)


@stability_metric(
    "ris",
    synonyms=("relative-input-stability",),
    unit="relative change of the map by that of the image",
    undefined="where the attribution is zero, the image is black, or fewer than two perturbed images keep the prediction",
)
def relative_input_stability(
    inputs: MetricInput,
    *,
    rng: Streams,
    explain: Explain,
    radius: Positive = 0.02,
    samples: Samples = 10,
    scale: Scale = "norm",
    over: Over = "max",
) -> Score:
    """Estimate the largest relative change of the attribution per relative change of the image.

    max over draws x' of (‖φ(x) - φ(x')‖ / ‖φ(x)‖) / (‖x - x'‖ / ‖x‖), with Frobenius norms: a relative condition number. x' is
    x plus uniform noise, limited to [0, 1]. Draws that change the predicted class are left out; undefined (NaN) if fewer than two remain.
    The target and the method's own random draws are those of the unperturbed image, so that ``random`` and ``center`` score 0. The
    values have a heavy tail: compare medians over images rather than means.

    radius: half width of the uniform noise, in pixel units.
    samples: number of draws; more never lower the maximum.
    scale: ``elementwise`` is the formula of the paper, ‖(φ(x) - φ(x')) / φ(x)‖ / max(‖(x - x') / x‖, 1e-6) with quotients of single
    values, where a divisor of zero is 1e-6.
    over: ``median`` of the draws instead of the maximum.
    """
    changes = _compute_changes(inputs, rng, explain, radius, samples)
    undefined = {ZERO_MAP: _is_zero(inputs.attributions)}
    if scale == "norm":
        undefined[BLACK_IMAGE] = _is_zero(inputs.images)
        ratios = changes["map"] / changes["image"]
    else:
        ratios = changes["map values"] / changes["image values"].clamp(min=SMALLEST)
    return _score(ratios, changes["is_kept"].bool(), over, undefined)


@stability_metric(
    "ros",
    synonyms=("relative-output-stability",),
    unit="relative change of the map by that of the logits",
    undefined="where the attribution is zero, or fewer than two perturbed images keep the prediction and change the logits",
)
def relative_output_stability(
    inputs: MetricInput,
    *,
    rng: Streams,
    explain: Explain,
    radius: Positive = 0.02,
    samples: Samples = 10,
    scale: Scale = "norm",
    over: Over = "max",
) -> Score:
    """Estimate the largest relative change of the attribution per relative change of the logits.

    max over draws x' of (‖φ(x) - φ(x')‖ / ‖φ(x)‖) / (‖z(x) - z(x')‖ / ‖z(x)‖) with all logits z. Draws that do not change them are left
    out too. The draws are those of ``ris``.

    radius, samples, over: as in ``ris``.
    scale: ``elementwise`` is the formula of the paper, ‖(φ(x) - φ(x')) / φ(x)‖ / max(‖z(x) - z(x')‖, 1e-6), where logits are not relative.
    """
    changes = _compute_changes(inputs, rng, explain, radius, samples)
    has_kept = changes["is_kept"].bool().sum(dim=1) >= 2
    is_counted = changes["is_kept"].bool() & (changes["logits"] > 0)
    undefined = {
        ZERO_MAP: _is_zero(inputs.attributions),
        EQUAL_LOGITS: has_kept & (is_counted.sum(dim=1) < 2),
    }
    if scale == "norm":
        relative = changes["logits"] / changes["norm of logits"]
        ratios = changes["map"] / relative
    else:
        ratios = changes["map values"] / changes["logits"].clamp(min=SMALLEST)
    return _score(ratios, is_counted, over, undefined)


def _score(ratios: Tensor, is_counted: Tensor, over: Over, undefined: dict[str, Tensor]) -> Score:
    """Return the largest or median of the ratios (B, K) that count."""
    is_undefined = torch.stack([*undefined.values()]).any(dim=0)
    undefined = undefined | {FEW_DRAWS: ~is_undefined & (is_counted.sum(dim=1) < 2)}
    if over == "max":
        values = ratios.masked_fill(~is_counted, -torch.inf).amax(dim=1)
    else:
        values = ratios.masked_fill(~is_counted, torch.nan).nanquantile(0.5, dim=1)
    return Score(values.masked_fill(is_undefined | undefined[FEW_DRAWS], torch.nan), undefined=undefined)


def _is_zero(values: Tensor) -> Tensor:
    return (values == 0).flatten(1).all(dim=1)


def _compute_changes(
    inputs: MetricInput, rng: Streams, explain: Explain, radius: float, samples: int
) -> dict[str, Tensor]:
    """Return the changes (B, K) of the map, the image and the logits at K draws, which both metrics share.

    ``map`` and ``image``: relative norms; ``map values`` and ``image values``: norms of the quotients of single values; ``logits``: the
    norm of their change; ``norm of logits``: of the image itself; ``is_kept``: 1 if the draw keeps the prediction.
    """
    key = ("relative-stability", radius, samples)
    names = ("map", "image", "map values", "image values", "logits", "norm of logits", "is_kept")
    if key not in inputs.cache:
        x = inputs.images
        logits = inputs.oracle.logits(x, torch.arange(len(x), device=x.device)).double()
        chunk_size = max(MAX_PIXELS // x[:, 0].numel(), 1)
        chunks = torch.arange(samples, device=x.device).split(chunk_size)
        parts = [_compute_chunk(inputs, rng, explain, radius, chunk, logits) for chunk in chunks]
        inputs.cache[key] = torch.cat(parts, dim=2)
    return dict(zip(names, inputs.cache[key], strict=True))


def _compute_chunk(
    inputs: MetricInput, rng: Streams, explain: Explain, radius: float, samples: Tensor, logits: Tensor
) -> Tensor:
    """Return the changes (7, B, k) of ``_compute_changes`` at the draws ``samples`` (k,). logits: (B, classes) of the images."""
    x, shape = inputs.images, (len(inputs.images), len(samples))
    image = torch.arange(len(x), device=x.device).repeat_interleave(len(samples))
    noise = (2 * rng.uniform(samples, tuple(x.shape[1:]), x.dtype) - 1) * radius
    moved = (x[:, None] + noise).clamp(0, 1)
    moved_logits = inputs.oracle.logits(moved.flatten(0, 1), image).double()
    maps = explain(moved.flatten(0, 1), inputs.y[image], image=image).unflatten(0, shape)
    original = inputs.attributions.double()[:, None]
    map_change, image_change = maps.double() - original, (moved - x[:, None]).double()
    logit_change = (moved_logits - logits[image]).norm(dim=1).unflatten(0, shape)
    results = [
        _norm(map_change) / _norm(original),
        _norm(image_change) / _norm(x[:, None].double()),
        _norm(map_change / _without_zeros(original)),
        _norm(image_change / _without_zeros(x[:, None].double())),
        logit_change,
        logits.norm(dim=1)[:, None].expand(shape),
        _keeps_prediction(inputs, moved_logits, logits, image).double().unflatten(0, shape),
    ]
    return torch.stack(results)


def _norm(values: Tensor) -> Tensor:
    """Return the Frobenius norms (B, k) of values (B, k, C, H, W)."""
    return values.flatten(2).norm(dim=2)


def _without_zeros(values: Tensor) -> Tensor:
    return values.where(values != 0, SMALLEST)


def _keeps_prediction(inputs: MetricInput, moved: Tensor, logits: Tensor, image: Tensor) -> Tensor:
    """Return (rows,) bool: whether perturbed images have the predicted class of their image, or for labels its decision on the target.

    moved: (rows, classes) logits. logits: (B, classes) of the images. image: (rows,) the image of each row. Values without a threshold
    are no predictions, and always kept.
    """
    output = inputs.oracle.output
    if output.activation in ("softmax", "binary"):
        return output.top_classes(moved) == output.top_classes(logits)[image]
    if not output.has_decisions:
        return torch.ones(len(moved), dtype=torch.bool, device=moved.device)
    target = inputs.y[image][:, None]
    before, after = output.decisions(logits)[image], output.decisions(moved)
    return (before.gather(1, target) == after.gather(1, target))[:, 0]
