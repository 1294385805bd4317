"""``compare.html``: a page that draws the maps of a comparison in the browser, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.options import RenderOptions, Sign
from xplain.reports.comparison import Cell, Comparison, Row
from xplain.reports.comparison_figure import CURVE_COLORS
from xplain.reports.map_encoding import EncodedRow, Quantization, encode_image, encode_maps
from xplain.reports.render import get_colormap, reduce_channels
from xplain.reports.stability_summary import describe_stability
from xplain.reports.templates import render_page, script_json

BUDGET = 7_400_000  # bytes for maps and images: a page of 20 images x 6 methods stays under 8 MB
CURVE_POINTS = 29  # at most, per curve on the page
RECORD_KEYS = ("method", "params", "score", "against", "cost", "warnings")


def make_comparison_page(comparison: Comparison, record: Mapping[str, Any]) -> str:
    """Return the page. Maps are stored with 16 bits if all fit into BUDGET, else with the most levels that fit.

    record: as ``describe_comparison`` returns it.
    """
    images = [encode_image(row.image) for row in comparison.rows]
    maps = [[_reduce(cell, comparison.options) for cell in row.cells] for row in comparison.rows]
    quantization, encoded_rows = encode_maps(maps, BUDGET - sum(map(len, images)))
    rows = [
        _describe_row(row, image, encoded_row)
        for row, image, encoded_row in zip(comparison.rows, images, encoded_rows, strict=True)
    ]
    data = _page_settings(comparison, record, quantization) | {"rows": rows}
    return render_page("comparison.html", data=script_json(data))


def _reduce(cell: Cell | None, options: RenderOptions) -> Floats | None:
    """Return the signed saliency (H, W) of a cell."""
    return None if cell is None else reduce_channels(cell.values.astype(np.float64), options.reduce)


def _page_settings(comparison: Comparison, record: Mapping[str, Any], quantization: Quantization) -> dict[str, Any]:
    """Return the data that the script of the page needs, except for the rows."""
    options = comparison.options
    return {
        "columns": comparison.columns,
        "metrics": comparison.metrics,
        "look": {"clip": options.clip, "sign": options.sign, "reduce": options.reduce, "opacity": options.opacity},
        "quantization": {"levels": quantization.levels, "power": quantization.power, "bits": quantization.bits},
        "colors": {
            "magnitude": _hex_colors(options, "positive"),
            "signed": _hex_colors(options, "signed"),
            "curves": CURVE_COLORS,
        },
        "many_models": len(comparison.models) > 1,
        "means": record["means"],
        "agreement": record["agreement"],
        "failed": record["failed"],
    }


def _hex_colors(options: RenderOptions, sign: Sign) -> list[str]:
    """Return 256 colors: of the chosen colormap for maps of the chosen kind of sign, else of the default colormap."""
    is_chosen_kind = (options.sign == "signed") == (sign == "signed")
    name = options.colormap if is_chosen_kind else RenderOptions(sign=sign).colormap
    values = (get_colormap(name)(np.arange(256))[:, :3] * 255).round().astype(int)
    return [f"{r:02x}{g:02x}{b:02x}" for r, g, b in values]


def _describe_row(row: Row, image: str, encoded_row: EncodedRow) -> dict[str, Any]:
    height, width = row.image.shape[:2]
    cells: list[dict[str, Any] | None] = []
    for cell, encoded in zip(row.cells, encoded_row, strict=True):
        cells.append(None if cell is None or encoded is None else encoded | _describe_cell(cell))
    return {
        **{key: row.record[key] for key in ("input", "model", "target", "prediction")},
        "width": width,
        "height": height,
        "image": image,
        "cells": cells,
    }


def _describe_cell(cell: Cell) -> dict[str, Any]:
    scores = {}
    for label, score in cell.record["scores"].items():
        curve = score["curve"] and _thin_out(score["curve"])
        scores[label] = {"value": score["value"], "undefined": score["undefined"], "curve": curve}
    stability = describe_stability(cell.record)
    return {"scores": scores, "stability": stability, **{key: cell.record[key] for key in RECORD_KEYS}}


def _thin_out(curve: Sequence[float]) -> list[float]:
    """Return at most CURVE_POINTS evenly spaced points, rounded to four digits."""
    indices = np.linspace(0, len(curve) - 1, min(CURVE_POINTS, len(curve))).round().astype(int)
    return [round(curve[index], 4) for index in indices]
