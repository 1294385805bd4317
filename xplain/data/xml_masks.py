"""Read the boxes of Pascal VOC XML files as masks, whose difficult objects can be ignored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xplain.core.errors import InputError
from xplain.data.box_files import BoxRow, read_xml_folder
from xplain.data.mask_regions import ImageFacts, IsWanted, MaskTable, Region
from xplain.data.mask_shapes import Pixels, fill_box

EDGE_TOLERANCE = 1e-3  # pixels by which rounded edges may exceed the image


@dataclass(frozen=True, eq=False)
class XmlMask:
    """The boxes of an image, in pixels of the upright file. ignore_difficult: difficult objects are ignored pixels."""

    name: str
    rows: Sequence[BoxRow] = field(repr=False)
    ignore_difficult: bool

    @property
    def names(self) -> Sequence[str]:
        """The name of the image."""
        return (self.name,)

    @property
    def place(self) -> str:
        """The file, for messages."""
        return self.rows[0].place

    def list_categories(self) -> Sequence[str]:
        """Return the names of the objects."""
        return [row.box.label for row in self.rows]

    def read(self, image: ImageFacts, is_wanted: IsWanted) -> Region | None:
        """Return the boxes of the wanted categories, or None if there are none. Raises InputError if a box is not inside the image."""
        height, width = image.size
        for row in self.rows:
            left, top, right, bottom = row.box[:4]
            has_other_size = row.size not in (None, (width, height), (height, width))
            exceeds = (
                min(left, top) < -EDGE_TOLERANCE or right > width + EDGE_TOLERANCE or bottom > height + EDGE_TOLERANCE
            )
            if has_other_size or exceeds:
                raise InputError(
                    f"the box {left:g},{top:g},{right:g},{bottom:g} ({row.place}) does not fit {image.key!r} of "
                    f"{width} x {height} pixels",
                    "write boxes in pixels of the upright file",
                )
        wanted = [row for row in self.rows if is_wanted(row.box.label)]
        kept = [row for row in wanted if not (self.ignore_difficult and row.is_difficult)]
        if not kept:
            return None
        difficult = [row for row in wanted if row not in kept]
        return Region(_draw(kept, image.size), _draw(difficult, image.size))


def _draw(rows: Sequence[BoxRow], size: tuple[int, int]) -> Pixels:
    pixels = np.zeros(size, dtype=bool)
    for row in rows:
        pixels |= fill_box(*row.box[:4], *size)
    return pixels


def read_xml_masks(folder: Path, *, ignore_difficult: bool) -> MaskTable:
    """Return the objects of the XML files of a folder. Raises InputError if one cannot be read."""
    rows: dict[str, list[BoxRow]] = defaultdict(list)
    for row in read_xml_folder(folder):
        rows[row.name].append(row)
    if not rows:
        raise InputError(f"no object in the XML files of {str(folder)!r}", "use Pascal VOC XML")
    entries = [XmlMask(name, objects, ignore_difficult) for name, objects in rows.items()]
    return MaskTable(str(folder), entries, sorted({row.box.label for objects in rows.values() for row in objects}))
