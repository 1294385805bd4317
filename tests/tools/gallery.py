"""Draw the maps of every method on two small trained networks: ``python -m tests.tools.gallery`` (or ``make gallery``).

Trains a vision transformer and a ConvNeXt on scikit-learn's digits, explains test digits with every method at its defaults, and
writes one picture per network: rows are digits, columns are methods.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import xplain
import xplain.methods
from tests.tools.digit_networks import SIDE, accuracy, enlarge, make_convnext, make_vit, read_digits, train
from xplain.core.errors import XplainError
from xplain.core.options import RenderOptions
from xplain.core.registry import METHODS
from xplain.core.types import Attribution
from xplain.reports.render import apply_colormap, normalize, to_pixels

FOLDER = Path(__file__).resolve().parents[2] / "samples" / ".readme"
NETWORKS = {"vit": (make_vit, 14), "convnext": (make_convnext, 12)}  # and the number of epochs
SHOWN = (3, 5, 8)  # one test digit of each class
SIGNED = RenderOptions(sign="signed", clip=(0.0, 99.0))
SCALE = 2  # screen pixels per image pixel
CELL = SIDE * SCALE
GAP = 4
LINE = 12  # height of a line of text in pixels
HEADING = 2 * LINE + 2
COLUMNS = 13  # of methods, beside the column of digits
MISSING = (225, 225, 225)


@dataclass(frozen=True)
class Column:
    """The maps (N, C, H, W) of a method, or the reason why there are none."""

    method: str
    maps: Tensor | None
    reason: str = ""


def explain(classifier: xplain.Classifier, images: Tensor, methods: Sequence[str]) -> list[Column]:
    """Return a column per method, at its defaults."""
    columns = []
    for method in methods:
        try:
            result = xplain.attribute(classifier, images, method)
        except XplainError as error:
            columns.append(Column(method, None, str(error)))
        else:
            columns.append(_check_maps(method, result))
    return columns


def _check_maps(method: str, result: Attribution) -> Column:
    """Return the column of a result, without maps if one of them is zero everywhere or not finite."""
    if not bool(result.values.isfinite().all()):
        return Column(method, None, "the map contains NaN or infinity")
    if not bool(result.values.flatten(1).any(dim=1).all()):
        reasons = [flag for flag, mask in result.flags.items() if bool(mask.any())]
        return Column(method, None, f"the map is zero everywhere; {'; '.join(reasons)}".removesuffix("; "))
    return Column(method, result.values)


def choose_digits(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the first image (1, 8, 8) of each shown class that the network classifies correctly."""
    predicted = network((enlarge(images) - 0.5) / 0.5).argmax(dim=1)
    chosen = [images[(labels == digit) & (predicted == digit)][0] for digit in SHOWN]
    return torch.stack(chosen)


def draw_gallery(title: str, images: Tensor, labels: Sequence[str], columns: Sequence[Column]) -> Image.Image:
    """Return a picture with a row per image (N, 3, 32, 32) and a column per method, in bands of COLUMNS methods.

    title: first line. labels: text in each image's first cell. Pixels are repeated, so that nothing is blurred. Methods without maps have
    gray cells with a number, and their reasons are listed below the maps.
    """
    font = ImageFont.load_default(11)
    missing = [column for column in columns if column.maps is None]
    width = (COLUMNS + 1) * (CELL + GAP) + GAP
    reasons = []
    for number, column in enumerate(missing, 1):
        reason = column.reason if column.reason.startswith(column.method) else f"{column.method}: {column.reason}"
        reasons += textwrap.wrap(f"({number}) {reason}", 165, subsequent_indent="      ")
    bands = [columns[start : start + COLUMNS] for start in range(0, len(columns), COLUMNS)]
    band_height = HEADING + len(images) * (CELL + GAP) + GAP
    top = 2 * LINE + 3 * GAP
    picture = Image.new("RGB", (width, top + len(bands) * band_height + len(reasons) * (LINE + 2) + GAP), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), title, fill="black", font=ImageFont.load_default(13))
    _draw_scale(picture, GAP, GAP + LINE + 6, font)
    for band in bands:
        draw.text((GAP, top + LINE), "digit", fill="black", font=font)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            position = (GAP, top + HEADING + row * (CELL + GAP))
            picture.paste(_enlarged(to_pixels(image.numpy())), position)
            corner = (position[0] + 3, position[1] + CELL - LINE - 3)
            draw.text(corner, label, fill="white", font=font, stroke_width=2, stroke_fill="black")
        for index, column in enumerate(band, 1):
            left = GAP + index * (CELL + GAP)
            _draw_heading(draw, column.method, left, top, font)
            for row in range(len(images)):
                position = (left, top + HEADING + row * (CELL + GAP))
                if column.maps is None:
                    _draw_missing(draw, f"({missing.index(column) + 1})", position, font)
                else:
                    heatmap = normalize(column.maps[row].numpy(), SIGNED)
                    picture.paste(_enlarged(apply_colormap(heatmap, SIGNED)), position)
        top += band_height
    for line in reasons:
        draw.text((GAP, top), line, fill="black", font=font)
        top += LINE + 2
    return picture


def _enlarged(pixels: object) -> Image.Image:
    """Return pixels (32, 32, 3) as a picture in which each pixel is repeated."""
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)


def _draw_heading(draw: ImageDraw.ImageDraw, method: str, left: int, top: int, font: ImageFont.FreeTypeFont) -> None:
    """Write the name of a method above its column, in two lines if it is long."""
    lines = [method]
    parts = method.split("-")
    heads = ["-".join(parts[:count]) + "-" for count in range(1, len(parts))]
    heads = [text for text in heads if draw.textlength(text, font) <= CELL + GAP]
    if heads and draw.textlength(method, font) > CELL:
        lines = [heads[-1], method.removeprefix(heads[-1])]
    for number, line in enumerate(lines):
        draw.text((left, top + (2 - len(lines) + number) * LINE), line, fill="black", font=font)


def _draw_missing(
    draw: ImageDraw.ImageDraw, text: str, position: tuple[int, int], font: ImageFont.FreeTypeFont
) -> None:
    left, top = position
    draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=MISSING)
    draw.text((left + CELL // 2, top + CELL // 2), f"no map {text}", fill="black", font=font, anchor="mm")


def _draw_scale(picture: Image.Image, left: int, top: int, font: ImageFont.FreeTypeFont) -> None:
    """Draw the colors from -1 to 1 with their meaning."""
    draw = ImageDraw.Draw(picture)
    texts = ("against the class", "for the class; each map is scaled to the 99th percentile of its magnitudes")
    draw.text((left, top), texts[0], fill="black", font=font)
    left += int(draw.textlength(texts[0], font)) + GAP
    ramp = torch.linspace(-1, 1, 2 * CELL).expand(LINE, -1).numpy()
    picture.paste(Image.fromarray(apply_colormap(ramp, SIGNED)), (left, top))
    draw.text((left + 2 * CELL + GAP, top), texts[1], fill="black", font=font)


def write_gallery(name: str) -> None:
    """Train a network of NETWORKS, print its accuracy, and write its picture."""
    make, epochs = NETWORKS[name]
    digits = read_digits()
    started = time.process_time()
    network = train(make, digits, epochs)
    score = accuracy(network, digits)
    print(f"{name}: test accuracy {score:.3f} after {time.process_time() - started:.0f} s of CPU time", flush=True)
    chosen = choose_digits(network, digits.test_images, digits.test_labels)
    images = enlarge(chosen).contiguous()
    classifier = xplain.load_classifier(network, device="cpu")
    probabilities = classifier(images).softmax(dim=1).amax(dim=1)
    labels = [f"{digit} ({share:.0%})" for digit, share in zip(SHOWN, probabilities.tolist(), strict=True)]
    columns = explain(classifier, images, [spec.name for spec in METHODS])
    for column in columns:
        if column.maps is None:
            print(f"{name}: no map of {column.method}: {column.reason}")
    kind = type(network).__name__
    title = f"{kind} trained on 8 x 8 digits (test accuracy {score:.1%}): every method at its defaults"
    picture = draw_gallery(title, images, labels, columns)
    picture.save(FOLDER / f"digits.{name}.png", optimize=True)


def main() -> int:
    """Write the picture of every network."""
    torch.set_num_threads(1)
    for name in NETWORKS:
        write_gallery(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
