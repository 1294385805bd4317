"""Read lists of image paths with optional classes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from xplain.core.errors import InputError
from xplain.data.class_names import ClassNames
from xplain.data.formats import ARRAY_SUFFIXES, SUFFIXES
from xplain.data.label_rows import (
    BLANKS,
    ClassFinder,
    Columns,
    LabelRow,
    has_image_suffix,
    parse_row,
    read_numbered_lines,
)
from xplain.data.unique_labels import UniqueLabels

FORMS = "write a path, or a path, a tab and its class, in each line"
LABELED = re.compile(rf".*({'|'.join(map(re.escape, sorted(SUFFIXES | ARRAY_SUFFIXES)))})[\t ,;]+\S", re.IGNORECASE)


def read_list_file(path: Path, class_names: ClassNames) -> list[LabelRow[int]]:
    """Return the rows of a list, one per file: ``path``, or path and class with a tab, comma, semicolon or space between them.

    Paths without suffix are completed if there is one image of that name. A file that is listed twice is returned once.
    Raises InputError if the list holds no path, a line is not a path, or lines contradict each other.
    """
    finder = ClassFinder(class_names)
    labels: UniqueLabels[int] = UniqueLabels(str(path))
    rows: dict[str, LabelRow[int]] = {}
    columns = Columns()
    for position, (number, line) in enumerate(read_numbered_lines(path, "the list", "pass a text file of paths")):
        row = _parse_line(path, number, line, columns, finder)
        if position == 0 and row.label is None and _is_heading(path, row, line):
            columns = Columns.of_heading(line) or Columns()
            continue
        if row.text and row.label is None:
            raise finder.refusal(f"line {number} of {str(path)!r}", row.text, FORMS)
        if not Path(row.name).name:
            raise InputError(f"line {number} of the list {str(path)!r} is not a file path", "write one path per line")
        file = _identify(path.parent / row.name)
        if labels.add(file, row.name, number, row.label, row.text):
            rows[file] = row
    if not rows:
        raise InputError(f"the list {str(path)!r} contains no path", "write one path per line")
    labels.note_repeated()
    return [LabelRow(row.line, row.name, row.text, labels.get(file)) for file, row in rows.items()]


def _parse_line(path: Path, number: int, line: str, columns: Columns, finder: ClassFinder) -> LabelRow[int]:
    """Return the row of a line. Its text is "" if the line is only a path."""
    stripped = line.strip(BLANKS)

    def is_file(name: str) -> bool:
        return has_image_suffix(name) or _exists(path.parent / name)

    has_heading = columns != Columns()
    is_path = "\t" not in stripped and (
        (has_image_suffix(stripped) and not has_heading) or _exists(path.parent / stripped)
    )
    if is_path or not re.search(r"[\t ,;]", stripped):
        return LabelRow(number, _complete(path.parent, stripped), "", None)
    row = parse_row(line, columns, finder, is_file)
    if row is None:
        return LabelRow(number, stripped, "", None)
    name = _complete(path.parent, row[0])
    is_labeled = (
        "\t" in stripped or LABELED.match(line) is not None or (row[2] is not None and _exists(path.parent / name))
    )
    return LabelRow(number, name, row[1], row[2]) if is_labeled else LabelRow(number, stripped, "", None)


def _complete(folder: Path, name: str) -> str:
    """Return a path with the suffix of its file, if it has no suffix and exactly one image has that name."""
    if has_image_suffix(name) or not Path(name).name or _exists(folder / name):
        return name
    candidates = [suffix for suffix in _all_suffixes() if _exists(folder / f"{name}{suffix}")]
    return f"{name}{candidates[0]}" if len(candidates) == 1 else name


def _all_suffixes() -> list[str]:
    return [spelling for suffix in sorted(SUFFIXES | ARRAY_SUFFIXES) for spelling in (suffix, suffix.upper())]


def _is_heading(path: Path, row: LabelRow[int], line: str) -> bool:
    """Return whether the first row, which has no class, names the columns: it names no file."""
    if has_image_suffix(row.name) or _exists(path.parent / row.name):
        return False
    return bool(row.text) or Columns.of_heading(line) is not None


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110  (never raises)


def _identify(path: Path) -> str:
    """Return the real path of a file, which is the same for every spelling."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return str(path)
