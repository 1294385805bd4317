"""Read bounding boxes from tables and from Pascal VOC XML files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError, ParserCreate

from xplain.core.errors import InputError, emit_note
from xplain.data.file_index import normalize_name
from xplain.data.folders import walk_files
from xplain.data.label_rows import BLANKS, CLASS_COLUMNS, FILE_COLUMNS, has_image_suffix, read_numbered_lines

COLUMNS = "image,x0,y0,x1,y1[,class]"
EDGE_COLUMNS = (  # names of left, top, right, bottom in headings
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
SIZE_COLUMNS = {"w", "h", "width", "height"}
OTHER_COLUMNS = SIZE_COLUMNS | {  # that are no class
    *("id", "box_id", "annotation_id", "area", "score", "confidence", "conf", "probability"),
    *("pose", "truncated", "difficult", "occluded", "iscrowd", "depth", "source", "split"),
}


class Box(NamedTuple):
    """A bounding box in pixels of the upright image file. label: a class, or "".

    Edges are coordinates: column c covers c to c + 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    label: str = ""


@dataclass(frozen=True)
class BoxRow:
    """A box of an image. name: the image in its table. place: where the box is written, for messages.

    size: (width, height) of the image for which it was drawn, if that is written. is_difficult: marked so by Pascal VOC.
    """

    name: str
    box: Box
    place: str
    size: tuple[int, int] | None = None
    is_difficult: bool = False


@dataclass(frozen=True)
class BoxColumns:
    """The positions of the file name, the edges and the class in a row."""

    name: int = 0
    edges: tuple[int, ...] = (1, 2, 3, 4)
    label: int | None = 5

    @classmethod
    def of_heading(cls, cells: Sequence[str]) -> BoxColumns:
        """Return the positions that a heading states; those of COLUMNS if it names no edge.

        Raises ValueError if the heading states other edges, such as a width.
        """
        names = [cell.strip().lower() for cell in cells]
        edges = next((edges for edges in EDGE_COLUMNS if set(edges) <= set(names)), None)
        if edges is None:
            known = {name for edges in EDGE_COLUMNS for name in edges} | SIZE_COLUMNS | {"x", "y"}
            if known & set(names):
                raise ValueError("its heading does not name the columns x0, y0, x1 and y1")
            return cls()
        name = next((names.index(column) for column in FILE_COLUMNS if column in names), 0)
        positions = tuple(names.index(edge) for edge in edges)
        label = next((names.index(column) for column in CLASS_COLUMNS if column in names), None)
        if label is None and (name, *positions) == (0, 1, 2, 3, 4) and not OTHER_COLUMNS & set(names[5:6]):
            label = 5
        return cls(name, positions, label)

    def read(self, cells: Sequence[str]) -> tuple[str, Box]:
        """Return the file name and the box of a row. Raises ValueError if it is not a box."""
        if len(cells) <= max(self.name, *self.edges):
            raise ValueError("it has too few columns")
        label = cells[self.label] if self.label is not None and self.label < len(cells) else ""
        return cells[self.name].strip(BLANKS), make_box([cells[i] for i in self.edges], label)


def read_box_table(path: Path) -> Iterator[BoxRow]:
    """Yield the rows of a table. The first row is a heading if it holds no number and names no image file.

    Raises InputError that names the line that is not a box.
    """
    hint = f"use CSV with {COLUMNS}"
    columns = BoxColumns()
    for position, (number, line) in enumerate(read_numbered_lines(path, "the boxes", hint)):
        try:
            cells = _split(line)
            if position == 0 and _is_heading(line, cells):
                columns = BoxColumns.of_heading(cells)
                continue
            name, box = columns.read(cells)
        except (ValueError, csv.Error) as error:
            if position == 0 and "heading" in str(error):
                raise InputError(f"cannot read the boxes {str(path)!r}: {error}", f"write {COLUMNS}") from None
            raise InputError(
                f"line {number} of {str(path)!r} is not a box: {line.strip()[:200]}", f"write {COLUMNS}"
            ) from None
        yield BoxRow(normalize_name(name), box, f"line {number} of {str(path)!r}")


def _split(line: str) -> list[str]:
    """Return the cells of a line, separated by tabs, commas or semicolons."""
    separator = next((mark for mark in "\t,;" if mark in line), ",")
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _is_heading(line: str, cells: Sequence[str]) -> bool:
    """Return whether a line names columns: it holds no number and no image, whatever separates its words.

    Only a heading that names the edges may have empty cells.
    """
    words = [*cells, *re.split(r"[\s,;]+", line)]
    if any(_is_number(word) or has_image_suffix(word.strip()) for word in words):
        return False
    names = {cell.strip().lower() for cell in cells}
    return any(set(edges) <= names for edges in EDGE_COLUMNS) or all(map(str.strip, cells[:5]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_box(edges: Sequence[str | float | None], label: str = "") -> Box:
    """Return a box. Raises ValueError or TypeError unless the edges are four numbers that enclose an area."""
    left, top, right, bottom = map(float, edges)  # type: ignore[arg-type]
    if not (left < right and top < bottom):
        raise ValueError("the box is empty")
    return Box(left, top, right, bottom, label.strip())


def read_xml_folder(folder: Path) -> Iterator[BoxRow]:
    """Yield the objects in the XML files of a folder, which are named after their images.

    Pascal VOC counts pixels from 1; files that count from 0, as some of ImageNet do, start at the first pixel, and a note counts them.
    """
    clipped = 0
    for path in sorted(path for path in walk_files(folder) if path.suffix == ".xml"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            root = parse_xml(path.read_bytes())
            for element in root.iter("object"):
                box = _read_voc_box(element)
                clipped += box.left == -1 or box.top == -1
                box = box._replace(left=_from_first_pixel(box.left), top=_from_first_pixel(box.top))
                is_difficult = (element.findtext("difficult") or "").strip() == "1"
                yield BoxRow(name, box, repr(str(path)), _read_voc_size(root), is_difficult)
        except (ExpatError, OSError, ValueError, TypeError) as error:
            raise InputError(f"cannot read the boxes in {str(path)!r}: {error}", "use Pascal VOC XML") from None
    if clipped:
        emit_note(
            f"Pascal VOC counts pixels from 1, but boxes in {str(folder)!r} start at 0 (number of boxes: {clipped}); "
            "they are read as starting at the first pixel"
        )


def _read_voc_box(element: ElementTree.Element) -> Box:
    edges = [float(element.findtext(f"bndbox/{edge}") or "") for edge in ("xmin", "ymin", "xmax", "ymax")]
    return make_box([edges[0] - 1, edges[1] - 1, *edges[2:]], element.findtext("name") or "")


def _from_first_pixel(edge: float) -> float:
    return 0.0 if edge == -1 else edge


def _read_voc_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return the (width, height) that an XML file states, or None."""
    width = root.findtext("size/width") or ""
    height = root.findtext("size/height") or ""
    if not (width.strip().isdecimal() and height.strip().isdecimal()):
        return None
    size = int(width[:9]), int(height[:9])
    return size if all(size) else None


def parse_xml(content: bytes) -> ElementTree.Element:
    """Return the root element of an XML document.

    Raises ExpatError if it is not XML, and ValueError if it declares an entity, which could expand to any size.
    """
    builder, parser = ElementTree.TreeBuilder(), ParserCreate()

    def refuse_entity(name: str, *_: object) -> None:
        raise ValueError(f"XML entities are not allowed (found {name!r})")

    parser.EntityDeclHandler = refuse_entity
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()
