"""Read the numbers of the classes from the file meta.mat of an ILSVRC development kit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from xplain.core.errors import InputError, first_line
from xplain.data.class_names import is_wnid
from xplain.data.matlab_files import MAX_BYTES, read_structures

META = "meta.mat"
PLACES = (".", "data", "ILSVRC2012_devkit_t12/data")  # of META, in the folder of a list and its parent folders
MAX_NUMBER = 1 << 20
HINT = f"use the file {META} of the development kit (ILSVRC2012_devkit_t12/data)"


def find_meta(table: Path) -> Path | None:
    """Return the meta.mat next to a list or in the nearest of its parent folders, or None if there is none."""
    return next(
        (path for folder in _parents(table) for place in PLACES if _is_file(path := folder / place / META)), None
    )


def _parents(table: Path) -> Iterator[Path]:
    """Yield the folder of a list and its parents, then those of the file that a link leads to."""
    for path in (os.path.abspath(table), os.path.realpath(table)):  # noqa: PTH100  (resolve follows links)
        yield from Path(path).parents


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  (never raises)


def read_meta(path: Path, year: str) -> dict[int, str]:
    """Return the wnids by the number that the kit of a year gives them, such as ``ILSVRC2012_ID``.

    Raises InputError if the file cannot be read or does not number the classes of that year.
    """
    field = f"ILSVRC{year}_ID"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        synsets = read_structures(path.read_bytes(), "synsets", (field, "WNID"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {str(path)!r}: {first_line(error)}", HINT) from None
    if synsets is None:
        raise InputError(f"{str(path)!r} does not list classes with {field} and WNID", HINT)
    wnids: dict[int, str] = {}
    for synset in synsets:
        number, wnid = synset[field], synset["WNID"]
        if not _is_number(number) or not isinstance(wnid, str) or not is_wnid(wnid) or int(number) in wnids:
            raise InputError(f"{str(path)!r} has an invalid or repeated class: {number!r}, {wnid!r}", HINT)
        wnids[int(number)] = wnid
    return wnids


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a whole number from 1, which MATLAB may hold as a floating-point number."""
    return isinstance(value, int | float) and 1 <= value < MAX_NUMBER and value == int(value)
