"""Pictures of the stability of a map: which pixels its repeats mark too, and the share that stays by source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xplain.core.array_store import Floats
from xplain.core.stability import SHARE, SOURCES
from xplain.reports.stability_summary import describe_stability

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
MIN_SIDE = 896  # pixels of the longer side, so that outlines of single pixels are visible
HATCH_PERIOD = 4  # pixels between the lines of the hatch
ALWAYS, MOSTLY, SOMETIMES = (255, 255, 255), (0, 229, 255), (160, 160, 160)
CAPTION_HEIGHT, CAPTION_SIZE = 66, 15
INSIDE = 0.9  # share from which its text is inside the bar
NAMES = {"draws": "other draws", "rounding": "other arithmetic", "noise": "noise"}


def mark_pixels(overlay: Pixels, shares: Floats) -> Pixels:
    """Return an enlarged overlay (H, W, 3) with the pixels that several maps mark.

    shares: (H, W), the share of the maps that have a pixel among their highest tenth. White outlines enclose those of every map, blue ones
    those of at least half of them, and those of fewer are hatched.
    """
    factor = max(-(-MIN_SIDE // max(shares.shape)), 1)
    picture = _enlarge(overlay, factor)
    large = _enlarge(shares, factor)
    row, column = np.indices(large.shape)
    sometimes = (large > 0) & (large < 0.5)
    picture[sometimes & ((row + column) % HATCH_PERIOD == 0)] = SOMETIMES
    picture[_outline(large >= 0.5)] = MOSTLY
    picture[_outline(large == 1)] = ALWAYS
    return picture


def add_caption(picture: Pixels, record: Mapping[str, Any]) -> Pixels:
    """Return a picture (H, W, 3) with the shares of marked pixels below it."""
    lines = describe_marks(record)
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + CAPTION_HEIGHT), "white")
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(CAPTION_SIZE)
    for number, line in enumerate(lines):
        draw.text((6, picture.shape[0] + 4 + number * (CAPTION_SIZE + 5)), line, fill="black", font=font)
    return np.asarray(canvas)


def describe_marks(record: Mapping[str, Any]) -> list[str]:
    """Return the lines of the caption for the record of a map."""
    entry = record["stability"]
    marks = entry["marks"]
    if marks is None:
        reasons = [entry[name]["undefined"] for name in SOURCES if entry[name] and entry[name].get("undefined")]
        return [f"no marks: {reasons[0] if reasons else 'no repeat of the map was measured'}"]
    repeats = ", ".join(f"{count} with {NAMES[name]}" for name, count in marks["repeats"].items())
    return [
        describe_stability(record),
        f"white: in all {marks['maps']} maps (this one, {repeats}): {marks['always']:.1%} of the image, of {SHARE:.0%}",
        f"blue: in at least half of them, hatched: in fewer; {marks['not_always']:.1%} of the image in some only",
    ]


def draw_bars(axes: Any, record: Mapping[str, Any]) -> None:
    """Draw the share of the highest tenth that stays for each source on an axis from 0 to 1, with a line at the share by chance."""
    entry = record["stability"]
    values = [None if entry[name] is None else entry[name]["top10"] for name in SOURCES]
    positions = range(len(SOURCES))
    axes.barh(positions, [value or 0 for value in values], color="#7a8b99", height=0.7)
    for position, name, value in zip(positions, SOURCES, values, strict=True):
        text = f"{value:.2f}" if value is not None else ("not measured" if entry[name] is None else "undefined")
        if value is not None and value > INSIDE:
            axes.text(value - 0.005, position, text, ha="right", va="center", fontsize=6, color="white")
        else:
            axes.text((value or 0) + 0.005, position, text, va="center", fontsize=6)
    axes.axvline(SHARE, color="#d1495b", linestyle="--", linewidth=0.8)
    axes.set_yticks(positions, SOURCES, fontsize=6)
    axes.set_xlim(0, 1)
    axes.set_xticks((0, SHARE, 0.5, 1), ("0", f"{SHARE:g} (chance)", "0.5", "1"), fontsize=6)
    axes.invert_yaxis()
    axes.set_title("share of the highest tenth that stays", fontsize=7, loc="left", pad=2)
    axes.spines[["top", "right"]].set_visible(False)


def _enlarge(values: Any, factor: int) -> Any:
    """Return an array (H, W, ...) with every pixel repeated ``factor`` times in both directions."""
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(mask: Mask) -> Mask:
    """Return the pixels of a mask (H, W) with a neighbor outside it. Outside of the picture counts as outside."""
    padded = np.pad(mask, 1)
    is_inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: Mask = mask & ~is_inner
    return outline
