"""Find the bounding boxes of images, and map them to the model input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from xplain.core.errors import InputError, UsageError, add_hint, emit_note
from xplain.data.box_files import COLUMNS, Box, BoxRow, read_box_table, read_xml_folder
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.label_rows import ClassFinder
from xplain.data.preprocessing import Preprocessing

__all__ = ["Annotations", "Box", "BoxTable", "locate_boxes", "read_annotations"]

TOLERANCE = 1e-3  # pixels by which rounded edges may exceed the image


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of the images of a data set. source: the file or folder, for messages. rows: by key of the image, each box once."""

    source: str
    rows: Mapping[str, Sequence[BoxRow]] = field(repr=False)

    def find_boxes(self, key: str) -> tuple[Box, ...]:
        """Return the boxes of an image, or () if it has none."""
        return tuple(row.box for row in self.rows.get(key, ()))


@dataclass(frozen=True, eq=False)
class BoxTable:
    """The boxes of a file or folder, for any data set. folder: the folder that paths with ``..`` start at."""

    source: str
    folder: Path
    rows: Sequence[BoxRow] = field(repr=False)

    def assign(self, index: FileIndex, class_names: ClassNames) -> Annotations:
        """Return the boxes of the images of a data set, which are found as those of label tables are.

        Emits a note if rows name no image, name several images, or repeat a box.
        Raises InputError if rows contradict each other: the same box has two classes.
        """
        by_image: dict[str, list[BoxRow]] = {}
        by_other_name: dict[str, list[BoxRow]] = {}
        unused, shared = [], []
        for row in self.rows:
            positions = index.find(row.name, self.folder)
            for i in positions:
                by_image.setdefault(index.keys[i], []).append(row)
            if not positions:
                by_other_name.setdefault(row.name, []).append(row)
                unused.append(row)
            elif len(positions) > 1:
                shared.append(row)
        find_class = ClassFinder(class_names).find
        unique = {key: _unique_rows(rows, find_class) for key, rows in by_image.items()}
        others = [_unique_rows(rows, find_class) for rows in by_other_name.values()]
        self._note_rows(unused, "name no image of the data set")
        self._note_rows(shared, "belong to several images of the same name")
        kept = {id(row) for rows in (*unique.values(), *others) for row in rows}
        repeated = [row for row in self.rows if id(row) not in kept]
        self._note_rows(repeated, "repeat another box of their image and count once")
        return Annotations(self.source, unique)

    def _note_rows(self, rows: Sequence[BoxRow], problem: str) -> None:
        """Emit a note on rows with a problem, if there are any."""
        if rows:
            emit_note(
                f"{len(rows)} of the boxes in {self.source!r} {problem}, such as {rows[0].name!r} ({rows[0].place})"
            )


def _unique_rows(rows: Iterable[BoxRow], find_class: Callable[[str], int | None]) -> list[BoxRow]:
    """Return the rows of an image with each box once. Raises InputError if a box has two classes.

    find_class: returns the class of a text, which may be an index, a wnid or a name, or None if it is no class.
    """
    unique: dict[tuple[float, ...], BoxRow] = {}
    for row in rows:
        first = unique.setdefault(row.box[:4], row)
        if not _is_same_class(first.box.label, row.box.label, find_class):
            raise InputError(
                f"{first.place} and {row.place} contradict each other: the same box of {first.name!r} is "
                f"{first.box.label!r} and {row.box.label!r}",
                "remove the wrong one",
            )
    return list(unique.values())


def _is_same_class(first: str, second: str, find_class: Callable[[str], int | None]) -> bool:
    """Return whether two texts name the same class. A box without a class, "", is not a box of a class."""
    if first == second:
        return True
    index = find_class(first) if first and second else None
    return index is not None and index == find_class(second)


def read_annotations(path: str) -> BoxTable:
    """Read boxes from a table or a folder of Pascal VOC XML files. The result is cached until the path is modified.

    A table has the columns image,x0,y0,x1,y1 and optionally class, in this order or in the order of its heading.
    XML files are named after their images; they count pixels from 1 and include the last one.
    Raises InputError that names the file and line.
    """
    return _read(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, _modified: int) -> BoxTable:
    is_folder = Path(path).is_dir()
    rows = list(read_xml_folder(Path(path)) if is_folder else read_box_table(Path(path)))
    if not rows:
        raise InputError(
            f"no bounding boxes found in {path!r}", f"use CSV with {COLUMNS}, or a directory of Pascal VOC XML files"
        )
    _refuse_fractions(path, rows)
    return BoxTable(path, Path(path) if is_folder else Path(path).parent, rows)


def _refuse_fractions(path: str, rows: Sequence[BoxRow]) -> None:
    """Raise InputError if the edges are fractions of the image instead of pixels."""
    if all(max(row.box[:4]) <= 1 for row in rows) and any(edge % 1 for row in rows for edge in row.box[:4]):
        raise InputError(
            f"the boxes in {path!r} are fractions of the image, from 0 to 1", "write them in pixels of the upright file"
        )


def _check_inside(row: BoxRow, key: str, width: int, height: int) -> None:
    """Raise InputError if a box is not inside its image, or was drawn on an image of another size."""
    left, top, right, bottom = row.box[:4]
    hint = "write boxes in pixels of the upright file"
    if min(left, top) < -TOLERANCE or right > width + TOLERANCE or bottom > height + TOLERANCE:
        raise InputError(
            f"the box {left:g},{top:g},{right:g},{bottom:g} ({row.place}) is outside {key!r} of {width} x {height} pixels",
            hint,
        )
    if row.size is not None and row.size not in ((width, height), (height, width)):
        raise InputError(
            f"the box in {row.place} was drawn on {row.size[0]} x {row.size[1]} pixels, but {key!r} has {width} x {height}",
            hint,
        )


def locate_boxes(
    annotations: Annotations,
    keys: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[int],
    preprocessing: Preprocessing,
    find_class: Callable[[str], int],
) -> Tensor:
    """Return the boxes of images in pixels of the model input: float64 (images, most boxes, 4), padded with NaN.

    The last axis is left, top, right, bottom.
    keys: names of the images in the data set. sizes: (height, width) of the upright files.
    targets: class per image; boxes of other classes are skipped, boxes without a class are used for every target.
    find_class: returns the index of a class name.
    Raises InputError if the model does not have the class of a box, or a box is not inside its image.
    """
    located = []
    for key, (height, width), target in zip(keys, sizes, targets, strict=True):
        geometry = preprocessing.geometry(width, height)
        rows = annotations.rows.get(key, ())
        for row in rows:
            _check_inside(row, key, width, height)
        located.append(
            [
                (
                    box.left * geometry.width / width - geometry.left,
                    box.top * geometry.height / height - geometry.top,
                    box.right * geometry.width / width - geometry.left,
                    box.bottom * geometry.height / height - geometry.top,
                )
                for box in (row.box for row in rows)
                if not box.label or _find_index(box.label, annotations.source, find_class) == target
            ]
        )
    table = torch.full((len(located), max(map(len, located), default=0), 4), torch.nan, dtype=torch.float64)
    for i, boxes in enumerate(located):
        table[i, : len(boxes)] = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return table


def _find_index(label: str, source: str, find_class: Callable[[str], int]) -> int:
    try:
        return find_class(label)
    except UsageError as error:
        raise InputError(
            f"invalid class of a box in {source!r}: {error.message}",
            add_hint(error, "use the model's class names, or omit the class to use the box for every target"),
        ) from None
