"""Write mask files: PNG folders and COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.mask_regions import ImageFacts
from xplain.data.masks import Masks, find_masks
from xplain.data.preprocessing import Preprocessing

ANIMALS = ClassNames(("cat", "dog", "sheep", "person"), ("n02121808", "n02084071", "n02411705", "n00007846"), 4)
WHOLE = Preprocessing((6, 8), (6, 8))  # the model input is the image


def write_png(path: Path, values: ArrayLike, mode: str = "L", palette: list[int] | None = None, **options) -> None:
    """Write pixel values or, for RGB, colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8)).convert("L" if mode in ("1", "L", "P") else mode)
    if mode == "1":
        image = image.point(lambda value: 255 * (value > 0)).convert("1")
    if mode == "P":
        indices = image.tobytes()
        image = Image.frombytes("P", image.size, indices)
        image.putpalette(palette or [0] * 768)
    image.save(path, **options)


def voc_palette() -> list[int]:
    """Return the palette of Pascal VOC as its development kit computes it."""
    palette = []
    for index in range(256):
        color, bits = [0, 0, 0], index
        for position in range(7, -1, -1):
            for channel in range(3):
                color[channel] |= ((bits >> channel) & 1) << position
            bits >>= 3
        palette += color
    return palette


def write_coco(
    path: Path, annotations: list[dict], images: list[dict] | None = None, categories: list[dict] | None = None
) -> None:
    """Write a COCO file, by default of the image a.jpg of 8 x 6 pixels and the categories cat (1) and dog (2)."""
    content = {
        "images": images or [{"id": 7, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": i, "image_id": 7, "category_id": 1} | entry for i, entry in enumerate(annotations)],
        "categories": categories or [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    path.write_text(json.dumps(content))


def find(path: Path, *keys: str, class_names: ClassNames = ANIMALS, **options) -> Masks:
    """Return the masks of images with these keys in the folder /data/val."""
    return find_masks(str(path), FileIndex(Path("/data/val"), keys or ("a.jpg",)), class_names, **options)


def locate(
    masks: Masks, target: int = 0, size: tuple[int, int] = (6, 8), key: str = "a.jpg", orientation: int = 1,
    preprocessing: Preprocessing = WHOLE,
) -> np.ndarray | None:  # fmt: skip
    """Return the mask (H, W) of one image on the model input; None if it is undefined."""
    mask = masks.locate([ImageFacts(key, size, orientation)], [target], preprocessing)[0, 0].numpy()
    return None if np.isnan(mask).all() else mask
