"""Walk over folders: follow links without running in circles, find the images, and count what is not read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from xplain.core.errors import emit_note
from xplain.data.formats import ARRAY_SUFFIXES, describe_unread, is_unread_image, read_suffixes
from xplain.data.own_outputs import DEFAULT_OUTPUTS, has_record, is_own_file, is_own_picture


@dataclass
class SkippedFiles:
    """What a walk over folders did not read.

    unread: images of other formats. own_pictures, own_folders: output of xplain. loops: links to folders that contain them.
    broken: links to nothing, which may have been folders. arrays: NPY and NPZ files, which may be images, in folders with others.
    """

    unread: list[Path] = field(default_factory=list)
    own_pictures: list[Path] = field(default_factory=list)
    own_folders: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    arrays: list[Path] = field(default_factory=list)

    @property
    def own(self) -> list[Path]:
        """Pictures and folders that xplain wrote."""
        return self.own_pictures + self.own_folders

    def extend(self, other: SkippedFiles) -> None:
        """Add what another walk skipped; a path counts once."""
        for kind in fields(self):
            paths: list[Path] = getattr(self, kind.name)
            known = set(paths)
            paths += [path for path in getattr(other, kind.name) if path not in known]

    def reasons(self) -> list[str]:
        """Return a text for each kind of skipped files."""
        texts = []
        if self.unread:
            texts.append("; ".join(describe_unread(self.unread)))
        if self.own:
            texts.append(f"skipped output of xplain: {_describe_own(self)}")
        if self.loops:
            texts.append(
                f"skipped {_count(self.loops, 'link')} to a folder that contains the link: {_name(self.loops)}"
            )
        if self.broken:
            texts.append(f"skipped {_count(self.broken, 'broken link')}: {_name(self.broken)}")
        if self.arrays:
            texts.append(
                f"skipped {_count(self.arrays, 'array')} (.npy, .npz) beside images: {_name(self.arrays)}; to read arrays as "
                "images, move the images away or pass the arrays by a pattern such as *.npy"
            )
        return texts

    def emit_notes(self) -> None:
        """Emit a note for each kind of skipped files."""
        for text in self.reasons():
            emit_note(text)


def _describe_own(skipped: SkippedFiles) -> str:
    parts = []
    if skipped.own_folders:
        parts.append(f"{_count(skipped.own_folders, 'folder')} ({_name(skipped.own_folders)})")
    if skipped.own_pictures:
        parts.append(f"{_count(skipped.own_pictures, 'picture')} ({_name(skipped.own_pictures)})")
    return " and ".join(parts)


def _count(paths: Sequence[Path], noun: str) -> str:
    return f"{len(paths)} {noun}{'s' if len(paths) > 1 else ''}"


def _name(paths: Sequence[Path]) -> str:
    return f"{str(paths[0])!r}{', ...' if len(paths) > 1 else ''}"


def walk_folders(
    root: Path, errors: list[OSError] | None = None, loops: list[Path] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as ``os.walk`` does and follow links to folders, in sorted order; the caller may remove subfolders.

    errors: receives the error of each folder that cannot be listed.
    loops: receives the links to a folder that contains the link, which are not followed.
    """
    trails: dict[Path, tuple[Path, ...]]
    trails = {root: (Path(os.path.realpath(root)),)}  # the real paths of a folder, last, and of those on the way to it
    on_error = errors.append if errors is not None else None
    for folder, subfolders, files in os.walk(root, onerror=on_error, followlinks=True):
        trail = trails.pop(Path(folder))
        for name in sorted(subfolders):
            path = Path(folder, name)
            real = Path(os.path.realpath(path)) if path.is_symlink() else trail[-1] / name
            if path.is_symlink() and any(passed.is_relative_to(real) for passed in trail):
                subfolders.remove(name)
                if loops is not None:
                    loops.append(path)
            else:
                trails[path] = (*trail, real)
        subfolders.sort()
        yield folder, subfolders, sorted(files)


def walk_images(root: Path, skipped: SkippedFiles) -> Iterator[Path]:
    """Yield the images below a folder, then the folders that cannot be listed, which fail when they are read.

    Arrays (NPY and NPZ) count as images in a folder without other images, because they are often maps or features of these.
    skipped: receives what is not read. Hidden files and folders are ignored.
    """
    errors: list[OSError] = []
    arrays: list[Path] = []
    suffixes = read_suffixes()
    has_pictures = False
    for folder, subfolders, files in walk_folders(root, errors, skipped.loops):
        remove_own_and_hidden(Path(folder), subfolders, skipped)
        for name in files:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if is_own_picture(path):
                skipped.own_pictures.append(path)
            elif path.suffix.lower() in suffixes:
                if not _is_special(path):
                    has_pictures = True
                    yield path
            elif path.suffix.lower() in ARRAY_SUFFIXES:
                arrays.append(path)
            elif is_unread_image(path):
                skipped.unread.append(path)
            elif path.is_symlink() and not os.path.exists(path):  # noqa: PTH110  (never raises)
                skipped.broken.append(path)
    if has_pictures:
        skipped.arrays += arrays
    else:
        yield from (path for path in arrays if not is_own_file(path) and not _is_special(path))
    for error in errors:
        yield Path(error.filename)


def remove_own_and_hidden(folder: Path, subfolders: list[str], skipped: SkippedFiles) -> None:
    """Remove hidden subfolders, and those that have the name of an output folder, which ``skipped`` receives."""
    skipped.own_folders += [folder / name for name in subfolders if name in DEFAULT_OUTPUTS]
    subfolders[:] = [name for name in subfolders if name not in DEFAULT_OUTPUTS and not name.startswith(".")]


def walk_files(root: Path) -> Iterator[Path]:
    """Yield all files below a folder."""
    for folder, _, files in walk_folders(root):
        yield from (Path(folder, name) for name in files)


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe, socket or device. Broken links are not: they fail when they are read."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113  (never raise)


def has_images(folder: Path) -> bool:
    """Return whether a folder holds an image other than an array, at any depth, that xplain did not write."""
    return any(path.suffix.lower() not in ARRAY_SUFFIXES for path in walk_images(folder, SkippedFiles()))


def is_output_folder(folder: Path) -> bool:
    """Return whether a folder holds output of xplain, and no image of the user."""
    if folder.name in DEFAULT_OUTPUTS:
        return True
    skipped = SkippedFiles()
    if next(walk_images(folder, skipped), None) is not None:
        return False
    return bool(skipped.own) or has_record(folder) or any(map(is_own_file, walk_files(folder)))
