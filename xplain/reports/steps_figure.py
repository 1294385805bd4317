"""Figure and data of a method that works through a sequence of inputs: each input, its local attribution and its score."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xplain.core.array_store import Floats, encode_arrays
from xplain.core.options import RenderOptions
from xplain.reports.band_pictures import show_bands
from xplain.reports.captions import wrap_caption
from xplain.reports.figures import new_figure
from xplain.reports.matplotlib_style import figure_style
from xplain.reports.render import CHUNK, normalize

STEPS = ("inputs", "maps", "scores", "kept_wc", "kept_epc")  # details of a method with the parameter ``sequence``
MAX_COLUMNS = 8  # of the figure
SIDE = 1.15  # inches of a picture
SCORE_COLOR, WEAK_COLOR, EXTREME_COLOR = "#0072b2", "#d55e00", "#009e73"


def encode_steps(steps: Mapping[str, Floats], attribution: Floats, record: Mapping[str, Any]) -> bytes:
    """Return NPZ bytes, float32 with the record: the attribution (C, H, W) and the steps.

    steps: ``inputs`` and ``maps`` (N + 1, C, H, W), ``scores`` (N + 1), and the shares of values that the masks keep, ``kept_wc`` and
    ``kept_epc`` (N).
    """
    return encode_arrays({**steps, "attribution": attribution}, record)


def choose_steps(count: int) -> list[int]:
    """Return at most MAX_COLUMNS steps out of ``count``, evenly spaced, with the first and the last."""
    return sorted({round(float(step)) for step in np.linspace(0, count - 1, min(count, MAX_COLUMNS))})


def draw_steps(
    steps: Mapping[str, Floats], options: RenderOptions, record: Mapping[str, Any], bands: Sequence[int] = ()
) -> bytes:
    """Return a PNG with the record inside it: some inputs above their local attributions, and the score and the kept shares of all steps.

    Each attribution is scaled by its own percentiles.
    """
    shown = choose_steps(len(steps["inputs"]))
    low = -1 if options.sign == "signed" else 0
    with figure_style({"font.size": 7, "axes.titlesize": 7}):
        figure = new_figure(SIDE * len(shown) + 0.3, 2 * SIDE + 2.1, layout="constrained")
        figure.suptitle(wrap_caption(record, 18 * len(shown)), fontsize=7.5, parse_math=False)
        pictures, curves = figure.subfigures(2, 1, height_ratios=(2 * SIDE + 0.5, 1.3))
        axes = pictures.subplots(2, len(shown), squeeze=False)
        for column, step in enumerate(shown):
            axes[0, column].imshow(show_bands(steps["inputs"][step], bands))
            axes[0, column].set_title(f"n = {step}\nscore {float(steps['scores'][step]):.3g}")
            heatmap = normalize(steps["maps"][step], options)
            axes[1, column].imshow(heatmap, cmap=options.colormap, vmin=low, vmax=1)
        for axis, name in ((axes[0, 0], "input"), (axes[1, 0], f"{options.sign} local\nattribution")):
            axis.set_ylabel(name)
        for axis in axes.flat:
            axis.set_xticks(())
            axis.set_yticks(())
            axis.spines[:].set_visible(False)
        _draw_curves(curves.subplots(1, 2), steps, shown)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=200, metadata={CHUNK: json.dumps(record)}, facecolor="white")
    return stream.getvalue()


def _draw_curves(axes: Sequence[Any], steps: Mapping[str, Floats], shown: Sequence[int]) -> None:
    """Draw the score of all steps, with a mark for those that are shown, and the shares of values that the two masks keep."""
    scores = steps["scores"]
    axes[0].plot(range(len(scores)), scores, "-o", color=SCORE_COLOR, lw=1.2, ms=3.5, markevery=list(shown))
    axes[0].set_title("score of the input")
    for name, label, color in (("kept_wc", "weak values", WEAK_COLOR), ("kept_epc", "extreme values", EXTREME_COLOR)):
        axes[1].plot(range(len(steps[name])), steps[name], color=color, lw=1.2, label=f"mask of {label}")
    axes[1].set_ylim(-0.05, 1.05)
    axes[1].set_title("share of values that are kept for the next input")
    axes[1].legend(frameon=False)
    for axis in axes:
        axis.set_xlabel("n")
        axis.locator_params(axis="x", integer=True)
        axis.spines[["top", "right"]].set_visible(False)
