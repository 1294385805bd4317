"""Draw attributions as pictures: reduce channels, clip, color, overlay; and embed records in PNG and NPZ files.

Pictures are for viewing only: they are computed from the raw values, which they do not change.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from xplain.core.array_store import Floats, encode_arrays
from xplain.core.errors import UsageError, did_you_mean
from xplain.core.files import DAMAGED, printable, to_json
from xplain.core.options import Reduce, RenderOptions
from xplain.reports.captions import wrap_caption
from xplain.reports.matplotlib_style import figure_style, import_matplotlib
from xplain.reports.stability_picture import add_caption, draw_bars, mark_pixels

Pixels = NDArray[np.uint8]
KINDS = ("overlay", "heatmap", "masked", "figure", "raw", "steps", "stability")
CHUNK = "xplain"  # the PNG text chunk that holds the record
CAPTION_WIDTH = 130  # characters of a line above a figure
OUTSIDE_COLOR = (0.5, 0.5, 0.5)  # where the model does not see the photograph
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_pixels(image: Floats) -> Pixels:
    """Return the bytes (H, W, C) of an image (C, H, W) in [0, 1]."""
    pixels: Pixels = (image.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return pixels


def reduce_channels(attribution: Floats, how: Reduce) -> Floats:
    """Return (H, W) of (C, H, W): the signed sum or mean over channels, the sum of magnitudes, or the largest magnitude."""
    match how:
        case "sum":
            return attribution.sum(axis=0)
        case "mean":
            return attribution.mean(axis=0)
        case "abs-sum":
            return np.abs(attribution).sum(axis=0)
        case "max":
            return np.abs(attribution).max(axis=0)


def visible_part(attribution: Floats, options: RenderOptions) -> Floats:
    """Return the saliency (H, W) float64 whose positive values are drawn: the values, their negatives or their magnitudes."""
    values = reduce_channels(attribution.astype(np.float64), options.reduce)
    if options.sign == "positive":
        return values
    return -values if options.sign == "negative" else np.abs(values)


def clip_limits(attribution: Floats, options: RenderOptions) -> tuple[float, float]:
    """Return the values that become the ends of the colormap: percentiles of the drawn part."""
    low, high = np.percentile(np.maximum(visible_part(attribution, options), 0), options.clip)
    return float(low), float(high)


def normalize(attribution: Floats, options: RenderOptions) -> Floats:
    """Return the heatmap (H, W) of an attribution (C, H, W), in [0, 1], or in [-1, 1] for signed maps.

    Values below the lower percentile become 0, values above the upper one become 1, and values in between are
    scaled linearly (Pan et al. 2021, section 5.1). Signed maps are clipped by the percentiles of their magnitudes.
    If the two percentiles are equal, only values above them are drawn; without such values the heatmap is zero.
    """
    visible = np.maximum(visible_part(attribution, options), 0)
    scaled = _scale(visible, *clip_limits(attribution, options))
    if options.sign != "signed":
        return scaled
    return np.sign(reduce_channels(attribution.astype(np.float64), options.reduce)) * scaled


def _scale(values: Floats, low: float, high: float) -> Floats:
    """Return the values scaled from [low, high] to [0, 1] and clipped."""
    if low == high:
        return (values > high).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)


def render_warnings(attribution: Floats, options: RenderOptions) -> list[str]:
    """Return warnings about a map that is drawn empty or nearly empty."""
    values, visible = reduce_channels(attribution, options.reduce), visible_part(attribution, options)
    low, high = clip_limits(attribution, options)
    texts = []
    if values.min() == values.max():
        if attribution.any():  # a map of zeros has a warning of its own
            texts.append("the map is constant")
    elif np.count_nonzero(values) == 1:
        texts.append("only one pixel of the map is nonzero")
    elif not (visible > 0).any():
        texts.append(f"the map has no {options.sign} values")
    if low == high:
        if (visible > high).any():
            texts.append("the two clip percentiles have the same value, so only larger values are visible")
        else:
            texts.append("the visualization is blank, because the clipped map is constant")
    return texts


def get_colormap(name: str) -> Any:
    """Return matplotlib's colormap. Raises UsageError with similar names if there is none."""
    matplotlib = import_matplotlib()
    if name not in matplotlib.colormaps:
        hint = did_you_mean(name, matplotlib.colormaps, "use the name of a Matplotlib colormap")
        raise UsageError(f"unknown colormap {name!r}", hint)
    return matplotlib.colormaps[name]


def apply_colormap(heatmap: Floats, options: RenderOptions) -> Pixels:
    """Return the colors (H, W, 3) of a heatmap (H, W)."""
    position = (heatmap + 1) / 2 if options.sign == "signed" else heatmap
    return (get_colormap(options.colormap)(position)[..., :3] * 255).round().astype(np.uint8)


def overlay(image: Pixels, heatmap: Floats, options: RenderOptions) -> Pixels:
    """Return (H, W, 3): the darkened, half gray image under the colors, which are transparent where the heatmap is 0."""
    gray = image @ np.array(GRAY_WEIGHTS)
    background = (0.5 * image + 0.5 * gray[..., None]) * 0.75
    weight = options.opacity * np.abs(heatmap)[..., None] ** 0.5
    blend = (1 - weight) * background + weight * apply_colormap(heatmap, options)
    return blend.round().clip(0, 255).astype(np.uint8)


def mask(image: Pixels, heatmap: Floats) -> Pixels:
    """Return (H, W, 3): the image times the magnitude of the heatmap (AGI paper, Fig. 3)."""
    return (image * np.abs(heatmap)[..., None]).round().astype(np.uint8)


def keep_top_pixels(image: Pixels, attribution: Floats, options: RenderOptions, share: float = 0.1) -> Pixels:
    """Return an image (H, W, 3) that shows the most relevant ``share`` of pixels on a gray background (DGA paper, Fig. 6).

    Ties are broken in raster order. At least one pixel is kept.
    """
    count = max(round(share * image[..., 0].size), 1)
    top = np.argsort(-visible_part(attribution, options), axis=None, kind="stable")[:count]
    pixels = np.full_like(image, 128)
    pixels.reshape(-1, 3)[top] = image.reshape(-1, 3)[top]
    return pixels


def paint(kind: str, image: Pixels, heatmap: Floats, options: RenderOptions) -> Pixels:
    """Return the picture (H, W, 3) of an image (H, W, 3) and a heatmap (H, W). kind: overlay, heatmap or masked."""
    match kind:
        case "overlay":
            return overlay(image, heatmap, options)
        case "heatmap":
            return apply_colormap(heatmap, options)
        case _:
            return mask(image, heatmap)


def draw(
    kind: str,
    image: Pixels,
    attribution: Floats,
    options: RenderOptions,
    record: Mapping[str, Any],
    scale: int = 1,
    marks: Floats | None = None,
) -> bytes:
    """Return a PNG with the record inside it.

    kind: overlay, heatmap, masked, stability or figure.
    image: (H, W, 3).
    attribution: (C, H, W).
    scale: side of the square in the PNG that shows a pixel; figures have a fixed size, and pictures of stability are enlarged anyway.
    marks: (H, W), the share of the repeated maps that mark a pixel, for kind stability; None if it is undefined.
    """
    heatmap = normalize(attribution, options)
    match kind:
        case "figure":
            panels = Panels(image, heatmap, overlay(image, heatmap, options))
            return draw_figure(panels, attribution, options, record)
        case "stability":
            shares = np.zeros(heatmap.shape) if marks is None else marks
            return encode_png(add_caption(mark_pixels(overlay(image, heatmap, options), shares), record), record)
        case _:
            return encode_png(enlarge(paint(kind, image, heatmap, options), scale), record)


def enlarge(pixels: Pixels, scale: int) -> Pixels:
    """Return a picture whose pixels became squares of ``scale`` x ``scale`` pixels."""
    return pixels if scale == 1 else pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def encode_png(pixels: Pixels, record: Mapping[str, Any]) -> bytes:
    """Return PNG bytes with the record as JSON in a text chunk."""
    chunk = PngImagePlugin.PngInfo()
    chunk.add_itxt(CHUNK, to_json(record), zip=True)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=chunk)
    return stream.getvalue()


class Panels(NamedTuple):
    """The pictures of a figure: the image and the overlay (H, W, 3), and the heatmap (H, W), which is NaN where there is no map."""

    image: Pixels
    heatmap: Floats
    overlay: Pixels


def draw_figure(panels: Panels, attribution: Floats, options: RenderOptions, record: Mapping[str, Any]) -> bytes:
    """Return a PNG of the image, the heatmap with a color bar, the overlay and the model's best classes, with a caption.

    attribution: (C, H, W), of which the color bar shows the limits.
    record: embedded in the file; the caption and the classes are read from it.
    """
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with figure_style({"font.size": 7.5, "axes.titlesize": 8}):
        has_stability = record.get("stability") is not None
        figure = Figure(figsize=(9, 3.35 if has_stability else 2.45), dpi=210, layout="constrained")
        FigureCanvasAgg(figure)
        upper: Any = figure
        if has_stability:
            parts: Any = figure.subfigures(2, 1, height_ratios=(1, 0.38))
            upper = parts[0]
            draw_bars(parts[1].subplots(), record)
        axes = upper.subplots(1, 5, width_ratios=(1, 1, 0.05, 1, 0.9))
        _draw_panels(upper, axes, panels, options, _tick_labels(attribution, options), _title_input(record))
        _draw_predictions(axes[4], record)
        figure.suptitle(wrap_caption(record, CAPTION_WIDTH), fontsize=8, parse_math=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={CHUNK: json.dumps(record)})
    return stream.getvalue()


def _draw_panels(
    figure: Any,
    axes: Sequence[Any],
    panels: Panels,
    options: RenderOptions,
    tick_labels: Sequence[str],
    input_title: str,
) -> None:
    """Draw the image, the heatmap, its color bar and the overlay on the first four axes."""
    low = -1 if options.sign == "signed" else 0
    colormap = get_colormap(options.colormap).with_extremes(bad=OUTSIDE_COLOR)
    axes[0].imshow(panels.image)
    drawn_heatmap = axes[1].imshow(panels.heatmap, cmap=colormap, vmin=low, vmax=1)
    axes[3].imshow(panels.overlay)
    for index, title in ((0, input_title), (1, f"{options.sign} attribution"), (3, "overlay")):
        axes[index].set_title(title)
        axes[index].set_axis_off()
    bar = figure.colorbar(drawn_heatmap, cax=axes[2], ticks=(low, 0, 1))
    bar.set_ticklabels(tick_labels, fontsize=6.5)


def _title_input(record: Mapping[str, Any]) -> str:
    """Return ``input``, with the bands that are shown if the record names them."""
    bands = record.get("render", {}).get("bands", ())
    if not bands:
        return "input"
    return f"input (band{'s' if len(bands) > 1 else ''} {', '.join(map(str, bands))})"


def _tick_labels(attribution: Floats, options: RenderOptions) -> list[str]:
    low, high = clip_limits(attribution, options)
    if options.sign == "signed":
        return [f"≤ -{high:.2g}", f"±{low:.2g}", f"≥ {high:.2g}"]
    return ["", f"≤ {low:.2g}", f"≥ {high:.2g}"]


def _draw_predictions(axes: Any, record: Mapping[str, Any]) -> None:
    """Draw a bar per predicted class, the best on top, and color the explained class."""
    predictions = list(record.get("prediction", ()))[::-1]
    explained = record.get("target", {}).get("index")
    names = []
    for prediction in predictions:
        name = printable(str(prediction["name"] or prediction["index"]))
        names.append(name if len(name) <= 24 else name[:23] + "…")
    colors = ["#d1495b" if prediction["index"] == explained else "#7a8b99" for prediction in predictions]
    has_probabilities = all(prediction["probability"] is not None for prediction in predictions)
    key = "probability" if has_probabilities else "value"
    axes.barh(range(len(predictions)), [prediction[key] for prediction in predictions], color=colors)
    axes.set_yticks(range(len(predictions)), names, parse_math=False)
    if has_probabilities:
        axes.set_xlim(0, 1)
    axes.set_box_aspect(1)
    axes.set_title(key)
    axes.spines[["top", "right"]].set_visible(False)


def encode_raw(image: Floats, attribution: Floats, record: Mapping[str, Any]) -> bytes:
    """Return NPZ bytes: attribution and image float32 (C, H, W), and the record as JSON text."""
    return encode_arrays({"attribution": attribution, "image": image}, record)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record in a PNG or NPZ file that xplain wrote, or None if the file holds none."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                record = json.loads(str(content["record"]))
        else:
            with Image.open(path) as image:
                record = json.loads(image.info[CHUNK])
    except (*DAMAGED, Image.DecompressionBombError):
        return None
    return record if isinstance(record, dict) else None
