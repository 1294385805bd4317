"""Class names and WordNet ids: look up a class, read a user's file, ImageNet-1k as shipped."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from xplain.core.config import parse_count
from xplain.core.errors import InputError, UsageError, did_you_mean

WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassNames:
    """The classes of a model. labels, wnids: names and WordNet ids by index, empty if unknown.

    count: the number of classes, or None if unknown. model: the name of the model, for messages.
    """

    labels: Sequence[str] = ()
    wnids: Sequence[str] = ()
    count: int | None = None
    model: str = "the model"

    def find(self, text: str) -> int:
        """Return the index of a class given as an index, a wnid or a name. Raises UsageError with near matches."""
        if (index := parse_count(text.removeprefix("-"))) is not None:
            index = -index if text.startswith("-") else index
            count = self.count or len(self.labels)
            if count and not 0 <= index < count:
                raise UsageError(f"class index {index} is not in 0 .. {count - 1}", "see xplain list classes")
            return index
        normalized = [_normalized(label) for label in self.labels]
        for key, names in ((text.lower(), self.wnids), (text, self.labels), (_normalized(text), normalized)):
            matches = [index for index, name in enumerate(names) if name == key]
            if len(matches) > 1:
                where = " and ".join(map(str, matches))
                raise UsageError(
                    f"class name {text!r} is ambiguous: it is the name of {where}", "use the index or the wnid"
                )
            if matches:
                return matches[0]
        known = [*self.labels, *self.wnids]
        raise UsageError(f"unknown class {text!r}", did_you_mean(text, known, "see xplain list classes"))

    def find_folder(self, name: str) -> int:
        """Return the class that a folder is named after: an exact class name first, even a number; else as ``find``."""
        return self.labels.index(name) if self.labels.count(name) == 1 else self.find(name)

    def describe(self, index: int) -> dict[str, str | int | None]:
        """Return the index with its wnid and name, None where they are unknown."""
        return {
            "index": index,
            "wnid": self.wnids[index] if index < len(self.wnids) else None,
            "name": self.labels[index] if index < len(self.labels) else None,
        }


def _normalized(name: str) -> str:
    return name.lower().replace("_", " ")


def is_wnid(name: str) -> bool:
    """Whether a name has the form of a WordNet id: ``n02123045``."""
    return WNID.fullmatch(name) is not None


@cache
def load_imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(wnids, names) of the 1000 ImageNet classes in the usual order."""
    text = resources.files("xplain.data").joinpath("imagenet1k.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return tuple(row[1] for row in rows), tuple(row[2] for row in rows)


def read_class_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(wnids or (), names) from text with one name a line, or from CSV or TSV with the header index, wnid, name.

    Indices are 0, 1, 2, ... in any order; wnid may be left out. Raises InputError for a file that cannot be read so.
    """
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the class names {str(path)!r}: {error}", "give a text or CSV file") from None
    if not lines:
        raise InputError(f"no class name in {str(path)!r}", "write one name a line")
    separator = "\t" if "\t" in lines[0] else ","
    header = [each.strip().lower() for each in lines[0].split(separator)]
    if not {"index", "name"} <= set(header):
        return (), tuple(line.strip() for line in lines)
    try:
        rows = sorted(
            csv.DictReader([separator.join(header), *lines[1:]], delimiter=separator), key=lambda r: int(r["index"])
        )
        if [int(row["index"]) for row in rows] != list(range(len(rows))):
            raise ValueError("the indices are not 0, 1, 2, ...")
        wnids = tuple(row["wnid"].strip() for row in rows) if "wnid" in header else ()
        return wnids, tuple(row["name"].strip() for row in rows)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"cannot read the class names {str(path)!r}: {error}", "write columns index,wnid,name"
        ) from None
