"""Attributions to pictures: reduce, clip, colour, lay over.

Pictures are for looking: everything here is a pure function of the raw values.
"""

from __future__ import annotations

import io
import json
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from xplain.core.array_store import DAMAGED, Floats, encode_arrays
from xplain.core.config import Reduce, RenderOptions
from xplain.core.errors import UsageError, did_you_mean
from xplain.core.files import printable, to_json

Bytes = NDArray[np.uint8]
KINDS = ("overlay", "heatmap", "masked", "figure", "raw")
CHUNK = "xplain"  # the PNG text chunk that holds the record


def to_pixels(image: Floats) -> Bytes:
    """(H, W, C) bytes of an image (C, H, W) in [0, 1]."""
    pixels: Bytes = (image.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return pixels


def reduce_channels(attribution: Floats, how: Reduce) -> Floats:
    """(H, W) of (C, H, W): the signed sum or mean over channels, the sum of magnitudes, or the largest magnitude."""
    if how == "abs-sum":
        return np.abs(attribution).sum(axis=0)
    if how == "max":
        return np.abs(attribution).max(axis=0)
    return attribution.sum(axis=0) if how == "sum" else attribution.mean(axis=0)


def in_order(attribution: Floats, look: RenderOptions) -> Floats:
    """(H, W) float64 saliency in the order of what is drawn: the values, their negatives, or their magnitudes."""
    values = reduce_channels(attribution.astype(np.float64), look.reduce)
    return {"positive": values, "negative": -values}.get(look.sign, np.abs(values))


def scale(attribution: Floats, look: RenderOptions) -> tuple[float, float]:
    """The values that become the ends of the colours: percentiles of the part that is drawn."""
    low, high = np.percentile(np.maximum(in_order(attribution, look), 0), look.clip)
    return float(low), float(high)


def heat(attribution: Floats, look: RenderOptions) -> Floats:
    """(H, W) in [0, 1], or in [-1, 1] around exactly zero for signed maps.

    The map's values below the lower percentile become 0, those above the upper one become 1, and those between are
    scaled linearly (Pan et al. 2021, section 5.1). Signed maps are clipped by the percentiles of their magnitudes.
    Where the two percentiles agree, only what lies above them is drawn; a map that has nothing above them gives zeros.
    """
    shown = np.maximum(in_order(attribution, look), 0)
    low, high = scale(attribution, look)
    scaled = np.clip((shown - low) / (high - low), 0, 1) if high > low else (shown > high).astype(np.float64)
    values = reduce_channels(attribution.astype(np.float64), look.reduce)
    return np.sign(values) * scaled if look.sign == "signed" else scaled


def remarks(attribution: Floats, look: RenderOptions) -> list[str]:
    """What is odd about a map, in the words of a record; empty for an ordinary one."""
    values, shown = reduce_channels(attribution, look.reduce), in_order(attribution, look)
    low, high = scale(attribution, look)
    found = []
    if values.min() == values.max():
        found.append("the map is constant")
    elif np.count_nonzero(values) == 1:
        found.append("a single pixel of the map is not zero")
    elif not (shown > 0).any():
        found.append(f"the map has no {look.sign} value")
    if not high > low:
        empty = not (shown > high).any()
        found.append(
            "the picture is empty: the clipped map has no contrast"
            if empty
            else "the percentiles of the clip agree: only what lies above them is drawn"
        )
    return found


def colour(heatmap: Floats, look: RenderOptions) -> Bytes:
    """(H, W, 3) colours of a heat."""
    position = (heatmap + 1) / 2 if look.sign == "signed" else heatmap
    return (colour_map(look.colours)(position)[..., :3] * 255).round().astype(np.uint8)


def colour_map(name: str) -> Any:
    """matplotlib's colour map. Raises UsageError with near matches."""
    import matplotlib

    if name not in matplotlib.colormaps:
        raise UsageError(
            f"unknown colour map {name!r}", did_you_mean(name, matplotlib.colormaps, "see matplotlib's names")
        )
    return matplotlib.colormaps[name]


def overlay(image: Bytes, heatmap: Floats, look: RenderOptions) -> Bytes:
    """(H, W, 3): the greyed image under the colours; where there is no heat, the image shows."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    ground = (0.5 * image + 0.5 * grey[..., None]) * 0.75
    weight = look.opacity * np.abs(heatmap)[..., None] ** 0.5
    return ((1 - weight) * ground + weight * colour(heatmap, look)).round().clip(0, 255).astype(np.uint8)


def masked(image: Bytes, heatmap: Floats) -> Bytes:
    """(H, W, 3): the image times the heat (AGI paper, Fig. 3)."""
    return (image * np.abs(heatmap)[..., None]).round().astype(np.uint8)


def top(image: Bytes, attribution: Floats, look: RenderOptions, share: float = 0.1) -> Bytes:
    """(H, W, 3): the image's most relevant ``share`` of pixels on grey (DGA paper, Fig. 6). Ties keep raster order."""
    order = np.argsort(-in_order(attribution, look), axis=None, kind="stable")[
        : max(round(share * image[..., 0].size), 1)
    ]
    found = np.full_like(image, 128)
    found.reshape(-1, 3)[order] = image.reshape(-1, 3)[order]
    return found


def draw(kind: str, image: Bytes, attribution: Floats, look: RenderOptions, record: Mapping[str, Any]) -> bytes:
    """A PNG of one kind (overlay, heatmap, masked, figure), with the record inside it.

    image: (H, W, 3); attribution: (C, H, W).
    """
    shown = heat(attribution, look)
    if kind == "figure":
        return figure(image, shown, attribution, look, record)
    pixels = {
        "overlay": lambda: overlay(image, shown, look),
        "heatmap": lambda: colour(shown, look),
        "masked": lambda: masked(image, shown),
    }[kind]()
    return encode_png(pixels, record)


def encode_png(pixels: Bytes, record: Mapping[str, Any]) -> bytes:
    """PNG bytes with the record as JSON in a text chunk."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt(CHUNK, to_json(record), zip=True)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=chunk)
    return stream.getvalue()


@contextmanager
def lenient_letters() -> Iterator[None]:
    """Letters that matplotlib's font lacks become boxes without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def figure(image: Bytes, shown: Floats, attribution: Floats, look: RenderOptions, record: Mapping[str, Any]) -> bytes:
    """Input, heatmap with colour bar, overlay and the model's five best classes, with a caption."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 7.5, "axes.titlesize": 8}), lenient_letters():
        canvas = Figure(figsize=(9, 2.45), dpi=210, layout="constrained")
        FigureCanvasAgg(canvas)
        first, second, beside, third, last = canvas.subplots(1, 5, width_ratios=(1, 1, 0.05, 1, 0.9))
        axes = (first, second, third)
        low = -1 if look.sign == "signed" else 0
        axes[0].imshow(image)
        painted = axes[1].imshow(shown, cmap=look.colours, vmin=low, vmax=1)
        axes[2].imshow(overlay(image, shown, look))
        for axis, title in zip(axes, ("input", f"{look.sign} attribution", "overlay"), strict=True):
            axis.set_title(title)
            axis.set_axis_off()
        bar = canvas.colorbar(painted, cax=beside, ticks=(low, 0, 1))
        bar.set_ticklabels(_tick_labels(attribution, look), fontsize=6.5)
        _draw_predictions(last, record)
        canvas.suptitle(textwrap.fill(printable(_caption(record)), 130), fontsize=8, parse_math=False)
        stream = io.BytesIO()
        canvas.savefig(stream, format="png", metadata={CHUNK: json.dumps(record)})
    return stream.getvalue()


def _tick_labels(attribution: Floats, look: RenderOptions) -> list[str]:
    low, high = scale(attribution, look)
    return (
        [f"≤ -{high:.2g}", f"±{low:.2g}", f"≥ {high:.2g}"]
        if look.sign == "signed"
        else ["", f"≤ {low:.2g}", f"≥ {high:.2g}"]
    )


def _draw_predictions(axis: Any, record: Mapping[str, Any]) -> None:
    best = list(record.get("prediction", ()))[::-1]
    names = [printable(str(each["name"] or each["index"])) for each in best]
    names = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    explained = record.get("target", {}).get("index")
    colours = ["#d1495b" if each["index"] == explained else "#7a8b99" for each in best]
    axis.barh(range(len(best)), [each["probability"] for each in best], color=colours)
    axis.set_yticks(range(len(best)), names, parse_math=False)
    axis.set_xlim(0, 1)
    axis.set_box_aspect(1)
    axis.set_title("probability")
    axis.spines[["top", "right"]].set_visible(False)


def _caption(record: Mapping[str, Any]) -> str:
    target = record.get("target", {})
    params = ", ".join(f"{key}={json.dumps(value).strip(chr(34))}" for key, value in record.get("params", {}).items())
    name = target.get("name") or target.get("index")
    return f"{record.get('method')} ({params}) for “{name}”" if params else f"{record.get('method')} for “{name}”"


def encode_raw(image: Floats, attribution: Floats, record: Mapping[str, Any]) -> bytes:
    """NPZ bytes: attribution float32 (C, H, W), image float32 (3, H, W), record as JSON text."""
    return encode_arrays({"attribution": attribution, "image": image}, record)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a PNG or NPZ that xplain wrote, or None where there is none."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                found = json.loads(str(content["record"]))
        else:
            with Image.open(path) as image:
                found = json.loads(image.info[CHUNK])
    except (*DAMAGED, Image.DecompressionBombError):
        return None
    return found if isinstance(found, dict) else None
