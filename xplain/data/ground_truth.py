"""Read lists of classes without file names, such as ILSVRC2012_validation_ground_truth.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from xplain.core.errors import InputError, emit_note
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.ilsvrc_devkit import META, find_meta, read_meta
from xplain.data.label_rows import ClassFinder

ILSVRC_IMAGE = re.compile(r"ILSVRC(20\d\d)_(?:val|test)_(\d{8})(?:\.\w+)?")
ILSVRC_LIST = re.compile(r"ILSVRC(20\d\d)_.*ground_truth", re.IGNORECASE)
NAMED_ROWS = "write file,class in each line"
Lines = Sequence[tuple[int, str]]  # (line number, line)


def is_ground_truth(lines: Sequence[str], finder: ClassFinder, index: FileIndex) -> bool:
    """Return whether every line is a class or a number, and no line is a file. The first line may be a heading."""
    texts = [line.strip() for line in lines]
    if texts and re.fullmatch(r"[A-Za-z_]+", texts[0]) and finder.find(texts[0]) is None:
        texts = texts[1:]
    return bool(texts) and all(_is_class(text, finder) and not index.find(text) for text in texts)


def _is_class(text: str, finder: ClassFinder) -> bool:
    return text.isdecimal() or finder.find(text) is not None


def read_ground_truth(path: Path, lines: Lines, keys: Sequence[str], class_names: ClassNames) -> list[int]:
    """Return the class of each image from a list with one class per line.

    ILSVRC images have the line of their number, other images the line of their position in the order of names.
    Numbers are ILSVRC2012_IDs, which meta.mat of the development kit explains, if the list or the images are ILSVRC's and no number
    is 0; otherwise they are class indices.
    Raises InputError if lines and images do not match.
    """
    finder = ClassFinder(class_names)
    first = lines[0][1].strip()
    if not _is_class(first, finder):
        lines = lines[1:]
    chosen = _choose_lines(path, lines, keys)
    texts = {line.strip() for _, line in lines}
    may_be_ids = all(text.isdecimal() for text in texts) and "0" not in texts
    year = _find_year(path, keys) if may_be_ids else None
    wnids = _read_wnids(path, year, class_names) if year else None
    classes = []
    for number, line in chosen:
        text = line.strip()
        if wnids is not None:
            text = _find_wnid(f"line {number} of {str(path)!r}: ILSVRC{year}_ID", text, wnids)
        label = finder.find(text)
        if label is None:
            raise finder.refusal(f"line {number} of {str(path)!r}", text, NAMED_ROWS)
        classes.append(label)
    meaning = f"ILSVRC{year}_IDs of the development kit" if year else "classes"
    emit_note(
        f"{str(path)!r} names no files; its lines are {meaning}: line {chosen[0][0]} is {keys[0]!r}, "
        f"line {chosen[-1][0]} is {keys[-1]!r}"
    )
    return classes


def _choose_lines(path: Path, lines: Lines, keys: Sequence[str]) -> list[tuple[int, str]]:
    """Return the line of each image."""
    numbers = [_ilsvrc_number(key) for key in keys]
    if all(number is not None and number <= len(lines) for number in numbers):
        return [lines[number - 1] for number in numbers if number]
    if len(lines) != len(keys):
        raise InputError(f"{str(path)!r} has {len(lines)} lines without file names for {len(keys)} images", NAMED_ROWS)
    if sorted(keys) != sorted(keys, key=_natural_order):
        raise InputError(
            f"{str(path)!r} has lines without file names, and the order of the images is ambiguous: sorted as text or by number",
            NAMED_ROWS,
        )
    position = {key: i for i, key in enumerate(sorted(keys))}
    return [lines[position[key]] for key in keys]


def _ilsvrc_number(key: str) -> int | None:
    """Return the number of an ILSVRC validation image, or None for another image."""
    match = ILSVRC_IMAGE.fullmatch(key.rsplit("/", 1)[-1])
    return int(match[2]) or None if match else None


def _natural_order(key: str) -> list[tuple[int, str]]:
    """Return a sort key that compares the numbers in a name by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def _find_year(path: Path, keys: Sequence[str]) -> str | None:
    """Return the year of the ILSVRC that the list, or each image, is named after; None if there is none."""
    if match := ILSVRC_LIST.match(path.name):
        return match[1]
    matches = [ILSVRC_IMAGE.fullmatch(key.rsplit("/", 1)[-1]) for key in keys]
    years = {match and match[1] for match in matches}
    return years.pop() if len(years) == 1 else None


def _read_wnids(path: Path, year: str, class_names: ClassNames) -> Mapping[int, str]:
    """Return the wnids by ILSVRC2012_ID. Raises InputError if the kit is not found, or the model has no wnids."""
    if not class_names.wnids:
        raise InputError(
            f"{str(path)!r} holds ILSVRC{year}_IDs, but the wnids of the model's classes are unknown",
            f"pass the wnids with --classes, or {NAMED_ROWS}",
        )
    meta = find_meta(path)
    if meta is None:
        raise InputError(
            f"{str(path)!r} holds ILSVRC{year}_IDs, but the {META} that explains them was not found",
            f"put the development kit's {META} beside the list, or {NAMED_ROWS}",
        )
    return read_meta(meta, year)


def _find_wnid(place: str, text: str, wnids: Mapping[int, str]) -> str:
    """Return the wnid of an ILSVRC2012_ID. place: the line, for messages."""
    wnid = wnids.get(int(text) if len(text) < 9 else 0)
    if wnid is None:
        raise InputError(f"{place} {text} is not in 1 .. {max(wnids, default=0)}", NAMED_ROWS)
    return wnid


def refuse_image_numbers(path: Path, rows: Sequence[tuple[int, str, str]]) -> None:
    """Raise InputError if the second column of a table numbers ILSVRC images, as in ImageSets/CLS-LOC/val.txt of the kit.

    rows: (line number, file name, text of the class).
    """
    numbers = [(_ilsvrc_number(name), text) for _, name, text in rows]
    if len(numbers) > 1 and all(number is not None and text == str(number) for number, text in numbers):
        raise InputError(
            f"the second column of {str(path)!r} numbers the images and is no class", "use a file with classes"
        )
