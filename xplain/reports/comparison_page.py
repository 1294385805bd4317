"""``compare.html``: the maps in one file that needs no network; pages/ holds what runs in the browser."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xplain.core.array_store import Floats
from xplain.core.config import RenderOptions, Sign
from xplain.reports.comparison import Cell, Comparison, Row
from xplain.reports.comparison_figure import CURVE_COLOURS
from xplain.reports.render import Bytes, colour_map, reduce_channels

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


def reduced(cell: Cell, look: RenderOptions) -> Floats:
    """(H, W) signed saliency."""
    return reduce_channels(cell.values.astype(np.float64), look.reduce)


def _ramp(look: RenderOptions, sign: Sign) -> list[str]:
    """256 colours, as the pictures have them: the chosen colour map where the sign is as chosen, else the default one."""
    same = (look.sign == "signed") == (sign == "signed")
    name = look.colours if same else RenderOptions(sign=sign).colours
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


@dataclass(frozen=True)
class Quantisation:
    """Levels -levels .. levels; level q stands for sign(q)·max·(|q|/levels)^power, so zero is exactly zero.

    power 2 spends the levels on small values: after clipping, those are what is seen.
    """

    levels: int
    power: int

    @property
    def bits(self) -> int:
        """Bits a value."""
        return (2 * self.levels).bit_length()

    def step(self, largest: float, value: float) -> float:
        """The distance from the level of ``value`` to the next one, in a map whose largest magnitude is ``largest``.

        What was rounded to a level is off by at most half of it.
        """
        q = round(self.levels * (abs(value) / largest) ** (1 / self.power)) if largest else 0
        return float(largest * (((q + 1) / self.levels) ** self.power - (q / self.levels) ** self.power))


FINE = Quantisation(32767, 1)


COARSE = tuple(Quantisation(levels, 2) for levels in (127, 63, 31))


def quantise(saliency: Floats, how: Quantisation) -> tuple[NDArray[np.int16], float]:
    """(H, W) levels, and the largest magnitude."""
    largest = float(np.abs(saliency).max())
    share = (np.abs(saliency) / largest) ** (1 / how.power) if largest else np.zeros_like(saliency)
    return (np.sign(saliency) * (share * how.levels).round()).astype(np.int16), largest


def pack(saliency: Floats, how: Quantisation) -> dict[str, Any]:
    """A map as base64 of deflated bytes: level + 32768 as high bytes then low bytes, or level + 128 where that is enough.

    ``delta``: bytes are differences to the left neighbour (modulo 256), where that is shorter.
    """
    levels, largest = quantise(saliency, how)
    if how.levels > 127:
        shifted = (levels.astype(np.int32) + 32768).ravel()
        plain = np.concatenate([shifted >> 8, shifted & 255]).astype(np.uint8)
    else:
        plain = (levels + 128).astype(np.uint8).ravel()
    delta = np.diff(plain, prepend=np.uint8(0))
    shortest = min(
        ((zlib.compress(data.tobytes(), 9), mark) for data, mark in ((plain, 0), (delta, 1))),
        key=lambda each: len(each[0]),
    )
    return {"max": largest, "delta": shortest[1], "data": base64.b64encode(shortest[0]).decode()}


def pack_within(
    maps: Sequence[Sequence[Floats | None]], budget: int
) -> tuple[Quantisation, list[list[dict[str, Any] | None]]]:
    """Rows of maps in 16 bits where all fit into ``budget`` bytes, else in the most levels that do, or in the fewest there are."""
    for how in (FINE, *COARSE):
        found: list[list[dict[str, Any] | None]] = []
        left = budget
        for row in maps:
            found.append([None if each is None else pack(each, how) for each in row])
            left -= sum(len(each["data"]) for each in found[-1] if each)
            if left < 0 and how != COARSE[-1]:
                break
        else:
            break
    return how, found


def pack_image(image: Bytes) -> str:
    """A data address of the image as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
