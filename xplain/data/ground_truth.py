"""Read lists of classes without file names, such as ILSVRC2012_validation_ground_truth.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xplain.core.errors import InputError, emit_note
from xplain.data.class_names import ClassNames, load_ilsvrc_wnids
from xplain.data.file_index import FileIndex
from xplain.data.label_rows import ClassFinder

ILSVRC_IMAGE = re.compile(r"ILSVRC20\d\d_(?:val|test)_(\d{8})(?:\.\w+)?")
ILSVRC_LIST = re.compile(r"ILSVRC20\d\d_.*ground_truth", re.IGNORECASE)
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
    Numbers are ILSVRC2012_IDs if the list or the images are ILSVRC's and no number is 0; otherwise they are class indices.
    Raises InputError if lines and images do not match.
    """
    finder = ClassFinder(class_names)
    first = lines[0][1].strip()
    if not _is_class(first, finder):
        lines = lines[1:]
    chosen = _choose_lines(path, lines, keys)
    texts = {line.strip() for _, line in lines}
    uses_ids = all(text.isdecimal() for text in texts) and "0" not in texts and _is_ilsvrc(path, keys)
    wnids = _require_ilsvrc_classes(path, class_names) if uses_ids else ()
    classes = []
    for number, line in chosen:
        text = line.strip()
        if uses_ids:
            text = _find_wnid(path, number, text, wnids)
        label = finder.find(text)
        if label is None:
            raise finder.refusal(f"line {number} of {str(path)!r}", text, NAMED_ROWS)
        classes.append(label)
    meaning = "ILSVRC2012_IDs, from 1 in the order of the development kit" if uses_ids else "classes"
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
    return int(match[1]) or None if match else None


def _natural_order(key: str) -> list[tuple[int, str]]:
    """Return a sort key that compares the numbers in a name by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def _is_ilsvrc(path: Path, keys: Sequence[str]) -> bool:
    return ILSVRC_LIST.match(path.name) is not None or all(_ilsvrc_number(key) is not None for key in keys)


def _require_ilsvrc_classes(path: Path, class_names: ClassNames) -> Sequence[str]:
    """Return the wnids by ILSVRC2012_ID, from 1. Raises InputError if the model has no wnids to find them."""
    if not class_names.wnids:
        raise InputError(
            f"{str(path)!r} holds ILSVRC2012_IDs, but the wnids of the model's classes are unknown",
            f"pass the wnids with --classes, or {NAMED_ROWS}",
        )
    return load_ilsvrc_wnids()


def _find_wnid(path: Path, number: int, text: str, wnids: Sequence[str]) -> str:
    """Return the wnid of an ILSVRC2012_ID."""
    identifier = int(text) if len(text) < 9 else 0
    if not 1 <= identifier <= len(wnids):
        raise InputError(
            f"line {number} of {str(path)!r}: ILSVRC2012_ID {text} is not in 1 .. {len(wnids)}", NAMED_ROWS
        )
    return wnids[identifier - 1]


def refuse_image_numbers(path: Path, rows: Sequence[tuple[int, str, str]]) -> None:
    """Raise InputError if the second column of a table numbers ILSVRC images, as in ImageSets/CLS-LOC/val.txt of the kit.

    rows: (line number, file name, text of the class).
    """
    numbers = [(_ilsvrc_number(name), text) for _, name, text in rows]
    if len(numbers) > 1 and all(number is not None and text == str(number) for number, text in numbers):
        raise InputError(
            f"the second column of {str(path)!r} numbers the images and is no class", "use a file with classes"
        )
