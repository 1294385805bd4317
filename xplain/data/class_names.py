"""Names of classes: ImageNet-1k as shipped, or a user's file."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources
from pathlib import Path

from xplain.core.errors import InputError

WNID = re.compile(r"n\d{8}")


def is_wnid(name: str) -> bool:
    """Whether a name has the form of a WordNet id: ``n02123045``."""
    return WNID.fullmatch(name) is not None


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(wnids, names) of the 1000 ImageNet classes in the usual order."""
    text = resources.files("xplain.data").joinpath("imagenet1k.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return tuple(row[1] for row in rows), tuple(row[2] for row in rows)


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
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
