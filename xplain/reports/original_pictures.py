"""Draw an attribution on the whole photograph: the map is resampled once, from the model input to the photograph's pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from xplain.core.array_store import Floats
from xplain.core.errors import InputError
from xplain.core.options import RenderOptions
from xplain.data.preprocessing import CropBox
from xplain.reports.render import Panels, Pixels, draw_figure, encode_png, enlarge, normalize, overlay, paint

OUTSIDE = 128  # the gray of a heatmap where the model does not see the photograph
STRIP = 256  # rows that are drawn at a time
FIGURE_SIDE = 800  # pixels of the long side of the photograph in a figure


@dataclass(frozen=True, eq=False)
class Original:
    """A photograph at its own size. pixels: (H, W, 3). crop: the part that the model receives, in pixels of the photograph."""

    pixels: Pixels
    crop: CropBox

    def reduced_to(self, side: int) -> Original:
        """Return the photograph with a long side of at most ``side`` pixels."""
        height, width = self.pixels.shape[:2]
        factor = side / max(height, width)
        if factor >= 1:
            return self
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        pixels = np.asarray(Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX))
        across, down = size[0] / width, size[1] / height
        left, top, crop_width, crop_height = self.crop
        return Original(pixels, CropBox(left * across, top * down, crop_width * across, crop_height * down))


def resampling_weights(count: int, start: float, length: float, samples: int) -> Floats:
    """Return the matrix (count, samples) that resamples ``samples`` values spread over [start, start + length) at pixel centers.

    Bilinear interpolation, with the value at the border beyond the outermost centers; where the pixels are larger than the samples, a
    triangle filter of twice their width averages, as in Pillow. The rows of pixels whose center is outside are zero.
    """
    step = samples / length
    centers = (np.arange(count) + 0.5 - start) * step
    distances = np.abs(centers[:, None] - (np.arange(samples) + 0.5)) / max(step, 1)
    weights = np.clip(1 - distances, 0, None)
    inside = (centers >= 0) & (centers < samples)
    sums = weights.sum(axis=1, keepdims=True)
    return np.where(inside[:, None], weights / np.where(sums > 0, sums, 1), 0.0)


def _place(heatmap: Floats, original: Original) -> tuple[Floats, Floats]:
    """Return the matrices R (H, h) and C (w, W) for which R @ heatmap @ C is the heatmap (h, w) in the pixels of the photograph."""
    height, width = original.pixels.shape[:2]
    crop = original.crop
    rows = resampling_weights(height, crop.top, crop.height, heatmap.shape[0])
    columns = resampling_weights(width, crop.left, crop.width, heatmap.shape[1])
    return rows, columns.T


def paint_original(kind: str, original: Original, attribution: Floats, options: RenderOptions) -> Pixels:
    """Return the picture (H, W, 3) of a photograph. kind: overlay, heatmap or masked.

    The heatmap is normalized in the model input, so that a color has the same meaning there. The crop is outlined; around it, the
    overlay shows the photograph, heatmaps are gray and masked images black.
    """
    heatmap = normalize(attribution, options)
    rows, columns = _place(heatmap, original)
    resampled_columns = heatmap @ columns
    picture = np.empty_like(original.pixels)
    for start in range(0, len(picture), STRIP):
        strip = slice(start, start + STRIP)
        picture[strip] = paint(kind, original.pixels[strip], rows[strip] @ resampled_columns, options)
    if kind == "heatmap":
        picture[~rows.any(axis=1)] = OUTSIDE
        picture[:, ~columns.any(axis=0)] = OUTSIDE
    outline(picture, original.crop)
    return picture


def outline(picture: Pixels, crop: CropBox) -> None:
    """Draw a white line around the crop, and a black one around that, inside the picture; nothing if the crop is the whole picture."""
    height, width = picture.shape[:2]
    left, top, right, bottom = crop.left, crop.top, crop.left + crop.width, crop.top + crop.height
    if left <= 0 and top <= 0 and right >= width and bottom >= height:
        return
    thickness = max(1, round(max(height, width) / 500))
    for distance, value in ((2, 0), (1, 255)):
        margin = distance * thickness
        inset = (2 - distance) * thickness
        first_column, last_column = max(round(left) - margin, inset), min(round(right) + margin, width - inset)
        first_row, last_row = max(round(top) - margin, inset), min(round(bottom) + margin, height - inset)
        rows, columns = slice(first_row, last_row), slice(first_column, last_column)
        picture[rows, first_column : first_column + thickness] = value
        picture[rows, max(last_column - thickness, 0) : last_column] = value
        picture[first_row : first_row + thickness, columns] = value
        picture[max(last_row - thickness, 0) : last_row, columns] = value


def draw_original(
    kind: str,
    original: Original,
    attribution: Floats,
    options: RenderOptions,
    record: Mapping[str, Any],
    scale: int = 1,
) -> bytes:
    """Return a PNG of the whole photograph with the record inside it. The arguments are those of ``draw``."""
    if kind != "figure":
        return encode_png(enlarge(paint_original(kind, original, attribution, options), scale), record)
    small = original.reduced_to(FIGURE_SIDE)
    heatmap = normalize(attribution, options)
    rows, columns = _place(heatmap, small)
    resampled = rows @ heatmap @ columns
    image, blend = small.pixels.copy(), overlay(small.pixels, resampled, options)
    for picture in (image, blend):
        outline(picture, small.crop)
    resampled[~rows.any(axis=1)] = np.nan
    resampled[:, ~columns.any(axis=0)] = np.nan
    return draw_figure(Panels(image, resampled, blend), attribution, options, record)


def check_picture_size(name: str, height: int, width: int, scale: int) -> None:
    """Raise InputError if a picture would be larger than what Pillow opens."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 2**62)
    if height * width * scale**2 > limit and scale > 1:
        raise InputError(
            f"--scale {scale} would make a picture of {width * scale} x {height * scale} pixels of {name!r}",
            "use a smaller --scale",
        )
