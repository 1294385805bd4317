"""How far methods agree on an image: rank correlation, overlap of the highest tenth, structural similarity."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from xplain.core.look import Look
from xplain.metrics._similarity import RADIUS, spearman, ssim, top_overlap
from xplain.reports.render import Floats, heat, in_order

MEASURES = {
    "spearman": "Spearman's rank correlation of the saliencies, -1 to 1",
    "top10": "share of the highest tenth of pixels that both have, 0 to 1; 0.1 by chance",
    "ssim": "structural similarity of the clipped heatmaps, at most 1",
}


def agree(maps: Sequence[Floats | None], look: Look) -> dict[str, Floats]:
    """(M, M) symmetric matrices by the names of MEASURES, for M attributions (C, H, W) of one image.

    Saliencies are reduced and ordered as they are drawn (``look``). NaN where a map is missing or constant; ssim also where
    it is smaller than the window of 11 x 11, or its picture is empty.
    """
    known = [k for k, values in enumerate(maps) if values is not None]
    found = {name: np.full((len(maps), len(maps)), np.nan) for name in MEASURES}
    if not known:
        return found
    kept = [values for values in maps if values is not None]
    saliency = torch.from_numpy(np.stack([in_order(values, look) for values in kept]))
    pictures = torch.from_numpy(np.stack([heat(values, look) for values in kept]))
    varied, drawn = (each.flatten(1).amax(dim=1) > each.flatten(1).amin(dim=1) for each in (saliency, pictures))
    if min(saliency.shape[1:]) < 2 * RADIUS + 1:
        drawn[:] = False
    for name, good in (("spearman", varied), ("top10", varied), ("ssim", drawn)):
        usable = good.nonzero()[:, 0].tolist()
        pairs = [(a, b) for a in usable for b in usable if a < b]
        for a in usable:
            found[name][known[a], known[a]] = 1
        if pairs:
            values = _measure(name, pictures if name == "ssim" else saliency, pairs)
            for (a, b), value in zip(pairs, values, strict=True):
                found[name][known[a], known[b]] = found[name][known[b], known[a]] = value
    return found


def _measure(name: str, maps: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """One number a pair of maps (M, H, W)."""
    first, second = (maps[list(side)] for side in zip(*pairs, strict=True))
    measure = {"spearman": spearman, "top10": top_overlap, "ssim": ssim}[name]
    values: list[float] = measure(first, second).tolist()
    return values


def mean_agreement(agreements: Sequence[dict[str, Floats]]) -> dict[str, tuple[Floats, Floats]]:
    """By measure: (M, M) means over the images where both maps are defined, and how many those are."""
    found = {}
    for name in MEASURES:
        stack = np.stack([each[name] for each in agreements])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a pair defined nowhere has no mean
            found[name] = (np.nanmean(stack, axis=0), np.isfinite(stack).sum(axis=0))
    return found
