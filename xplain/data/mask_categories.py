"""The categories of masks: their names, and the classes of the model that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xplain.core.errors import InputError, UsageError, add_hint, did_you_mean
from xplain.core.text_files import read_csv_rows, read_lines
from xplain.data.class_names import ClassNames

NAMES_FILE = "classes.txt"  # beside masks
VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
BACKGROUNDS = frozenset(
    ("background", "__background__", "_background_", "void", "unlabeled", "unlabelled", "other", "none", "ignore")
)
NUMBERED = re.compile(r"\s*(\d{1,5})\s*[\s,:;]\s*(\S.*?)\s*")
COLUMNS = "category,class"


@dataclass(frozen=True)
class CategoryClasses:
    """The classes of categories. source: the masks, for messages. table: classes by category, or None to look up categories as classes."""

    source: str
    class_names: ClassNames
    table: Mapping[str, frozenset[int]] | None = None
    _known: dict[str, frozenset[int]] = field(default_factory=dict, repr=False)

    def has(self, category: str, target: int) -> bool:
        """Return whether a category stands for a class. The category "" stands for every class.

        Raises InputError if there is no table and the category is no class of the model.
        """
        return not category or target in self._find(category)

    def check(self, categories: Iterable[str]) -> None:
        """Raise InputError if there is no table and one of the categories is no class of the model."""
        for category in filter(None, categories):
            self._find(category)

    def _find(self, category: str) -> frozenset[int]:
        if self.table is not None:
            return self.table.get(category, frozenset())
        if category not in self._known:
            try:
                self._known[category] = frozenset([self.class_names.find(category)])
            except UsageError as error:
                hint = f"map categories to classes in a CSV file with {COLUMNS}: categories=FILE"
                raise InputError(
                    f"the category {category!r} of {self.source!r} is no class of the model", add_hint(error, hint)
                ) from None
        return self._known[category]


def read_category_table(path: str, categories: Sequence[str], class_names: ClassNames) -> dict[str, frozenset[int]]:
    """Read the classes of categories from a CSV file with the columns category and class, in this order, and an optional heading.

    categories: all names that the masks can have. A category can have several rows.
    Raises InputError for a row that names no category or no class.
    """
    rows = read_csv_rows(Path(path), "the categories", f"write {COLUMNS} in each line")
    if rows and [cell.strip().lower() for cell in rows[0]] == COLUMNS.split(","):
        rows = rows[1:]
    table: dict[str, set[int]] = {}
    for row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise InputError(f"a row of {path!r} is not {COLUMNS}: {','.join(row)[:200]}", f"write {COLUMNS}")
        category, text = cells
        if category not in categories:
            listed = ", ".join(categories[:5])
            raise InputError(
                f"{path!r} names the category {category!r}, which the masks do not have",
                did_you_mean(category, categories, f"their categories are {listed}, ..."),
            )
        try:
            table.setdefault(category, set()).add(class_names.find(text))
        except UsageError as error:
            raise InputError(
                f"{path!r} names an unknown class of {category!r}: {error.message}",
                add_hint(error, "use the model's classes"),
            ) from None
    if not table:
        raise InputError(f"no category in {path!r}", f"write {COLUMNS} in each line")
    return {category: frozenset(classes) for category, classes in table.items()}


def read_index_names(path: Path) -> dict[int, str]:
    """Read the categories of the pixel values of masks, one per line: ``INDEX NAME``, or only names of the values 0, 1, ...

    The name of the background is "". Raises InputError if names without an index do not begin with the background, because it is unknown
    then whether the first is 0 or 1.
    """
    hint = "write INDEX NAME in each line, or a name per line that begins with background, which is 0"
    lines = [line for line in read_lines(path, "the categories of the masks", hint) if line.strip()]
    if not lines:
        raise InputError(f"no category in {str(path)!r}", hint)
    matches = [NUMBERED.fullmatch(line) for line in lines]
    numbered = [match for match in matches if match]
    if len(numbered) == len(lines):
        pairs = [(int(match[1]), match[2]) for match in numbered]
    elif _is_background(lines[0]):
        pairs = [(index, line.strip()) for index, line in enumerate(lines)]
    else:
        raise InputError(f"{str(path)!r} does not say whether {lines[0].strip()!r} is the pixel value 0 or 1", hint)
    names: dict[int, str] = {}
    for index, name in pairs:
        if names.setdefault(index, name) != name:
            raise InputError(f"{str(path)!r} names the pixel value {index} twice: {names[index]!r} and {name!r}", hint)
    return {index: "" if index == 0 and _is_background(name) else name for index, name in names.items()}


def _is_background(name: str) -> bool:
    return name.strip().lower() in BACKGROUNDS
