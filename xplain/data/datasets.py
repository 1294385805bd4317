"""Read labeled data sets: folders, lists of paths, tar shards, and torchvision data sets."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from xplain.core.errors import InputError, UsageError, emit_note
from xplain.core.rng import seed_of
from xplain.data.class_names import ClassNames, is_wnid
from xplain.data.sources import SUFFIXES, ImageSource, find_images, has_images
from xplain.data.splits import find_entries, has_train_and_test, is_torchvision
from xplain.data.tar_shards import TarSample, find_shards, read_shards

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """An image of a data set. key: its name within the data set, wherever that is stored. label: true class or None."""

    key: str
    source: ImageSource
    label: int | None


def read_dataset(location: str, class_names: ClassNames, labels: str | None = None) -> list[Item]:
    """Return the images of a data set in a fixed order, with their classes if known.

    location: one of
        a folder of class folders, named by wnid, class name, or number (the class index);
        a folder of images without classes;
        a text file of paths, each with an optional tab and class;
        tar shards: a ``.tar`` file, a brace pattern, or a folder of ``.tar`` files;
        a data set with a test part, which is read: a folder with ``train`` and ``test``, or ``torchvision:NAME:ROOT``.
    class_names: the classes of the model.
    labels: a CSV file of file name and class; requires a folder of images.
    Raises InputError if there is no image or a folder matches no class.
    """
    path = Path(location)
    tars = _find_tars(location)
    if labels is not None and (tars or not path.is_dir()):
        raise UsageError(f"--labels requires a folder of images, not {location!r}", "remove --labels")
    if is_torchvision(location):
        return _read_torchvision(location, class_names)
    if tars:
        return _read_shards(tars, class_names)
    if path.is_dir() and has_train_and_test(path):
        return [replace(item, key=f"test/{item.key}") for item in _read_folder(path / "test", class_names, labels)]
    if path.is_dir():
        return _read_folder(path, class_names, labels)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        return _read_list(path, class_names)
    raise InputError(f"no data set {location!r}", "pass a folder, a text file of paths, or tar shards")


def select_items(
    items: Iterable[Item], limit: int | None, per_class: int | None, seed: int | None = None
) -> list[Item]:
    """Return ``per_class`` images of each class, and of these ``limit`` images at even distances, in the order of the data set.

    seed: seed of a random choice per class, which depends on the names of the images only, so that a larger choice contains a
    smaller one; None: the first images of each class.
    """
    selected = list(items)
    if per_class is not None:
        selected = _select_per_class(selected, per_class, seed)
    if limit is None or limit >= len(selected):
        return selected
    return [selected[len(selected) * k // limit] for k in range(limit)]


def _select_per_class(items: Sequence[Item], count: int, seed: int | None) -> list[Item]:
    positions: dict[int | None, list[int]] = {}
    for position, item in enumerate(items):
        positions.setdefault(item.label, []).append(position)
    selected: list[int] = []
    for members in positions.values():
        if seed is not None:
            members.sort(key=lambda position: _draw(seed, items[position].key))
        selected += members[:count]
    return [items[position] for position in sorted(selected)]


def _draw(seed: int, key: str) -> int:
    """Return a random number for the name of an image."""
    return seed_of(seed, "per class", os.fsencode(key).hex())


def select_shard(items: Sequence[T], index: int, count: int) -> list[T]:
    """Return every ``count``-th item, starting with item ``index``."""
    return list(items[index::count])


def _read_torchvision(location: str, class_names: ClassNames) -> list[Item]:
    """Read the test images of a torchvision dataset and encode them as PNG in memory."""
    _, entries, names, _ = find_entries(location, 0)
    classes = match_folders_to_classes(names, class_names)
    items = []
    for entry in entries:
        name = names[entry.label]
        stream = BytesIO()
        entry.read().save(stream, "PNG", compress_level=1)
        source = ImageSource(None, entry.key, name, stream.getvalue(), member=entry.key)
        items.append(Item(entry.key, source, classes.get(name)))
    return items


def _find_tars(location: str) -> list[Path]:
    """Return the tar shards of a location, or [] if it is another kind of data set.

    A folder is read as shards only if it holds no image.
    """
    path = Path(location)
    if path.is_dir():
        tars = sorted(file for file in path.glob("*") if file.suffix.lower() == ".tar" and file.name[0] != ".")
        return tars if tars and not has_images(path) else []
    if location.lower().endswith(".tar") and (path.exists() or "{" in location):
        return find_shards(location)
    return []


def _read_shards(paths: Sequence[Path], class_names: ClassNames) -> list[Item]:
    find_class = cache(class_names.find)  # find compares with every name
    return [Item(sample.key, sample.source, _label_sample(sample, find_class)) for sample in read_shards(paths)]


def _label_sample(sample: TarSample, find_class: Callable[[str], int]) -> int | None:
    """Return the class of a sample, or None if an optional label is not a class.

    Raises InputError if a required label is not a class.
    """
    if sample.label is None:
        return None
    try:
        return find_class(sample.label)
    except UsageError as error:
        if sample.must_be_class:
            raise InputError(f"the label of {sample.key!r}: {error}", "pass the class names with --classes") from None
        return None


def _read_folder(path: Path, class_names: ClassNames, labels: str | None) -> list[Item]:
    sources = find_images([str(path)])
    keys = [source.path.relative_to(path).as_posix() for source in sources if source.path is not None]
    if labels is not None:
        classes = _read_labels(Path(labels), class_names)
        return [
            Item(key, source, label)
            for key, source, label in zip(keys, sources, _look_up(keys, classes, labels), strict=True)
        ]
    folders = sorted({key.split("/")[0] for key in keys if "/" in key})
    if not folders:
        return [Item(key, source, None) for key, source in zip(keys, sources, strict=True)]
    classes = match_folders_to_classes(folders, class_names)
    items = [Item(key, source, classes.get(key.split("/")[0])) for key, source in zip(keys, sources, strict=True)]
    return sorted(items, key=lambda item: (-1 if item.label is None else item.label, item.key))


def _look_up(keys: Sequence[str], classes: dict[str, int], source: str) -> list[int]:
    """Return the class of each key, which ``classes`` lists by path or by file name. Raises InputError if one is missing."""
    names = [key if key in classes else Path(key).name for key in keys]
    missing = [key for key, name in zip(keys, names, strict=True) if name not in classes]
    if missing:
        raise InputError(
            f"{source!r} has no label for {missing[0]!r} and {len(missing) - 1} others", "add a row for every file"
        )
    return [classes[name] for name in names]


def match_folders_to_classes(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """Return the class of each folder by its name.

    A folder belongs to the class with its name or wnid; a number that is no class name is a class index.
    If the classes have no names and the folder names are neither wnids nor numbers, the folders are numbered in the given order,
    provided that there is one per class (sorted, this is the order of torchvision's ImageFolder); otherwise no folder has a class.
    Both cases emit a note. Raises InputError if a folder matches no class.
    """
    if all(name.isdecimal() for name in folders) and not all(name in class_names.labels for name in folders):
        return _use_as_indices(folders, class_names)
    if not class_names.labels and not class_names.wnids:
        return _number_in_order(folders, class_names)
    if all(map(is_wnid, folders)) and not class_names.wnids:
        raise _unknown_wnids(folders)
    classes: dict[str, int] = {}
    for name in folders:
        try:
            classes[name] = class_names.find_folder(name)
        except UsageError as error:
            raise InputError(f"folder {name!r} matches no class: {error}", "pass --classes or --labels") from None
    return classes


def _use_as_indices(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """Return the class indices that the folders are named after."""
    count = class_names.count or len(class_names.labels)
    last = max(folders, key=int)
    if count and int(last) >= count:
        raise InputError(
            f"folder {last!r} matches no class: class index {int(last)} is not in 0 .. {count - 1}",
            "pass --classes with the folder names in the order of the classes",
        )
    if sorted(folders) != sorted(folders, key=int):
        emit_note(
            f"using the folder names as class indices ({last!r} is class {int(last)}). torchvision's ImageFolder sorts folder names as "
            "text instead: if the model was trained with ImageFolder, pass a --classes file in that order"
        )
    return {name: int(name) for name in folders}


def _number_in_order(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """Number the folders if there is one per class of a model without class names; else return {}. Emits a note."""
    count = class_names.count or len(folders)
    if len(folders) == count:
        emit_note(
            f"the classes of {class_names.model} have no names; assuming that the sorted folders are "
            f"classes 0 ({folders[0]!r}) to {count - 1} ({folders[-1]!r})"
        )
        return {name: index for index, name in enumerate(folders)}
    if all(map(is_wnid, folders)):
        raise _unknown_wnids(folders)
    emit_note(
        f"the images are not labeled, because {class_names.model} has {count} classes without names but there are {len(folders)} "
        f"class folders ({folders[0]!r}, ...); pass a --classes file with one name per class"
    )
    return {}


def _unknown_wnids(folders: Sequence[str]) -> InputError:
    return InputError(
        f"the folders are named by wnids ({folders[0]}, ...), but the wnids of the model's classes are unknown",
        "pass the wnids and names of the classes with --classes",
    )


def _read_labels(path: Path, class_names: ClassNames) -> dict[str, int]:
    """Read file names and their classes from CSV with two columns. An optional first row of column names is skipped."""
    try:
        rows = [row for row in csv.reader(path.read_text("utf-8-sig").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read the labels {str(path)!r}: {error}", "use CSV with the columns file name and class"
        ) from None
    classes: dict[str, int] = {}
    find_class = cache(class_names.find)
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise InputError(f"line {number} of {str(path)!r} has {len(row)} columns", "write file name,class")
        name, label = row[0].strip(), row[1].strip()
        try:
            classes[name] = find_class(label)
        except UsageError as error:
            if number > 1:  # the first row may name the columns
                raise InputError(f"line {number} of {str(path)!r}: {error}", "write file name,class") from None
    return classes


def _read_list(path: Path, class_names: ClassNames) -> list[Item]:
    """Read lines of ``path`` or ``path<tab>class``; relative paths start at the list's folder."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {str(path)!r}: {error}", "pass a text file of paths") from None
    items = []
    find_class = cache(class_names.find)
    for number, line in enumerate(lines, 1):
        name, *columns = (column.strip() for column in line.split("\t"))
        if not name:
            continue
        if not Path(name).name:
            raise InputError(f"line {number} of the list {str(path)!r} is not a file path", "write one path per line")
        file = path.parent / name
        source = ImageSource(file, str(Path(name).with_suffix("")), file.absolute().parent.name)
        try:
            label = find_class(columns[0]) if columns else None
        except UsageError as error:
            raise InputError(f"line {number} of {str(path)!r}: {error}", "write a path, a tab and its class") from None
        items.append(Item(name, source, label))
    if not items:
        raise InputError(f"the list {str(path)!r} holds no path", "write one path per line")
    return items
