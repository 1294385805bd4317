"""Read class names and WordNet ids, and find classes by name."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.option_values import parse_count
from xplain.core.text_files import read_lines

MAX_LISTED = 10  # classes that an error lists
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassNames:
    """The classes of a model. labels, wnids: names and WordNet ids by index, empty if unknown.

    count: number of classes, or None if unknown. model: name of the model in messages.
    """

    labels: Sequence[str] = ()
    wnids: Sequence[str] = ()
    count: int | None = None
    model: str = "the model"

    def find(self, text: str) -> int:
        """Return the index of a class from an index, a wnid or a name. Raises UsageError if there is none or more than one."""
        index = _parse_index(text)
        if index is not None:
            return self._check_index(index)
        normalized = [_normalize(label) for label in self.labels]
        first_names = [label.partition(",")[0] for label in normalized]  # "tabby, tabby cat" is also found as "tabby"
        lists = ((text.lower(), self.wnids), (text, self.labels), (_normalize(text), normalized))
        for key, names in (*lists, (_normalize(text), first_names)):
            matches = [i for i, name in enumerate(names) if name == key]
            if len(matches) > 1:
                indices = " and ".join(map(str, matches))
                raise UsageError(
                    f"class name {text!r} is ambiguous: classes {indices} have it", "use the index or the wnid"
                )
            if matches:
                return matches[0]
        known = [*self.labels, *self.wnids]
        raise UsageError(f"unknown class {text!r}", did_you_mean(text, known, self._hint()))

    def _hint(self) -> str:
        """Return the classes if they are few, otherwise how to list them."""
        if 0 < len(self.labels) <= MAX_LISTED:
            return f"classes are {', '.join(self.labels)}"
        if not self.labels and not self.wnids:
            return "use an index, or name the classes with --classes FILE"
        return f"see xplain list classes -m {shlex.quote(self.model)}"

    def _check_index(self, index: int) -> int:
        count = self.count or len(self.labels)
        if count and not 0 <= index < count:
            raise UsageError(f"class index {index} is out of range", f"use an index from 0 to {count - 1}")
        return index

    def find_folder(self, name: str) -> int:
        """Return the class of a folder name. An exact class name wins, even if it is a number; otherwise as ``find``."""
        return self.labels.index(name) if self.labels.count(name) == 1 else self.find(name)

    def describe(self, index: int) -> dict[str, str | int | None]:
        """Return the index, wnid and name of a class; unknown values are None."""
        return {
            "index": index,
            "wnid": self.wnids[index] if index < len(self.wnids) else None,
            "name": self.labels[index] if index < len(self.labels) else None,
        }


def _parse_index(text: str) -> int | None:
    """Return the whole number in ``text``, or None if it is not a number."""
    number = parse_count(text.removeprefix("-"))
    return -number if number is not None and text.startswith("-") else number


def _normalize(name: str) -> str:
    return name.lower().replace("_", " ")


def is_wnid(name: str) -> bool:
    """Return whether a name has the form of a WordNet id: ``n02123045``."""
    return WNID.fullmatch(name) is not None


@cache
def load_imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (wnids, names) of the 1000 ImageNet classes in the usual order."""
    text = resources.files("xplain.data").joinpath("imagenet1k.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return tuple(row[1] for row in rows), tuple(row[2] for row in rows)


def read_class_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read (wnids, names) from a text file with one name per line, or from CSV or TSV with the columns index, wnid, name.

    The indices must be 0, 1, 2, ... in any order. The column wnid is optional; without it, wnids is ().
    Raises InputError if the file cannot be read.
    """
    lines = [line for line in read_lines(path, "the class names", "pass a text or CSV file") if line.strip()]
    if not lines:
        raise InputError(f"no class name in {str(path)!r}", "write one name per line")
    separator = "\t" if "\t" in lines[0] else ","
    header = [column.strip().lower() for column in lines[0].split(separator)]
    if not {"index", "name"} <= set(header):
        return (), tuple(line.strip() for line in lines)
    try:
        return _read_table([separator.join(header), *lines[1:]], separator)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"cannot read the class names {str(path)!r}: {error}", "use the columns index,wnid,name"
        ) from None


def _read_table(lines: Sequence[str], separator: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    reader = csv.DictReader(lines, delimiter=separator)
    rows = sorted(reader, key=lambda row: int(row["index"]))
    if [int(row["index"]) for row in rows] != list(range(len(rows))):
        raise ValueError("the column index must hold 0, 1, 2, ...")
    has_wnids = "wnid" in (reader.fieldnames or ())
    wnids = tuple(row["wnid"].strip() for row in rows) if has_wnids else ()
    return wnids, tuple(row["name"].strip() for row in rows)
