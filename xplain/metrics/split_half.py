"""Reliability of maps that are sums of independent samples, from the correlation of two halves of the samples."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xplain.core.stability import RELIABLE, SHARE, SIGNED_SUM, Look, SourceStability
from xplain.metrics.repeats import compare_repeats

POINTS = 2000  # of the quadrature
CONSTANT_HALF = "the sum of half of the samples is constant"


def find_reliability(parts: Tensor) -> Tensor:
    """Return the reliability (B,) of attributions that are the sums of two halves (B, 2, C, H, W).

    2 r / (1 + r) with Pearson's r of the channel sums of the halves (Spearman and Brown 1910): the expected correlation of two maps of
    independent draws. NaN where a half is constant.
    """
    sums = parts.double().sum(dim=2).flatten(2)
    centered = sums - sums.mean(dim=2, keepdim=True)
    products = (centered[:, 0] * centered[:, 1]).sum(dim=1)
    r = products / centered.square().sum(dim=2).prod(dim=1).sqrt()
    return 2 * r / (1 + r)


def samples_for_reliability(reliability: float, samples: int, target: float = RELIABLE) -> int | None:
    """Return the number of samples with which the reliability is ``target``, if it is ``reliability`` with ``samples``.

    None if the reliability is not between 0 and 1.
    """
    if not 0 < reliability < 1:
        return None
    return math.ceil(samples * target * (1 - reliability) / (reliability * (1 - target)))


def normal_overlap(correlation: Tensor, share: float = SHARE) -> Tensor:
    """Return the expected overlap (B,) of the highest ``share`` of two jointly normal maps with a correlation (B,)."""
    r = correlation.double()[:, None].clamp(-1 + 1e-12, 1 - 1e-12)
    cut = torch.special.ndtri(torch.tensor(1 - share, dtype=torch.float64))
    parts = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    z = torch.special.ndtri(1 - share + share * parts).to(r.device)  # of equal probability above the cut
    return torch.special.ndtr((r * z - cut.to(r.device)) / (1 - r**2).sqrt()).mean(dim=1)


def estimate_draws(reported: Tensor, parts: Tensor, samples: int | None, look: Look = SIGNED_SUM) -> SourceStability:
    """Estimate the result of ``repeat_draws`` for attributions (B, C, H, W) without running the method again.

    The reliability gives the rank correlation 6/π asin(r / 2) and the overlap that jointly normal maps have.
    parts: (B, 2, C, H, W) sums over the halves of the samples. samples: their number; None: unknown. look: must be linear, so that the
    reliability is that of the channel sums.
    """
    base = compare_repeats(reported, [reported], look=look)
    reliability = find_reliability(parts)
    overlaps, correlations = normal_overlap(reliability), 6 / math.pi * (reliability / 2).asin()
    is_undefined = base.overlaps.isnan()
    undefined = dict(base.undefined)
    undefined[CONSTANT_HALF] = reliability.isnan() & ~is_undefined[:, 0]
    return SourceStability(
        overlaps=overlaps[:, None].masked_fill(is_undefined, torch.nan),
        correlations=correlations[:, None].masked_fill(base.correlations.isnan(), torch.nan),
        kept=base.kept,
        constant=torch.zeros_like(base.constant),
        ties=base.ties,
        repeats=0,
        undefined=undefined,
        facts={"estimated": "split-half"},
        image_facts=describe_halves(parts, samples),
    )


def describe_halves(parts: Tensor, samples: int | None) -> list[dict[str, Any]]:
    """Return the record entries of each image: the reliability, and the samples that a reliability of 0.95 takes."""
    entries: list[dict[str, Any]] = []
    for reliability in find_reliability(parts).tolist():
        is_defined = reliability == reliability
        needed = None if samples is None else samples_for_reliability(reliability, samples)
        entries.append(
            {"reliability": round(reliability, 4) if is_defined else None, "samples": samples, "samples_needed": needed}
        )
    return entries
