"""Read the classes of the images of a folder from a table: CSV, text columns, Kaggle's and ILSVRC's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from xplain.core.errors import InputError, emit_note
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex, normalize_name
from xplain.data.ground_truth import is_ground_truth, read_ground_truth, refuse_image_numbers
from xplain.data.label_rows import (
    ClassFinder,
    Columns,
    Finder,
    LabelRow,
    LabelSetFinder,
    has_image_suffix,
    parse_row,
    read_numbered_lines,
)
from xplain.data.unique_labels import L, UniqueLabels

SET_FORMS = "write file,label;label;... in each line (the suffix of the file is optional)"
FORMS = (
    "write file,class or file class in each line (the suffix of the file is optional), ImageId,PredictionString as Kaggle does, "
    "or only the classes, one per line in the order of the files"
)


def read_label_file(path: Path, folder: Path, keys: Sequence[str], class_names: ClassNames) -> list[int]:
    """Return the class of each image of a folder.

    keys: the paths of the images in the folder, in order.
    Raises InputError if the table has no class for an image, if its rows contradict each other, or if it cannot be read.
    """
    lines = read_numbered_lines(path, "the labels", FORMS)
    finder = ClassFinder(class_names)
    index = FileIndex(folder, keys)
    if is_ground_truth([line for _, line in lines], finder, index):
        return read_ground_truth(path, lines, keys, class_names)
    rows = _read_rows(path, lines, finder, index)
    refuse_image_numbers(path, [(row.line, row.name, row.text) for row in rows])
    return _match_rows(path, rows, index)


def read_label_sets(path: Path, folder: Path, keys: Sequence[str], class_names: ClassNames) -> list[tuple[int, ...]]:
    """Return the labels of each image of a folder, from a table whose labels are names joined by semicolons; () without any.

    keys: the paths of the images in the folder, in order. Raises as ``read_label_file``.
    """
    lines = read_numbered_lines(path, "the labels", SET_FORMS)
    finder = LabelSetFinder(class_names)
    index = FileIndex(folder, keys)
    rows = _read_rows(path, lines, finder, index, SET_FORMS)
    return _match_rows(path, rows, index, SET_FORMS)


def _read_rows(
    path: Path, lines: Sequence[tuple[int, str]], finder: Finder[L], index: FileIndex, forms: str = FORMS
) -> list[LabelRow[L]]:
    """Return the rows of a table without its heading. Raises InputError if a line is no row."""

    def is_file(name: str) -> bool:
        return bool(index.find(name, path.parent))

    rows: list[LabelRow[L]] = []
    columns = Columns()
    for position, (number, line) in enumerate(lines):
        row = parse_row(line, columns, finder, is_file)
        if position == 0 and (row is None or row[2] is None) and _is_heading(line, row, is_file):
            columns = Columns.of_heading(line) or Columns()
            continue
        if row is None:
            raise InputError(f"line {number} of {str(path)!r} has 1 column: {line.strip()[:80]!r}", forms)
        name, text, label = row
        if label is None:
            raise finder.refusal(f"line {number} of {str(path)!r}", text, forms)
        rows.append(LabelRow(number, name, text, label))
    return rows


def _is_heading(line: str, row: tuple[str, str, object] | None, is_file: Callable[[str], bool]) -> bool:
    """Return whether a first line without a class names the columns: it names no file."""
    name = line.strip() if row is None else row[0]
    return not is_file(name) and not has_image_suffix(name)


def _match_rows(path: Path, rows: Sequence[LabelRow[L]], index: FileIndex, forms: str = FORMS) -> list[L]:
    """Return the class, or the labels, of each file. Rows of other files are checked and counted."""
    labels: UniqueLabels[L] = UniqueLabels(str(path))
    unused = []
    shared = []
    for row in rows:
        positions = index.find(row.name, path.parent)
        for i in positions:
            labels.add(i, index.keys[i], row.line, row.label, row.text)
        if not positions:
            labels.add(normalize_name(row.name), row.name, row.line, row.label, row.text)
            unused.append(row)
        elif len(positions) > 1:
            shared.append(row)
    classes = [labels.get(i) for i in range(len(index.keys))]
    missing = [key for key, label in zip(index.keys, classes, strict=True) if label is None]
    if missing:
        raise InputError(
            f"{str(path)!r} has no label for {len(missing)} of the images, such as {missing[0]!r}",
            f"add a row for every file: {forms}",
        )
    labels.note_repeated()
    _note_rows(path, unused, "name no image of the data set")
    _note_rows(path, shared, "label several images of the same name")
    return [label for label in classes if label is not None]


def _note_rows(path: Path, rows: Sequence[LabelRow[L]], problem: str) -> None:
    """Emit a note on rows with a problem, if there are any."""
    if rows:
        emit_note(f"{len(rows)} of the rows of {str(path)!r} {problem}, such as line {rows[0].line} ({rows[0].name!r})")
