"""Read bounding boxes from CSV or Pascal VOC XML, and map them to the model input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError, ParserCreate

import torch
from torch import Tensor

from xplain.core.errors import InputError, UsageError
from xplain.core.text_files import read_csv_rows
from xplain.data.folders import walk_files
from xplain.data.preprocessing import Preprocessing

COLUMNS = "image,x0,y0,x1,y1[,class]"


class Box(NamedTuple):
    """A bounding box in pixels of the upright image file. label: a class, or "".

    Edges are coordinates: column c covers c to c + 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: str = ""


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of a data set.

    source: the file or folder, for messages. boxes: by image name, which is a key of the data set or a file name,
    with or without suffix.
    """

    source: str
    boxes: Mapping[str, tuple[Box, ...]]

    def find_boxes(self, key: str) -> tuple[Box, ...]:
        """Return the boxes of an image, or () if it has none.

        Looks up ``a/b.jpg``, ``a/b``, ``b.jpg`` and ``b`` in this order, and returns the boxes of the first name that has any.
        """
        parts = PurePosixPath(key).parts
        for start in range(len(parts)):
            name = PurePosixPath(*parts[start:])
            for candidate in (name.as_posix(), name.with_suffix("").as_posix()):
                if candidate in self.boxes:
                    return self.boxes[candidate]
        return ()


def read_annotations(path: str) -> Annotations:
    """Read boxes from a CSV file or a folder of Pascal VOC XML files. The result is cached until the path is modified.

    CSV has the columns image,x0,y0,x1,y1 and optionally class; a first row of column names is skipped.
    XML files are named after their images; they count pixels from 1 and include the last one.
    Raises InputError that names the file and line.
    """
    return _read(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, _modified: int) -> Annotations:
    rows = _read_xml_folder(Path(path)) if Path(path).is_dir() else _read_csv(Path(path))
    boxes: dict[str, tuple[Box, ...]] = {}
    for name, box in rows:
        boxes[name] = (*boxes.get(name, ()), box)
    if not boxes:
        raise InputError(f"no box in {path!r}", f"use CSV with {COLUMNS}, or a folder of Pascal VOC XML files")
    return Annotations(path, boxes)


def _read_csv(path: Path) -> Iterator[tuple[str, Box]]:
    """Yield (image name, box) for each row."""
    rows = read_csv_rows(path, "the boxes", f"use CSV with {COLUMNS}")
    for number, row in enumerate(rows, 1):
        try:
            box = _make_box(row[1:5], *row[5:6])
        except (ValueError, TypeError):
            if number == 1:  # may name the columns
                continue
            raise InputError(
                f"line {number} of {str(path)!r} is not a box: {','.join(row)}", f"write {COLUMNS}"
            ) from None
        yield row[0].strip(" \t"), box


def _read_xml_folder(folder: Path) -> Iterator[tuple[str, Box]]:
    """Yield (image name, box) for each object in the XML files."""
    for path in sorted(path for path in walk_files(folder) if path.suffix == ".xml"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            for element in parse_xml(path.read_bytes()).iter("object"):
                edges = [element.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
                box = _make_box(edges, element.findtext("name") or "")
                yield name, box._replace(left=box.left - 1, top=box.top - 1)
        except (ExpatError, OSError, ValueError, TypeError) as error:
            raise InputError(f"cannot read the boxes in {str(path)!r}: {error}", "use Pascal VOC XML") from None


def parse_xml(content: bytes) -> ElementTree.Element:
    """Return the root element of an XML document.

    Raises ExpatError if it is not XML, and ValueError if it declares an entity, which could expand to any size.
    """
    builder, parser = ElementTree.TreeBuilder(), ParserCreate()

    def refuse_entity(name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {name!r}")

    parser.EntityDeclHandler = refuse_entity
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _make_box(edges: Sequence[str | None], label: str = "") -> Box:
    """Return a box. Raises ValueError or TypeError unless the edges are four numbers that enclose an area."""
    left, top, right, bottom = (float(edge) for edge in edges)  # type: ignore[arg-type]
    if not (left < right and top < bottom):
        raise ValueError("the box is empty")
    return Box(left, top, right, bottom, label.strip())


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
    Raises InputError if the model does not have the class of a box.
    """
    located = []
    for key, (height, width), target in zip(keys, sizes, targets, strict=True):
        geometry = preprocessing.geometry(width, height)
        located.append(
            [
                (
                    box.left * geometry.width / width - geometry.left,
                    box.top * geometry.height / height - geometry.top,
                    box.right * geometry.width / width - geometry.left,
                    box.bottom * geometry.height / height - geometry.top,
                )
                for box in annotations.find_boxes(key)
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
            f"a box in {source!r}: {error}",
            "use the model's class names, or omit the class to use the box for every target",
        ) from None
