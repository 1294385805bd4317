"""Find the attribution map of each image of a data set in a folder, by name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xplain.core.errors import InputError, emit_note
from xplain.data.map_files import SUFFIXES, read_map_record


class _MapPath(NamedTuple):
    """A file of a map. method: that made it, if xplain wrote the file."""

    path: Path
    method: str | None


FilesByName = Mapping[str, Sequence[_MapPath]]


def find_maps(folder: str, keys: Sequence[str], control: str) -> dict[str, Path]:
    """Return the file of each image that has a map; emits a note if other files in the folder belong to no image.

    keys: of all images of the data set. The map of ``cat/a.jpg`` is ``cat/a.npy``, ``cat/a.jpg.npy``, or ``a.npy`` if no other image
    is named ``a``; or an NPZ file of that name; or an NPZ file that ``explain --save raw`` or ``evaluate --save-maps`` wrote for it.
    control: a method whose maps are ignored for an image that has others, because ``--save-maps`` saves them too.
    Raises InputError if the folder has no map of any image, and if an image has several maps or a map fits several images.
    """
    names = _index_files(Path(folder))
    matches = _match_whole_keys(folder, names, keys, control)
    matches |= _match_ends_of_keys(folder, names, keys, control, matches)
    paths = {file.path for files in names.values() for file in files if file.method != control}
    if not matches:
        raise InputError(
            f"no map in {folder!r} is named after an image of the data set", f"name it {_example(folder, keys[0])}"
        )
    unused = sorted(paths - set(matches.values()))
    if unused:
        emit_note(
            f"files in {folder!r} that belong to no image of the data set: {len(unused)}, such as {str(unused[0])!r}"
        )
    return matches


def _example(folder: str, key: str) -> str:
    """Return a file name that fits an image."""
    name = key.lstrip("/")
    return f"{str(Path(folder, PurePosixPath(name).with_suffix('.npy')))!r} for {key!r}"


def _index_files(folder: Path) -> dict[str, list[_MapPath]]:
    """Return the files of a folder by their names without suffix, and by the images that their records name."""
    names: dict[str, list[_MapPath]] = defaultdict(list)
    for path in sorted(_walk(folder)):
        name = path.relative_to(folder).as_posix()
        record = read_map_record(path) if path.suffix.lower() == ".npz" else {}
        method = record.get("method")
        file = _MapPath(path, method if isinstance(method, str) else None)
        for image in {name[:-4], *_images_of(name, record)}:
            names[image].append(file)
    if not names:
        raise InputError(f"no map in {str(folder)!r}", f"write {' or '.join(SUFFIXES)} files named after the images")
    return names


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the maps below a folder, each linked folder once. Raises InputError if a folder cannot be listed."""
    if not folder.is_dir():
        raise InputError(f"no folder of maps {str(folder)!r}", "pass NAME=DIR")
    known = set[str]()
    for parent, subfolders, files in os.walk(folder, onerror=_raise_unlisted, followlinks=True):
        real = os.path.realpath(parent)
        if real in known:
            subfolders.clear()
            continue
        known.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _raise_unlisted(error: OSError) -> None:
    raise InputError(f"cannot list the folder {str(error.filename)!r}: {error.strerror}", "check its permissions")


def _images_of(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the image whose map xplain wrote into a file: ``key``, or ``<stem>`` of ``<stem>.<method>...raw.npz``."""
    key, method = record.get("key"), record.get("method")
    if isinstance(key, str):
        yield key
    elif isinstance(method, str):
        match = re.fullmatch(rf"(.+)\.{re.escape(method)}(?:_[^/]*)?(?:\.[^/.]+)?\.raw\.npz", name, re.DOTALL)
        if match:
            yield match[1]


def _names(key: str, start: int = 0) -> list[str]:
    """Return the parts of a key from ``start`` on as a path, with and without suffix."""
    path = PurePosixPath(*PurePosixPath(key).parts[start:])
    return list(dict.fromkeys([path.as_posix(), path.with_suffix("").as_posix()]))


def _match_whole_keys(folder: str, names: FilesByName, keys: Iterable[str], control: str) -> dict[str, Path]:
    """Return the files that are named after whole keys."""
    matches, owners = dict[str, Path](), dict[Path, str]()
    for key in keys:
        path = _single_file(folder, key, [file for name in _names(key) for file in names.get(name, ())], control)
        if path is None:
            continue
        if path in owners:
            raise _fits_several(path, owners[path], key)
        matches[key], owners[path] = path, key
    return matches


def _match_ends_of_keys(
    folder: str, names: FilesByName, keys: Sequence[str], control: str, matches: Mapping[str, Path]
) -> dict[str, Path]:
    """Return the files that are named after the ends of keys without match, if no other key ends like this."""
    taken = set(matches.values())
    wanted: dict[Path, list[str]] = defaultdict(list)  # the keys that a file fits, matched ones too
    for key in keys:
        for free in {file.path for name in _ends(key) for file in names.get(name, ())} - taken:
            wanted[free].append(key)
    added = {}
    for key in keys:
        path = None if key in matches else _longest_match(folder, key, names, taken, control)
        if path is None:
            continue
        if len(wanted[path]) > 1:
            raise _fits_several(path, *wanted[path][:2])
        added[key] = path
    return added


def _longest_match(folder: str, key: str, names: FilesByName, taken: Collection[Path], control: str) -> Path | None:
    """Return the free file that is named after the longest end of a key, or None."""
    for name in _ends(key):
        files = [file for file in names.get(name, ()) if file.path not in taken]
        if files:
            return _single_file(folder, key, files, control)
    return None


def _ends(key: str) -> list[str]:
    """Return the ends of a key, the longest first, each with and without suffix."""
    return [name for start in range(1, len(PurePosixPath(key).parts)) for name in _names(key, start)]


def _single_file(folder: str, key: str, files: Sequence[_MapPath], control: str) -> Path | None:
    """Return the only file, or None if there is none. Raises InputError if there are several."""
    if len({file.path for file in files}) > 1:
        files = [file for file in files if file.method != control] or files
    paths = sorted({file.path for file in files})
    if len(paths) > 1:
        listed = f"{str(paths[0])!r} and {str(paths[1])!r}"
        raise InputError(
            f"{folder!r} holds {len(paths)} maps of {key!r}: {listed}", "pass a folder with one map per image"
        )
    return paths[0] if paths else None


def _fits_several(path: Path, first: str, second: str) -> InputError:
    return InputError(
        f"the map {str(path)!r} fits {first!r} and {second!r}", "name each map after the whole path of its image"
    )
