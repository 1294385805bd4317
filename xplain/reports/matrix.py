"""``agreement.png``: how far each pair of methods agrees, as matrices of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xplain.core.text import printable
from xplain.reports.figures import PAGE, SMALL, paper_style, save_figure
from xplain.reports.render import Floats

TITLES = {"spearman": "Spearman's ρ", "top10": "overlap of the top 10 %", "ssim": "SSIM of the heatmaps"}


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
