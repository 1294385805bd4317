"""Split the rows of label tables, whatever separates their columns: tabs, commas, semicolons, or spaces."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from xplain.core import text_files
from xplain.core.errors import InputError, UsageError, add_hint
from xplain.data.class_names import ClassNames
from xplain.data.formats import is_image_name
from xplain.data.unique_labels import L

L_co = TypeVar("L_co", covariant=True)
FILE_COLUMNS = (
    "file", "filename", "file_name", "path", "filepath", "file_path", "image", "imageid", "image_id", "image_name",
    "image_path", "img", "name", "key", "id",
)  # fmt: skip
CLASS_COLUMNS = (
    "class", "label", "category", "target", "wnid", "synset", "class_id", "classid", "class_index", "label_id", "index",
    "class_name", "label_name", "ground_truth", "predictionstring",
)  # fmt: skip
KAGGLE = re.compile(r"(\S+(?:\s+-?\d+(?:\.\d+)?){4})(?:\s+\S+(?:\s+-?\d+(?:\.\d+)?){4})*")
BLANKS = " \t"  # other white space may be part of a name
MAX_SPLITS = 20  # of a line at spaces


@dataclass(frozen=True)
class LabelRow(Generic[L]):
    """A row of a label table. line: its number from 1. text: the class as it is written.

    label: the class, or the classes (int, ...) of a row that can have several; None if unknown.
    """

    line: int
    name: str
    text: str
    label: L | None


class Finder(Protocol[L_co]):
    """Find what the text of a table means."""

    separators: str  # of columns

    def find(self, text: str) -> L_co | None:
        """Return the meaning of a text; None if it has none."""

    def refusal(self, place: str, text: str, forms: str) -> InputError:
        """Return the error of a text without a meaning. place: the line. forms: the accepted forms of the table."""


def read_numbered_lines(path: Path, what: str, hint: str) -> list[tuple[int, str]]:
    """Return (line number, line) of the lines of a text file that are not blank.

    what: the purpose of the file, such as ``the labels``. Raises InputError with the hint if it cannot be read.
    """
    return [
        (number, line) for number, line in enumerate(text_files.read_lines(path, what, hint), 1) if line.strip(BLANKS)
    ]


def has_image_suffix(name: str) -> bool:
    """Return whether a name ends in the suffix of an image."""
    return is_image_name(Path(name))


class ClassFinder:
    """Find classes by the texts of a table; remembers texts that are no class too, which are slow to look up."""

    separators = ",;"

    def __init__(self, class_names: ClassNames) -> None:
        self._class_names = class_names
        self._known: dict[str, int | None] = {}

    def find(self, text: str) -> int | None:
        """Return the class of a text; None if it is no class."""
        if text not in self._known:
            self._known[text] = self._find(text)
        return self._known[text]

    def _find(self, text: str) -> int | None:
        """Return the class of a text: an index, a wnid, a name, or Kaggle's ``wnid x0 y0 x1 y1 ...``; None if it is no class."""
        wnids = set(text.split()[::5]) if KAGGLE.fullmatch(text) else {text}
        if len(wnids) > 1:
            return None
        try:
            return self._class_names.find(wnids.pop())
        except UsageError:
            return None

    def refusal(self, place: str, text: str, forms: str) -> InputError:
        """Return the error of a text that is no class. place: the line. forms: the accepted forms of the table."""
        if KAGGLE.fullmatch(text):
            wnids = sorted(set(text.split()[::5]))
            if len(wnids) > 1:
                return InputError(f"{place}: it names several classes: {', '.join(wnids)}", forms)
            text = wnids[0]
        try:
            self._class_names.find(text)
        except UsageError as error:
            return InputError(f"{place}: {error.message}", add_hint(error, forms))
        return InputError(f"{place}: invalid class {text!r}", forms)


class LabelSetFinder:
    """Find the classes of texts that join several names by semicolons; an empty text has none."""

    separators = ","  # semicolons are between labels

    def __init__(self, class_names: ClassNames) -> None:
        self._finder = ClassFinder(class_names)

    def find(self, text: str) -> tuple[int, ...] | None:
        """Return the distinct classes of a text in its order; None if one of them is unknown."""
        whole = self._finder.find(text)  # the name of a class may contain a semicolon
        if whole is not None:
            return (whole,)
        classes = [self._finder.find(part) for part in _split_set(text)]
        known = [label for label in classes if label is not None]
        return tuple(dict.fromkeys(known)) if len(known) == len(classes) else None

    def refusal(self, place: str, text: str, forms: str) -> InputError:
        """Return the error of a text with an unknown class. place: the line. forms: the accepted forms of the table."""
        unknown = next(part for part in _split_set(text) if self._finder.find(part) is None)
        return self._finder.refusal(place, unknown, forms)


def _split_set(text: str) -> list[str]:
    return [part.strip(BLANKS) for part in text.split(";") if part.strip(BLANKS)]


@dataclass(frozen=True)
class Columns:
    """The positions of the file name and the class in a row."""

    name: int = 0
    label: int = 1

    @classmethod
    def of_heading(cls, heading: str) -> Columns | None:
        """Return the positions that a heading states, or None if it does not name both columns."""
        for cells in split_columns(heading):
            names = [cell.strip().lower() for cell in cells]
            file = next((column for column in FILE_COLUMNS if column in names), None)
            label = next((column for column in CLASS_COLUMNS if column in names), None)
            if file and label:
                return cls(names.index(file), names.index(label))
        return None

    def pick(self, cells: Sequence[str]) -> tuple[str, str] | None:
        """Return the file name and the class of a row, or None if it has too few columns."""
        if len(cells) <= max(self.name, self.label):
            return None
        return cells[self.name].strip(BLANKS), cells[self.label].strip(BLANKS)


def split_columns(line: str, separators: str = ",;") -> Iterator[list[str]]:
    """Yield the cells of a line for each separator that it holds. Names and classes may hold spaces, so these come last."""
    if "\t" in line:
        yield line.split("\t")
    for separator in separators:
        if separator in line:
            try:
                yield next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
            except csv.Error:
                continue
    line = line.strip(BLANKS)
    for match in list(re.finditer(r"[ \t]+", line))[: -MAX_SPLITS - 1 : -1]:
        yield [line[: match.start()], line[match.end() :]]


def parse_row(
    line: str, columns: Columns, finder: Finder[L], is_file: Callable[[str], bool]
) -> tuple[str, str, L | None] | None:
    """Return (file name, text of the class, class) of a line; None if it has one column.

    Of the possible separators, takes the first that yields a file and a class, else a file, else a class, else the first.
    """
    pairs = [pair for cells in split_columns(line, finder.separators) if (pair := columns.pick(cells)) is not None]
    best: tuple[str, str, L | None] | None = None
    best_rank = -1
    for name, text in pairs:
        label = finder.find(text)
        rank = 2 * is_file(name) + (label is not None)
        if rank > best_rank:
            best, best_rank = (name, text, label), rank
        if rank == 3:
            break
    return best
