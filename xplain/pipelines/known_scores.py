"""Score maps by the truth of a mechanism."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from xplain.core.types import ScoreKind
from xplain.known.truth import Planted, sum_blocks
from xplain.metrics.relevance_auroc import area_under_roc, average_precision

# Measures by name, with what they mean. All are better if higher, except ``silent``.
MEASURES = {
    "auroc": "probability that a relevant pixel ranks above another one, ties ½",
    "ap": "average precision of the relevant pixels",
    "top": "share of relevant pixels among the |R| highest ones",
    "sign": "share of the relevant mass that has the right sign",
    "value": "1 - ‖φ - T‖₁ / ‖T‖₁ over blocks, at least 0",
    "shape": "the same at the best scale of φ",
    "order": "Spearman correlation with the effects of the parts",
    "evenness": "entropy of the shares of equal parts / ln n",
    "quiet": "whether the map is zero where the score is constant",
    "silent": "whether the map is constant or not finite",
}
CONSTANT = 1e-9  # range of the values of a silent map
ZERO = 1e-6  # largest magnitude of a map that counts as zero


def score_maps(values: Tensor, planted: Planted, *, slopes: bool, score: ScoreKind) -> list[dict[str, Any]]:
    """Return the measures of each map (B, C, H, W), without those that the mechanism or the method does not have.

    slopes: the maps are slopes, of which only magnitude and sign count. score: what the maps explain; values are known for the logit.
    A silent map has the value of an uninformed one: AUROC ½, sign ½, value 0, order 0.
    """
    sums = values.detach().double().sum(dim=1, keepdim=True).cpu()
    return [_score_map(sums[i : i + 1], planted, i, slopes=slopes, score=score) for i in range(len(sums))]


def _score_map(sums: Tensor, planted: Planted, i: int, *, slopes: bool, score: ScoreKind) -> dict[str, Any]:
    """Return the measures of the map (1, 1, H, W) of image ``i``."""
    finite = bool(sums.isfinite().all())
    silent = not finite or float(sums.max() - sums.min()) <= CONSTANT
    scores: dict[str, Any] = {"silent": silent}
    sums = torch.zeros_like(sums) if silent and not finite else sums
    relevant = planted.relevant
    if score != "logit" and planted.relevant_to_others is not None:
        relevant = planted.relevant_to_others
    if relevant is not None:
        scores |= _score_set(sums, relevant[i], silent=silent, absolute=slopes or planted.has_negative)
    if planted.signs is not None:
        scores["sign"] = _measure_sign(sums.flatten(), planted.signs[i].flatten())
    if planted.values is not None and not slopes and score == "logit":
        scores |= _score_values(sum_blocks(sums)[0], planted.values[i])
    if planted.parts is not None and planted.effects is not None:
        known = ~planted.effects[i].isnan()
        masses = (planted.parts[i][known] * (sums.abs() if slopes else sums)[0]).sum(dim=(1, 2))
        if not planted.is_even:
            scores["order"] = correlate_ranks(masses, planted.effects[i][known])
        elif len(masses) > 1:
            scores["evenness"] = _measure_evenness(masses)
    if len(scores) == 1:  # nothing is relevant
        scores["quiet"] = float(finite and float(sums.abs().max()) <= ZERO)
    return scores


def _score_set(sums: Tensor, relevant: Tensor, *, silent: bool, absolute: bool) -> dict[str, float]:
    """Return how a map (1, 1, H, W) ranks the relevant pixels (1, H, W)."""
    counted = ~relevant.flatten().isnan()
    inside = relevant.flatten()[counted] == 1
    signed = sums.flatten()[counted]
    signed = torch.zeros_like(signed) if silent else signed
    ranked = signed.abs() if absolute else signed
    count = int(inside.sum())
    share = count / len(inside)
    top = ranked.argsort(descending=True, stable=True)[:count]
    return {
        "auroc": float(area_under_roc(ranked, inside)),
        "auroc_signed": float(area_under_roc(signed, inside)),
        "auroc_absolute": float(area_under_roc(signed.abs(), inside)),
        "ap": float(average_precision(ranked, inside)),
        "top": share if silent else float(inside[top].double().mean()),
    }


def _measure_sign(sums: Tensor, signs: Tensor) -> float:
    """Return the share of the mass of the pixels with a sign that has this sign; ½ without mass."""
    mass = sums.abs() * (signs != 0)
    total = float(mass.sum())
    return 0.5 if total == 0 else float((mass * (sums.sign() == signs)).sum()) / total


def _score_values(values: Tensor, truth: Tensor) -> dict[str, float]:
    """Return how close contributions (N,) are to their truth (N,), in units and at the best scale."""
    norm = float(truth.abs().sum())
    fitted = best_scale(values, truth) * values
    return {
        "value": max(0.0, 1 - float((values - truth).abs().sum()) / norm),
        "shape": max(0.0, 1 - float((fitted - truth).abs().sum()) / norm),
    }


def best_scale(values: Tensor, truth: Tensor) -> float:
    """Return the factor c >= 0 with the smallest ‖c·values - truth‖₁: the median of truth / values weighted by \\|values\\|, or 0."""
    used = values != 0
    if not bool(used.any()):
        return 0.0
    ratios, order = (truth[used] / values[used]).sort()
    weights = values[used].abs()[order].cumsum(0)
    median = int((weights >= weights[-1] / 2).nonzero()[0])
    return max(0.0, float(ratios[median]))


def correlate_ranks(first: Tensor, second: Tensor) -> float:
    """Return Spearman's correlation of two vectors (N,) with mean ranks; 0 if one of them is constant."""
    ranks = [_mean_ranks(vector) for vector in (first, second)]
    centered = [vector - vector.mean() for vector in ranks]
    norm = math.sqrt(float((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return float((centered[0] * centered[1]).sum()) / norm if norm else 0.0


def _mean_ranks(vector: Tensor) -> Tensor:
    """Return the rank of each value, the mean rank for equal ones."""
    smaller = (vector[None, :] < vector[:, None]).sum(dim=1).double()
    equal = (vector[None, :] == vector[:, None]).sum(dim=1).double()
    return smaller + (equal - 1) / 2


def _measure_evenness(masses: Tensor) -> float:
    """Return the entropy of the shares of positive masses (N,) over ln N; 0 if no mass is positive."""
    positive = masses.clamp(min=0)
    if float(positive.sum()) <= 0:
        return 0.0
    shares = positive / positive.sum()
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    return entropy / math.log(len(masses))
