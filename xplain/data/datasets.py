"""Labelled images of a folder or a list: which there are, and which class each belongs to."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.data.class_names import ClassNames, is_wnid
from xplain.data.sources import SUFFIXES, ImageSource, find_images, has_images
from xplain.data.splits import find_entries, has_parts, is_torchvision
from xplain.data.tar_shards import Sample, find_shards, read_shards

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """An image of a data set. key: its name within the set, the same wherever the set lies. label: true class or None."""

    key: str
    source: ImageSource
    label: int | None


def read_dataset(location: str, class_names: ClassNames, labels: str | None = None) -> list[Item]:
    """The images of ``location`` in a fixed order, with their classes where they are known.

    location: a folder of class folders (wnids, class names, or numbers, which are class indices), a flat folder, a text file
    of paths (with a class behind a tab, where it is known), tar shards: a ``.tar`` file, a brace pattern, or a folder of them, or
    what has a part to test on, which is then read: a folder with ``train`` and ``test``, or ``torchvision:NAME:ROOT``.
    labels: a CSV file of file name and class, for a flat folder.
    Raises InputError when there is no image, or a folder is named after no class.
    """
    path = Path(location)
    tars = _find_tars(location)
    if labels is not None and (tars or not path.is_dir()):
        raise UsageError(f"--labels is for a folder of images, not {location!r}", "leave it out")
    if is_torchvision(location):
        return _read_torchvision(location, class_names)
    if tars:
        return _read_shards(tars, class_names)
    if path.is_dir() and has_parts(path):
        return [replace(item, key=f"test/{item.key}") for item in _read_folder(path / "test", class_names, labels)]
    if path.is_dir():
        return _read_folder(path, class_names, labels)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        return _read_list(path, class_names)
    raise InputError(f"no data set {location!r}", "give a folder, a text file of paths, or tar shards")


def _read_torchvision(location: str, class_names: ClassNames) -> list[Item]:
    """The images to test on, as PNG in memory."""
    _, entries, names, _ = find_entries(location, 0)
    classes = match_folders_to_classes(names, class_names)
    items = []
    for entry in entries:
        stream, name = BytesIO(), names[entry.label]
        entry.read().save(stream, "PNG", compress_level=1)
        source = ImageSource(None, entry.key, name, stream.getvalue(), member=entry.key)
        items.append(Item(entry.key, source, classes.get(name)))
    return items


def _find_tars(location: str) -> list[Path]:
    """The tar shards that ``location`` names, none where it is something else; a folder of shards holds no image."""
    path = Path(location)
    if path.is_dir():
        tars = sorted(each for each in path.glob("*") if each.suffix.lower() == ".tar" and each.name[0] != ".")
        return [] if not tars or has_images(path) else tars
    return find_shards(location) if location.lower().endswith(".tar") and (path.exists() or "{" in location) else []


def _read_shards(paths: Sequence[Path], class_names: ClassNames) -> list[Item]:
    """The images of tar shards; a ``.cls`` member must name a class, other members are labels where they do."""
    find = cache(class_names.find)  # a thousand names are looked through each time

    def label(sample: Sample) -> int | None:
        if sample.label is None:
            return None
        try:
            return find(sample.label)
        except UsageError as error:
            if sample.sure:
                raise InputError(f"the label of {sample.key!r}: {error}", "give --classes") from None
            return None  # a caption, say

    return [Item(sample.key, sample.source, label(sample)) for sample in read_shards(paths)]


def _read_folder(path: Path, class_names: ClassNames, labels: str | None) -> list[Item]:
    sources = find_images([str(path)])
    keys = [each.path.relative_to(path).as_posix() for each in sources if each.path is not None]
    if labels is not None:
        known = _read_labels(Path(labels), class_names)
        missing = [key for key in keys if key not in known and Path(key).name not in known]
        if missing:
            raise InputError(
                f"{labels!r} has no label for {missing[0]!r} and {len(missing) - 1} others", "name every file"
            )
        return [Item(k, s, known.get(k, known.get(Path(k).name))) for k, s in zip(keys, sources, strict=True)]
    folders = sorted({key.split("/")[0] for key in keys if "/" in key})
    if not folders:
        return [Item(key, source, None) for key, source in zip(keys, sources, strict=True)]
    classes = match_folders_to_classes(folders, class_names)
    items = [Item(k, s, classes.get(k.split("/")[0])) for k, s in zip(keys, sources, strict=True)]
    return sorted(items, key=lambda item: (-1 if item.label is None else item.label, item.key))


def match_folders_to_classes(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """The class of each folder: the one with that name or wnid; numbers that are no names are indices.

    Where the model's classes have no names and the folders are none of these, the folders' own order counts, if there is one for
    each class: sorted, it is that of torchvision's ImageFolder. With another number of folders none has a class. Either is said, as a
    ModelNote. Raises InputError for what is no class.
    """
    if all(name.isdecimal() for name in folders) and not all(name in class_names.labels for name in folders):
        return _numbered(folders, class_names)
    if not class_names.labels and not class_names.wnids:
        return _in_their_order(folders, class_names)
    if all(map(is_wnid, folders)) and not class_names.wnids:
        raise _unknown_wnids(folders)
    found: dict[str, int] = {}
    for name in folders:
        try:
            found[name] = class_names.find_folder(name)
        except UsageError as error:
            raise InputError(
                f"the folder {name!r} is named after no class: {error}", "give --classes or --labels"
            ) from None
    return found


def _numbered(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """Folders whose names are class indices."""
    count = class_names.count or len(class_names.labels)
    last = max(folders, key=int)
    if count and int(last) >= count:
        raise InputError(
            f"the folder {last!r} is named after no class: class index {int(last)} is not in 0 .. {count - 1}",
            "give --classes with the folders' names in the order of the classes",
        )
    if sorted(folders) != sorted(folders, key=int):
        warnings.warn(
            f"the folders' names are taken as class indices ({last!r} is class {int(last)}); torchvision's ImageFolder sorts such "
            "names as text: if the model was trained so, give --classes in that order",
            ModelNote,
            stacklevel=1,
        )
    return {name: int(name) for name in folders}


def _in_their_order(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """One folder for each class of a model without names; with another number of folders none has a class, and that is said."""
    count = class_names.count or len(folders)
    if len(folders) != count:
        if all(map(is_wnid, folders)):
            raise _unknown_wnids(folders)
        warnings.warn(
            f"{class_names.model} has {count} classes without names, and there are {len(folders)} class folders "
            f"({folders[0]!r}, ...): the images count as unlabelled; --classes with a name for each class labels them",
            ModelNote,
            stacklevel=1,
        )
        return {}
    warnings.warn(
        f"the classes of {class_names.model} have no names: the folders count in order, {folders[0]!r} as class 0 to "
        f"{folders[-1]!r} as class {count - 1}",
        ModelNote,
        stacklevel=1,
    )
    return {name: index for index, name in enumerate(folders)}


def _unknown_wnids(folders: Sequence[str]) -> InputError:
    return InputError(f"the folders are wnids ({folders[0]}, ...), which the model does not know", "give --classes")


def _read_labels(path: Path, class_names: ClassNames) -> dict[str, int]:
    """File name to class index, from CSV with two columns; a first row that names them is passed over."""
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read the labels {str(path)!r}: {error}", "give CSV with file name and class"
        ) from None
    found: dict[str, int] = {}
    find = cache(class_names.find)
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise InputError(f"line {number} of {str(path)!r} has {len(row)} columns", "write file name,class")
        name, label = row[0].strip(), row[1].strip()
        try:
            found[name] = find(label)
        except UsageError as error:
            if number > 1:
                raise InputError(f"line {number} of {str(path)!r}: {error}", "write file name,class") from None
    return found


def _read_list(path: Path, class_names: ClassNames) -> list[Item]:
    """Lines of ``path`` or ``path<tab>class``; relative paths start at the list's folder."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {str(path)!r}: {error}", "give a text file of paths") from None
    items = []
    find = cache(class_names.find)
    for number, line in enumerate(lines, 1):
        name, *rest = (part.strip() for part in line.split("\t"))
        if not name:
            continue
        if not Path(name).name:
            raise InputError(f"line {number} of the list {str(path)!r} names no file", "write one path a line")
        place = path.parent / name
        source = ImageSource(place, str(Path(name).with_suffix("")), place.absolute().parent.name)
        try:
            items.append(Item(name, source, find(rest[0]) if rest else None))
        except UsageError as error:
            raise InputError(f"line {number} of {str(path)!r}: {error}", "write a path, a tab and its class") from None
    if not items:
        raise InputError(f"the list {str(path)!r} names no image", "write one path a line")
    return items


def select_items(items: Iterable[Item], limit: int | None, per_class: int | None) -> list[Item]:
    """The first ``per_class`` images of each class, then ``limit`` of them, evenly spread over the set."""
    chosen, counts = [], dict[int | None, int]()
    for item in items:
        counts[item.label] = counts.get(item.label, 0) + 1
        if per_class is None or counts[item.label] <= per_class:
            chosen.append(item)
    if limit is None or limit >= len(chosen):
        return chosen
    return [chosen[len(chosen) * k // limit] for k in range(limit)]


def select_shard(items: Sequence[T], index: int, count: int) -> list[T]:
    """Every ``count``-th item from ``index`` on."""
    return list(items[index::count])
