"""The options ``--on`` and ``--scale`` of explain: check them, read whole images and describe what pictures show."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from xplain.core.config import ExplainConfig
from xplain.core.errors import InputError, UsageError
from xplain.core.options import PictureOptions
from xplain.data.images import decode_image, read_whole_bands, sha256
from xplain.data.loading import LoadedImage
from xplain.models import Classifier
from xplain.reports.band_pictures import show_bands
from xplain.reports.original_pictures import Original, check_picture_size

SCALED = ("overlay", "heatmap", "masked")
ON_ORIGINAL = (*SCALED, "figure")


def check_pictures(picture: PictureOptions, saves: Collection[str]) -> None:
    """Raise UsageError if an option applies to none of the outputs."""
    for name, is_set, kinds in (
        ("--on original", picture.on == "original", ON_ORIGINAL),
        ("--scale", picture.scale > 1, SCALED),
    ):
        if is_set and not set(kinds) & set(saves):
            raise UsageError(f"{name} does not apply to --save {' and '.join(saves)}", f"use {' or '.join(kinds)}")


def check_image(picture: PictureOptions, loaded: LoadedImage) -> None:
    """Raise InputError if the pictures of an image would be too large."""
    height, width = loaded.size if picture.on == "original" else loaded.pixels.shape[-2:]
    check_picture_size(loaded.source.name, height, width, picture.scale)


def load_original(config: ExplainConfig, classifier: Classifier, loaded: LoadedImage) -> Original | None:
    """Read an image at its own size, or return None if pictures show the model input. Raises InputError if its file changed."""
    if config.picture.on == "input":
        return None
    name, preprocessing = loaded.source.name, classifier.preprocessing
    content = loaded.source.read()
    if sha256(content) != loaded.digest:
        raise InputError(f"{name!r} changed while it was explained", "run the same command again")
    bands = read_whole_bands(content, name, preprocessing.pixels)
    pixels = np.array(decode_image(content, name)) if bands is None else show_bands(bands, config.pixels.bands)
    height, width = pixels.shape[:2]
    return Original(pixels, preprocessing.crop_box(width, height))


def describe_picture(picture: PictureOptions, original: Original | None) -> dict[str, Any]:
    """Return the record of what is drawn: the options, and on a whole image its size and the crop, in its pixels."""
    entries: dict[str, Any] = {"on": picture.on, "scale": picture.scale}
    if original is not None:
        height, width = original.pixels.shape[:2]
        crop = {name: round(value, 3) for name, value in original.crop._asdict().items()}
        entries |= {"width": width, "height": height, "crop": crop}
    return entries
