"""Read labeled data sets: folders, lists of paths, tar shards, and torchvision data sets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from xplain.core.errors import InputError, UsageError, add_hint, emit_note
from xplain.core.rng import seed_of
from xplain.data.class_folders import list_class_folders, note_empty_folders
from xplain.data.class_names import ClassNames, is_wnid
from xplain.data.compressed_tars import is_tar_name, list_tars
from xplain.data.file_index import FileIndex
from xplain.data.folders import SkippedFiles, has_images
from xplain.data.formats import is_image_name
from xplain.data.label_files import read_label_file, read_label_sets
from xplain.data.list_files import read_list_file
from xplain.data.sources import ImageSource, find_images
from xplain.data.splits import find_entries, has_train_and_test, is_torchvision
from xplain.data.tar_shards import TarSample, find_shards, read_shards

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """An image of a data set, or an image and one of its labels.

    key: its name within the data set, wherever that is stored. label: true class or None.
    labels: all labels of the image if an image can have several, in the order of the table; None if unknown or if it has one class.
    image: the name of the image, if several items show it; empty if it is the key.
    """

    key: str
    source: ImageSource
    label: int | None
    labels: tuple[int, ...] | None = None
    image: str = ""

    @property
    def image_key(self) -> str:
        """The name of the image within the data set."""
        return self.image or self.key


def read_dataset(
    location: str,
    class_names: ClassNames,
    labels: str | None = None,
    skipped: SkippedFiles | None = None,
    *,
    has_label_sets: bool = False,
    has_classes: bool = True,
) -> list[Item]:
    """Return the images of a data set in a fixed order, with their classes if known.

    location: one of
        a folder of class folders, named by wnid, class name, or number (the class index);
        a folder of images without classes;
        a text file of paths, each with an optional class after a tab, comma or space;
        tar shards: a ``.tar`` or ``.tar.gz`` file, a brace pattern, or a folder of such files;
        a data set with a test part, which is read: a folder with ``train`` and ``test``, or ``torchvision:NAME:ROOT``.
    class_names: the classes of the model.
    labels: a table of file names and classes (see ``read_label_file``); requires a folder of images.
    skipped: receives the files of folders that are not read; without it, notes are emitted.
    has_label_sets: an image can have several labels, whose names the table joins by semicolons.
    has_classes: if false, folders have no classes.
    Raises InputError if there is no image or a folder matches no class.
    """
    path = Path(location)
    tars = _find_tars(location)
    if labels is not None and (tars or not path.is_dir()):
        raise UsageError(f"--labels requires a directory of images, but the dataset is {location!r}", "remove --labels")
    if is_torchvision(location):
        return _read_torchvision(location, class_names)
    if tars:
        return _read_shards(tars, class_names)
    if path.is_dir() and not has_classes:
        sources = find_images([str(path)], skipped=skipped)
        return [Item(key, source, None) for key, source in zip(_find_keys(path, sources), sources, strict=True)]
    if path.is_dir() and has_train_and_test(path):
        trained = list_class_folders(path / "train")
        items = _read_folder(path / "test", class_names, labels, skipped, trained, has_label_sets=has_label_sets)
        return [replace(item, key=f"test/{item.key}") for item in items]
    if path.is_dir():
        return _read_folder(path, class_names, labels, skipped, has_label_sets=has_label_sets)
    if path.is_file() and not is_image_name(path):
        return _read_list(path, class_names)
    if path.is_file():
        raise InputError(
            f"{location!r} is a single image, not a dataset",
            f"pass a folder of images, or explain the image: xplain explain {shlex.quote(location)}",
        )
    raise InputError(
        f"dataset {location!r} not found", "pass a directory, a text file of paths, tar shards or torchvision:NAME:ROOT"
    )


def index_items(location: str, items: Iterable[Item]) -> FileIndex:
    """Return an index of the images of a data set, with which tables find them by name. location: as in ``read_dataset``."""
    path = Path(location)
    return FileIndex(path if path.is_dir() else path.parent, [item.key for item in items])


def select_items(
    items: Iterable[Item], limit: int | None, per_class: int | None, seed: int | None = None
) -> list[Item]:
    """Return ``per_class`` images of each class or label, and of these ``limit`` images at even distances, in the order of the data set.

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
        for label in item.labels or (item.label,):
            positions.setdefault(label, []).append(position)
    selected: set[int] = set()
    for members in positions.values():
        if seed is not None:
            members.sort(key=lambda position: _draw(seed, items[position].key))
        selected.update(members[:count])
    return [items[position] for position in sorted(selected)]


def _draw(seed: int, key: str) -> int:
    """Return a random number for the name of an image."""
    return seed_of(seed, "per class", os.fsencode(key).hex())


def split_labels(items: Iterable[Item]) -> list[Item]:
    """Return one item per image and label: ``cat.jpg#3`` for class 3 if the image has several. Items without label sets stay."""
    split: list[Item] = []
    for item in items:
        if item.labels is None or len(item.labels) == 1:
            split.append(item)
        else:
            split += [replace(item, key=f"{item.key}#{label}", label=label, image=item.key) for label in item.labels]
    return split


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
        tars = list_tars(path)
        return tars if tars and not has_images(path) else []
    if is_tar_name(location) and (path.exists() or "{" in location):
        return find_shards(location)
    return []


def _read_shards(paths: Sequence[Path], class_names: ClassNames) -> list[Item]:
    find_class = cache(class_names.find)  # find compares with every name
    items = [Item(sample.key, sample.source, _label_sample(sample, find_class)) for sample in read_shards(paths)]
    unlabeled = [item.key for item in items if item.label is None]
    if 0 < len(unlabeled) < len(items):
        emit_note(f"{len(unlabeled)} of {len(items)} images in the tar shards have no label, such as {unlabeled[0]!r}")
    return items


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
            raise InputError(
                f"invalid label of {sample.key!r}: {error.message}",
                add_hint(error, "pass the class names with --classes"),
            ) from None
        return None


def _read_folder(
    path: Path,
    class_names: ClassNames,
    labels: str | None,
    skipped: SkippedFiles | None,
    more_folders: Iterable[str] = (),
    *,
    has_label_sets: bool = False,
) -> list[Item]:
    """Read a folder of images. more_folders: class folders that are elsewhere, such as those of the training images."""
    sources = find_images([str(path)], skipped=skipped)
    keys = _find_keys(path, sources)
    if labels is not None and has_label_sets:
        sets = read_label_sets(Path(labels), path, keys, class_names)
        return [
            Item(key, source, label_set[0] if label_set else None, label_set)
            for key, source, label_set in zip(keys, sources, sets, strict=True)
        ]
    if labels is not None:
        classes_in_order = read_label_file(Path(labels), path, keys, class_names)
        return [Item(key, source, label) for key, source, label in zip(keys, sources, classes_in_order, strict=True)]
    folders = sorted({key.split("/")[0] for key in keys if "/" in key})
    if not folders:
        return [Item(key, source, None) for key, source in zip(keys, sources, strict=True)]
    classes = match_folders_to_classes(folders, class_names, [*list_class_folders(path), *more_folders])
    items = [Item(key, source, classes.get(key.split("/")[0])) for key, source in zip(keys, sources, strict=True)]
    return sorted(items, key=lambda item: (-1 if item.label is None else item.label, item.key))


def _find_keys(path: Path, sources: Iterable[ImageSource]) -> list[str]:
    """Return the paths of images in a folder."""
    return [source.path.relative_to(path).as_posix() for source in sources if source.path is not None]


def match_folders_to_classes(
    folders: Sequence[str], class_names: ClassNames, all_folders: Iterable[str] = ()
) -> dict[str, int]:
    """Return the class of each folder by its name.

    folders: the folders that hold images. all_folders: also those without images, which count where folders are numbered.
    A folder belongs to the class with its name or wnid; a number that is no class name is a class index.
    If the classes have no names and the folder names are neither wnids nor numbers, the folders are numbered in the given order,
    provided that there is one per class (sorted, this is the order of torchvision's ImageFolder); otherwise no folder has a class.
    Both cases emit a note. Raises InputError if a folder matches no class.
    """
    added = set(all_folders) - set(folders)
    if all(name.isdecimal() for name in folders) and not all(name in class_names.labels for name in folders):
        return _use_as_indices([*folders, *sorted(filter(str.isdecimal, added))], class_names)
    if not class_names.labels and not class_names.wnids:
        return _number_in_order(folders, added, class_names)
    if all(map(is_wnid, folders)) and not class_names.wnids:
        raise _unknown_wnids(folders)
    classes: dict[str, int] = {}
    for name in folders:
        try:
            classes[name] = class_names.find_folder(name)
        except UsageError as error:
            raise InputError(
                f"folder {name!r} does not match any class: {error.message}",
                add_hint(error, "use --classes or --labels, or a list of the files to evaluate them without labels"),
            ) from None
    return classes


def _use_as_indices(folders: Sequence[str], class_names: ClassNames) -> dict[str, int]:
    """Return the class indices that the folders are named after."""
    count = class_names.count or len(class_names.labels)
    last = max(folders, key=int)
    if count and int(last) >= count:
        raise InputError(
            f"folder {last!r} does not match any class: class index {int(last)} is out of range (0 to {count - 1})",
            "pass --classes with the folder names in the order of the classes",
        )
    if sorted(folders) != sorted(folders, key=int):
        emit_note(
            f"using the folder names as class indices ({last!r} is class {int(last)}). torchvision's ImageFolder sorts folder names as "
            "text instead: if the model was trained with ImageFolder, pass a --classes file in that order"
        )
    return {name: int(name) for name in folders}


def _number_in_order(filled: Sequence[str], empty: Collection[str], class_names: ClassNames) -> dict[str, int]:
    """Number the folders if there is one per class of a model without class names; else return {}. Emits a note.

    Empty folders count, except if only the folders with images are one per class.
    """
    folders = sorted({*filled, *empty}) if empty else filled
    count = class_names.count or len(folders)
    if len(folders) != count and len(filled) == count:
        folders, empty = filled, ()
    if len(folders) == count:
        emit_note(
            f"the classes of {class_names.model} have no names; assuming that the sorted folders are "
            f"classes 0 ({folders[0]!r}) to {count - 1} ({folders[-1]!r})"
        )
        note_empty_folders(empty)
        return {name: index for index, name in enumerate(folders)}
    if all(map(is_wnid, filled)):
        raise _unknown_wnids(filled)
    emit_note(
        f"the images are not labeled, because {class_names.model} has {count} classes without names but there are {len(folders)} "
        f"class folders ({folders[0]!r}, ...); pass a --classes file with one name per class"
    )
    return {}


def _unknown_wnids(folders: Sequence[str]) -> InputError:
    return InputError(
        f"the folders are named by wnids ({folders[0]}, ...), but the wnids of the model's classes are unknown",
        "pass --classes with a CSV file of the columns index, wnid and name, or a list of the files to evaluate them without labels",
    )


def _read_list(path: Path, class_names: ClassNames) -> list[Item]:
    """Read the images of a list; relative paths start at the list's folder."""
    items = []
    for row in read_list_file(path, class_names):
        file = path.parent / row.name
        source = ImageSource(file, str(Path(row.name).with_suffix("")), file.absolute().parent.name)
        items.append(Item(row.name, source, row.label))
    return items
