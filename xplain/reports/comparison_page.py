"""``compare.html``: the maps in one file that needs no network; pages/ holds what runs in the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from xplain.core.look import Look, Sign
from xplain.reports.comparison import Cell, Comparison, Row
from xplain.reports.comparison_figure import CURVE_COLOURS
from xplain.reports.packing import pack_image, pack_within
from xplain.reports.render import Floats, colour_map, reduce_channels

BUDGET = 7_400_000  # bytes for maps and images: a page of 20 images x 6 methods stays under 8 MB
CURVE = 29  # points of a curve on the page


def make_page(comparison: Comparison, record: Mapping[str, Any]) -> str:
    """The page. Maps are kept in 16 bits where all fit into BUDGET, else in the most levels that do."""
    maps = [[None if cell is None else reduced(cell, comparison.look) for cell in row.cells] for row in comparison.rows]
    images = [pack_image(row.image) for row in comparison.rows]
    how, packed = pack_within(maps, BUDGET - sum(map(len, images)))
    look = comparison.look
    data = {
        "columns": comparison.columns,
        "metrics": comparison.metrics,
        "look": {"clip": look.clip, "sign": look.sign, "reduce": look.reduce, "opacity": look.opacity},
        "quantisation": {"levels": how.levels, "power": how.power, "bits": how.bits},
        "colours": {
            "magnitude": _ramp(look, "positive"),
            "signed": _ramp(look, "signed"),
            "curves": CURVE_COLOURS,
        },
        "many_models": len(comparison.models) > 1,
        "means": record["means"],
        "agreement": record["agreement"],
        "failed": record["failed"],
        "rows": [_row(*each) for each in zip(comparison.rows, images, packed, strict=True)],
    }
    return fill("compare", data, "xplain compare")


def fill(name: str, data: Mapping[str, Any], title: str) -> str:
    """A page of pages/NAME.html with the shared style, its script and its data."""
    parts = files("xplain.reports") / "pages"
    text = (parts / f"{name}.html").read_text("utf-8")
    for mark, content in (
        ("TITLE", escape(title)),
        ("STYLE", (parts / "style.css").read_text("utf-8")),
        ("SCRIPT", (parts / f"{name}.js").read_text("utf-8")),
        ("DATA", script_json(data)),
    ):
        text = text.replace("{{" + mark + "}}", content)
    return text


def script_json(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a script element, whatever it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace").decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def reduced(cell: Cell, look: Look) -> Floats:
    """(H, W) signed saliency."""
    return reduce_channels(cell.values.astype(np.float64), look.reduce)


def _ramp(look: Look, sign: Sign) -> list[str]:
    """256 colours, as the pictures have them: the chosen colour map where the sign is as chosen, else the default one."""
    same = (look.sign == "signed") == (sign == "signed")
    name = look.colours if same else Look(sign=sign).colours
    values = (colour_map(name)(np.arange(256))[:, :3] * 255).round().astype(int)
    return [f"{r:02x}{g:02x}{b:02x}" for r, g, b in values]


def _row(row: Row, image: str, packed: list[dict[str, Any] | None]) -> dict[str, Any]:
    height, width = row.image.shape[:2]
    cells = [
        None if cell is None or each is None else each | _cell(cell)
        for cell, each in zip(row.cells, packed, strict=True)
    ]
    return {
        **{key: row.record[key] for key in ("input", "model", "target", "prediction")},
        "width": width,
        "height": height,
        "image": image,
        "cells": cells,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    scores = {}
    for label, score in cell.record["scores"].items():
        curve = score["curve"]
        if curve:
            places = np.linspace(0, len(curve) - 1, min(CURVE, len(curve))).round().astype(int)
            curve = [round(curve[k], 4) for k in places]
        scores[label] = {"value": score["value"], "undefined": score["undefined"], "curve": curve}
    keys = ("method", "params", "score", "against", "cost", "warnings")
    return {"scores": scores, **{key: cell.record[key] for key in keys}}
