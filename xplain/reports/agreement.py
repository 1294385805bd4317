"""How far methods agree on an image: rank correlation, overlap of the highest tenth, structural similarity."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from xplain.core.array_store import Floats
from xplain.core.config import RenderOptions
from xplain.core.files import printable
from xplain.metrics._similarity import RADIUS, spearman, ssim, top_overlap
from xplain.reports.figures import PAGE, SMALL, paper_style, save_figure
from xplain.reports.render import heat, in_order

MEASURES = {
    "spearman": "Spearman's rank correlation of the saliencies, -1 to 1",
    "top10": "share of the highest tenth of pixels that both have, 0 to 1; 0.1 by chance",
    "ssim": "structural similarity of the clipped heatmaps, at most 1",
}
TITLES = {"spearman": "Spearman's ρ", "top10": "overlap of the top 10 %", "ssim": "SSIM of the heatmaps"}


def agree(maps: Sequence[Floats | None], look: RenderOptions) -> dict[str, Floats]:
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


def draw_agreement(record: dict[str, Any], forms: Sequence[str]) -> dict[str, bytes]:
    """The figure in each format, of a record as ``describe`` makes it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = [label if len(label) <= 30 else label[:29] + "…" for label in map(printable, record["columns"])]
    labels = [f"{label}  {k}" for k, label in enumerate(labels, 1)]
    longest = 0.055 * max(map(len, labels))  # inches of the longest label
    panel = max((PAGE - longest - 0.4) / 3, 0.3 * len(labels))
    with paper_style():
        figure = Figure(figsize=(3 * panel + longest + 0.4, panel + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        for axis, (name, found) in zip(figure.subplots(1, 3), record["agreement"].items(), strict=True):
            means = np.array([[np.nan if v is None else v for v in row] for row in found["mean"]], dtype=float)
            _draw_panel(axis, TITLES[name], means, labels, with_names=name == "spearman")
        return {form: save_figure(figure, form) for form in forms}


def _draw_panel(axis: Any, title: str, means: Floats, labels: Sequence[str], with_names: bool) -> None:
    """One matrix, its columns numbered as its rows; the colours go from 0 to 1 for all three, and what is below is drawn as 0."""
    axis.imshow(np.nan_to_num(means), cmap="cividis", vmin=0, vmax=1)
    for i, j in np.ndindex(means.shape):
        known = np.isfinite(means[i, j])
        text = f"{means[i, j]:.2f}".replace("-0.00", "0.00").replace("-", "\u2212") if known else "?"
        tint = "black" if known and means[i, j] > 0.55 else "white"
        axis.text(j, i, text, ha="center", va="center", size=SMALL if len(labels) < 8 else SMALL - 1.5, color=tint)
    axis.set_title(title, size=SMALL + 1)
    numbers = [str(k) for k in range(1, len(labels) + 1)]
    axis.set_xticks(range(len(labels)), numbers)
    axis.set_yticks(range(len(labels)), labels if with_names else numbers, parse_math=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
