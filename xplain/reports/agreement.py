"""Agreement of methods on an image: rank correlation, overlap of the highest tenth, structural similarity."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xplain.core.array_store import Floats
from xplain.core.files import printable
from xplain.core.options import RenderOptions
from xplain.metrics._similarity import RADIUS, spearman, ssim, top_overlap
from xplain.reports.figures import LINE_HEIGHT, PAGE_WIDTH, TEXT_SIZE, new_figure, paper_style, save_figure
from xplain.reports.render import normalize, visible_part
from xplain.reports.text_layout import text_width, wrap_text

MEASURES = {
    "spearman": "Spearman's rank correlation between maps, from -1 to 1",
    "top10": "overlap of the top 10% of pixels, from 0 to 1 (0.1 expected by chance)",
    "ssim": "structural similarity between clipped heatmaps, at most 1",
}
LABEL_WIDTH = 1.6  # inches, at most
NUMBER_WIDTH = 0.25  # inches of the number of a row and the gaps around it
TITLES = {"spearman": "Spearman's ρ", "top10": "overlap of the top 10%", "ssim": "SSIM between heatmaps"}


def compute_agreement(maps: Sequence[Floats | None], options: RenderOptions) -> dict[str, Floats]:
    """Return symmetric matrices (M, M), by the names of MEASURES, of the agreement of M maps of one image.

    maps: attributions (C, H, W), None for a map that is missing.
    options: saliencies are reduced, and their order chosen, as the pictures are drawn.

    A value is NaN if one of its maps is missing or constant. ssim is NaN also if the image is smaller than its
    window of 11 x 11 pixels, or if the heatmap is constant.
    """
    matrices = {name: np.full((len(maps), len(maps)), np.nan) for name in MEASURES}
    present = [index for index, values in enumerate(maps) if values is not None]
    if not present:
        return matrices
    attributions = [values for values in maps if values is not None]
    saliency = torch.from_numpy(np.stack([visible_part(values, options) for values in attributions]))
    heatmaps = torch.from_numpy(np.stack([normalize(values, options) for values in attributions]))
    defined = {"spearman": _is_varied(saliency), "top10": _is_varied(saliency), "ssim": _is_varied(heatmaps)}
    if min(saliency.shape[1:]) < 2 * RADIUS + 1:
        defined["ssim"][:] = False
    for name, is_defined in defined.items():
        compared = heatmaps if name == "ssim" else saliency
        for (a, b), value in _compare_pairs(name, compared, is_defined.nonzero()[:, 0].tolist()).items():
            matrices[name][present[a], present[b]] = value
            matrices[name][present[b], present[a]] = value
    return matrices


def _is_varied(maps: Tensor) -> Tensor:
    """Return (M,) bool: which of the maps (M, H, W) are not constant."""
    return maps.flatten(1).amax(dim=1) > maps.flatten(1).amin(dim=1)


def _compare_pairs(name: str, maps: Tensor, usable: Sequence[int]) -> dict[tuple[int, int], float]:
    """Return a measure by the indices of each pair of usable maps; a map agrees with itself by 1."""
    values = {(index, index): 1.0 for index in usable}
    pairs = [(a, b) for a in usable for b in usable if a < b]
    if pairs:
        measure = {"spearman": spearman, "top10": top_overlap, "ssim": ssim}[name]
        first = maps[[a for a, _ in pairs]]
        second = maps[[b for _, b in pairs]]
        values.update(zip(pairs, measure(first, second).tolist(), strict=True))
    return values


def mean_agreement(agreements: Sequence[Mapping[str, Floats]]) -> dict[str, tuple[Floats, Floats]]:
    """Return, for each measure, the mean agreement (M, M) and the number of images (M, M).

    Both count the images on which both maps are defined.
    agreements: results of ``compute_agreement``, one per image.
    """
    means = {}
    for name in MEASURES:
        stack = np.stack([agreement[name] for agreement in agreements])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no value
            means[name] = (np.nanmean(stack, axis=0), np.isfinite(stack).sum(axis=0))
    return means


def draw_agreement(record: Mapping[str, Any], formats: Sequence[str]) -> dict[str, bytes]:
    """Return the figure by format: a matrix per measure.

    record: as ``describe_comparison`` returns it.
    """
    with paper_style():
        figure = make_agreement_figure(record)
        return {form: save_figure(figure, form) for form in formats}


def make_agreement_figure(record: Mapping[str, Any]) -> Any:
    """Return the matplotlib figure of ``draw_agreement``. Rows are as high as the lines of their labels."""
    labels = [wrap_text(printable(column), LABEL_WIDTH, TEXT_SIZE) for column in record["columns"]]
    label_width = NUMBER_WIDTH + max(text_width(line, TEXT_SIZE) for lines in labels for line in lines)
    cell = max(0.3, LINE_HEIGHT * (max(map(len, labels)) + 0.5))
    panel = max((PAGE_WIDTH - label_width - 0.4) / 3, cell * len(labels))
    figure = new_figure(3 * panel + label_width + 0.4, panel + 0.5, layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (name, agreement) in zip(panels, record["agreement"].items(), strict=True):
        means = np.array(agreement["mean"], dtype=float)  # None becomes NaN
        _draw_panel(axes, TITLES[name], means)
    for row, lines in enumerate(labels):
        panels[0].annotate(
            "\n".join(lines), (0, row), (-72 * NUMBER_WIDTH, 0), xycoords=panels[0].get_yaxis_transform(),
            textcoords="offset points", ha="right", va="center", annotation_clip=False, parse_math=False,
        )  # fmt: skip
    return figure


def _draw_panel(axes: Any, title: str, means: Floats) -> None:
    """Draw one matrix with numbered rows and columns.

    The color scale ranges from 0 to 1 in all panels, and negative values have the color of 0.
    """
    axes.imshow(np.nan_to_num(means), cmap="cividis", vmin=0, vmax=1)
    size = TEXT_SIZE if len(means) < 8 else TEXT_SIZE - 1.5
    for row, column in np.ndindex(means.shape):
        value = float(means[row, column])
        color = "black" if value > 0.55 else "white"  # NaN is drawn on the dark color of 0
        axes.text(column, row, _format_agreement(value), ha="center", va="center", size=size, color=color)
    axes.set_title(title, size=TEXT_SIZE + 1)
    numbers = [str(number) for number in range(1, len(means) + 1)]
    axes.set_xticks(range(len(means)), numbers)
    axes.set_yticks(range(len(means)), numbers)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _format_agreement(value: float) -> str:
    if np.isnan(value):
        return "n/a"
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "\u2212")
