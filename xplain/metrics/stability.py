"""Stability: how much of a map stays with other random draws, in other arithmetic and under small noise."""

from __future__ import annotations

from typing import Literal

import torch

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.stability import SourceStability
from xplain.core.types import Score
from xplain.metrics.inputs import Explain, MetricInput
from xplain.metrics.repeats import FEW_PIXELS, repeat_compressed, repeat_draws, repeat_noise, repeat_rounding

MapSimilarity = Literal["top10", "spearman"]
Noise = Literal["uniform", "jpeg"]
FRAGILE = Paper(
    "Interpretation of neural networks is fragile",
    "Amirata Ghorbani, Abubakar Abid, James Zou",
    2019,
    "AAAI",
    "1710.10547",
)
UNIT = "share of the highest tenth that stays"
UNDEFINED = "where a map is constant or marks fewer than a tenth of the pixels"
AXIS = "repeat"


@metric(
    "stability-draws",
    bounds=(0, 1),
    unit=UNIT,
    axis=AXIS,
    attributions=lambda repeats, **_: repeats,
    undefined=UNDEFINED,
    paper=FRAGILE,
    deviations="The overlap and the rank correlation of the paper, for other random draws instead of attacked images.",
)
def stability_draws(
    inputs: MetricInput, *, explain: Explain, similarity: MapSimilarity = "top10", repeats: Steps = 4
) -> Score:
    """Average the share of the highest tenth of the pixels that stays if the method draws other random numbers.

    |T(s) ∩ T(s_k)| / |T| with T the highest tenth of the pixels by their channel sums, mean over ``repeats`` maps s_k of other seeds. Each
    is compared with the evaluated map s. Ties keep raster order. 0.1 by chance for maps whose pixels are exchangeable.
    A map that the first repeat does not change has no draws: it scores 1, and the other repeats do not run, so that ``attributions`` is
    an upper bound. Being stable is not being correct: ``sobel`` and ``center`` score 1, ``random`` 0.1.
    The curve has the value of each repeat. Undefined (NaN) where a map is constant; ``top10`` also where fewer than a tenth of the pixels
    are not zero.

    similarity: ``spearman`` averages the rank correlation of all pixels instead; 0 by chance.
    repeats: number of other seeds.
    """
    result = repeat_draws(inputs, explain, repeats)
    return _to_score(result, similarity)


@metric(
    "stability-rounding",
    bounds=(0, 1),
    unit=UNIT,
    axis=AXIS,
    attributions=lambda **_: 2,
    undefined=UNDEFINED,
    paper=FRAGILE,
    deviations="The overlap and the rank correlation of the paper, for other arithmetic instead of attacked images.",
)
def stability_rounding(inputs: MetricInput, *, explain: Explain, similarity: MapSimilarity = "top10") -> Score:
    """Average the share of the highest tenth of the pixels that stays if the same map is computed in other arithmetic.

    The overlap of ``stability-draws`` for two repeats with the draws held: in float64 (in fp32 for tf32 and bf16), and with one row per
    model call and batch norms that are not folded. The first is left out for models in float64, on devices without it, and for models
    that can only be called. A low value means that rounding decides which pixels are marked.
    The curve has the value of each repeat. Undefined as ``stability-draws``.

    similarity: as in ``stability-draws``.
    """
    result = repeat_rounding(inputs, explain)
    return _to_score(result, similarity)


def _count_changed(*, repeats: int, noise: Noise, **_: object) -> int:
    return 1 if noise == "jpeg" else repeats


@metric(
    "stability-noise",
    bounds=(0, 1),
    unit=UNIT,
    axis=AXIS,
    forwards=lambda **settings: _count_changed(**settings) + 1,
    attributions=_count_changed,
    undefined=f"{UNDEFINED}; where fewer than two noisy images, or the compressed one, keep the prediction",
    paper=FRAGILE,
    deviations="Random perturbations, which are weaker than the attacks of the paper.",
    added=frozenset({"noise"}),
)
def stability_noise(
    inputs: MetricInput,
    *,
    rng: Streams,
    explain: Explain,
    similarity: MapSimilarity = "top10",
    repeats: Steps = 4,
    radius: Positive = 1 / 255,
    noise: Noise = "uniform",
) -> Score:
    """Average the share of the highest tenth of the pixels that stays if the image changes by less than its file can tell.

    The overlap of ``stability-draws`` for ``repeats`` images clip(x + U(-radius, radius)), with the class and the method's own draws
    held. An image counts if the prediction is the same and the target's probability changes by at most 0.05, or for values without a
    threshold always; the method does not run on others, so that ``attributions`` is an upper bound. The curve has the value of each
    repeat, NaN for those that do not count.
    ``random``, whose draws are held, and ``center`` score 1. Undefined (NaN) where fewer than two images count, and as
    ``stability-draws``.

    similarity: as in ``stability-draws``.
    repeats: number of noisy images.
    radius: largest change of a pixel value, in pixel units.
    noise: ``uniform``, or ``jpeg`` to compress the image once as JPEG of quality 90; ``repeats`` and ``radius`` are ignored.
    """
    if noise == "jpeg":
        return _to_score(repeat_compressed(inputs, explain), similarity)
    return _to_score(repeat_noise(inputs, explain, rng, radius=radius, count=repeats), similarity)


def _to_score(result: SourceStability, similarity: MapSimilarity) -> Score:
    """Return the mean over repeats as a score, with the value of each repeat as its curve."""
    if similarity == "top10":
        values, curve, undefined = result.top10, result.overlaps, dict(result.undefined)
    else:
        values, curve = result.spearman, result.correlations
        undefined = {reason: mask for reason, mask in result.undefined.items() if reason != FEW_PIXELS}
    missing = torch.stack(list(undefined.values())).any(dim=0)
    return Score(values.masked_fill(missing, torch.nan), curve, undefined=undefined)
