"""Boxes around objects: read from CSV or from XML as of ImageNet and Pascal VOC, and brought to the model's input."""

from __future__ import annotations

import csv
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
from xplain.data.preprocessing import Preprocessing

COLUMNS = "image,x0,y0,x1,y1[,class]"


class Box(NamedTuple):
    """Edges in pixels of the upright image file; the pixel of column c reaches from c to c + 1. label: a class, or empty."""

    left: float
    top: float
    right: float
    bottom: float
    label: str = ""


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of images by name: a key within the data set, or a file's name, with suffix or without."""

    source: str
    boxes: Mapping[str, tuple[Box, ...]]

    def of(self, key: str) -> tuple[Box, ...]:
        """The boxes of the image ``key``, under the fullest of its names that is known: ``a/b.jpg``, ``a/b``, ``b.jpg``, ``b``."""
        path = PurePosixPath(key)
        ends = [PurePosixPath(*path.parts[k:]) for k in range(len(path.parts))]
        names = [name for end in ends for name in (end.as_posix(), end.with_suffix("").as_posix())]
        return next((self.boxes[name] for name in names if name in self.boxes), ())


def read_annotations(path: str) -> Annotations:
    """Boxes from a CSV file (a first row that names the columns is passed over) or a folder of XML files, read once.

    XML counts pixels from 1 and names the last one; its file is named after the image. Raises InputError naming the place.
    """
    return _read(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: str, _changed: int) -> Annotations:
    rows = _read_folder(Path(path)) if Path(path).is_dir() else _read_table(Path(path))
    found: dict[str, tuple[Box, ...]] = {}
    for name, box in rows:
        found[name] = (*found.get(name, ()), box)
    if not found:
        raise InputError(f"there is no box in {path!r}", f"give CSV with {COLUMNS}, or a folder of XML files")
    return Annotations(path, found)


def _read_table(path: Path) -> Iterator[tuple[str, Box]]:
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the boxes {str(path)!r}: {error}", f"give CSV with {COLUMNS}") from None
    for number, row in enumerate(rows, 1):
        try:
            yield row[0].strip(), _box(row[1:5], *row[5:6])
        except (ValueError, TypeError):
            if number > 1:
                raise InputError(
                    f"line {number} of {str(path)!r} is no box: {','.join(row)}", f"write {COLUMNS}"
                ) from None


def _read_folder(folder: Path) -> Iterator[tuple[str, Box]]:
    for path in sorted(folder.rglob("*.xml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            for each in parse_xml(path.read_bytes()).iter("object"):
                left, top, right, bottom = (
                    each.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")
                )
                box = _box((left, top, right, bottom), each.findtext("name") or "")
                yield name, box._replace(left=box.left - 1, top=box.top - 1)
        except (ExpatError, OSError, ValueError, TypeError) as error:
            raise InputError(f"cannot read the boxes in {str(path)!r}: {error}", "give it as Pascal VOC does") from None


def parse_xml(content: bytes) -> ElementTree.Element:
    """The root element. Raises ExpatError for what is no XML, and ValueError for entities, which could grow without end."""
    builder, parser = ElementTree.TreeBuilder(), ParserCreate()

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {name!r}")

    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _box(edges: Sequence[str | None], label: str = "") -> Box:
    """Raises ValueError or TypeError unless there are four numbers that enclose something."""
    left, top, right, bottom = (float(each) for each in edges)  # type: ignore[arg-type]
    if not (left < right and top < bottom):
        raise ValueError("the edges enclose nothing")
    return Box(left, top, right, bottom, label.strip())


def locate_boxes(
    annotations: Annotations,
    keys: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[int],
    preprocessing: Preprocessing,
    find_class: Callable[[str], int],
) -> Tensor:
    """(images, most boxes, 4) float64: left, top, right, bottom in pixels of the model's input, NaN where there are fewer.

    keys: the images' names; sizes: (height, width) of their files; targets: boxes of other classes are left out, boxes without
    a class are not. find_class: a name's index. Raises InputError for a class that the model does not know.
    """
    found = []
    for key, (height, width), target in zip(keys, sizes, targets, strict=True):
        geometry = preprocessing.geometry(width, height)
        found.append(
            [
                (
                    box.left * geometry.width / width - geometry.left,
                    box.top * geometry.height / height - geometry.top,
                    box.right * geometry.width / width - geometry.left,
                    box.bottom * geometry.height / height - geometry.top,
                )
                for box in annotations.of(key)
                if not box.label or _index(box.label, annotations.source, find_class) == target
            ]
        )
    table = torch.full((len(found), max(map(len, found), default=0), 4), torch.nan, dtype=torch.float64)
    for i, boxes in enumerate(found):
        table[i, : len(boxes)] = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return table


def _index(label: str, source: str, find_class: Callable[[str], int]) -> int:
    try:
        return find_class(label)
    except UsageError as error:
        raise InputError(f"a box in {source!r}: {error}", "without a class it counts for every target") from None
