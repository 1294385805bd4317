"""Find image files in arguments, folders, globs, lists and standard input."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xplain.core.errors import DeviceError, InputError, UsageError, no_image_error
from xplain.core.files import FileState, file_state

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".avif")
)


@dataclass(frozen=True)
class ImageSource:
    """Where an image is read from: a file, a part of a file, or bytes in memory.

    stem: relative path without suffix, under which outputs are written.
    folder: name of the folder that holds the file; if that is a class folder, the label.
    content: the bytes, if there is no file. span: first byte and number of bytes of a part of the file. member: the part's name.
    """

    path: Path | None
    stem: str
    folder: str = ""
    content: bytes | None = None
    span: tuple[int, int] | None = None
    member: str = ""

    @property
    def name(self) -> str:
        """The name in messages: member, path, or ``-`` for standard input."""
        if self.member:
            return self.member
        return str(self.path) if self.path is not None else "-"

    def read(self) -> bytes:
        """Return the bytes of the image. Raises InputError if it is missing or cannot be read."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        try:
            _check_readable(self.path, self.name)
            return self.path.read_bytes() if self.span is None else self._read_span(self.path, *self.span)
        except FileNotFoundError:
            raise InputError(f"no such file: {self.name!r}", "check the path") from None
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"cannot read {self.name!r}: {reason}", "pass a readable image file") from None
        except MemoryError:
            raise too_large_error(self.name) from None

    def state(self) -> FileState | None:
        """Return the state of the file that holds the image, or None if there is none."""
        if self.content is not None or self.path is None:
            return None
        try:
            return file_state(self.path)
        except (OSError, ValueError):  # ValueError: a null byte in the name
            return None

    def _read_span(self, path: Path, start: int, size: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(size)
        if len(content) < size:
            raise InputError(f"{self.name!r} ends after {len(content)} of {size} bytes", "restore the file")
        return content


def too_large_error(name: str) -> DeviceError:
    """Return the error for an image that does not fit in memory."""
    return DeviceError(f"{name!r} is too large for the available memory", "reduce its size")


def _check_readable(path: Path, name: str) -> None:
    """Raise InputError if reading the file could block or never end, and OSError if the file cannot be inspected."""
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) and not path.as_posix().startswith("/dev/"):  # /dev/fd/N is the shell's <(command)
        raise InputError(f"{name!r} is a pipe", "pass - and send the image to standard input")
    if stat.S_ISCHR(mode):
        raise InputError(f"{name!r} is a device", "pass an image file")


class _FoundImage(NamedTuple):
    """path: None for standard input. relative: the path relative to the folder that was named, or the file name."""

    path: Path | None
    relative: str


def find_images(arguments: Iterable[str], files_from: str | None = None) -> list[ImageSource]:
    """Find the images in files, directories (recursively), globs, ``@list.txt`` and ``-`` (an image on standard input).

    files_from: a file of paths, one per line; ``-`` is standard input.
    Missing files are kept, so that each is reported when it is read. An image that occurs twice is returned once.
    Raises InputError if a directory, glob or list holds no image, and UsageError if there is no argument.
    """
    arguments = list(arguments)
    if not arguments and files_from is None:
        raise no_image_error()
    if "-" in arguments and files_from == "-":
        raise UsageError("standard input cannot be both an image and a list", "use - or --files-from -, not both")
    if files_from is not None:
        arguments += list(_read_list(files_from))
    unique: dict[str, _FoundImage] = {}
    for argument in _expand_lists(arguments):
        for image in _expand(argument):
            unique.setdefault(_absolute(image.path) if image.path else "-", image)
    images = list(unique.values())
    return [_make_source(image.path, stem) for image, stem in zip(images, _distinct_stems(images), strict=True)]


def _make_source(path: Path | None, stem: str) -> ImageSource:
    if path is None:
        return ImageSource(None, stem, content=sys.stdin.buffer.read())
    return ImageSource(path, stem, path.absolute().parent.name)


def _expand_lists(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument.startswith("@") and not os.path.exists(argument):  # noqa: PTH110  (never raises)
            yield from _read_list(argument[1:])
        else:
            yield argument


def _read_list(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the list {name!r}: {error}", "pass a text file with one path per line") from None
    paths = [line for line in text.splitlines() if line.strip()]
    if not paths:
        raise InputError(f"the list {name!r} holds no path", "write one path per line")
    return paths


def _expand(argument: str) -> Iterator[_FoundImage]:
    """Yield the images of one argument."""
    path = Path(argument)
    if argument == "-":
        yield _FoundImage(None, "stdin")
    elif os.path.isdir(argument):  # noqa: PTH112  (never raises)
        yield from _expand_directory(path)
    elif not os.path.exists(argument) and glob.has_magic(argument) and "\0" not in argument:  # noqa: PTH110
        yield from _expand_glob(argument)
    elif not path.name:
        raise InputError(f"{argument!r} is not a file name", "pass files, directories or globs")
    else:
        yield _FoundImage(path, path.name)


def _expand_directory(path: Path) -> Iterator[_FoundImage]:
    files = list(_walk(path))
    if not files:
        raise InputError(
            f"no image in the directory {str(path)!r}", f"supported suffixes are {' '.join(sorted(SUFFIXES))}"
        )
    if files == [path]:
        raise InputError(f"cannot list the directory {str(path)!r}", "check its permissions")
    for file in files:
        yield _FoundImage(file, str(file.relative_to(path)))


def _expand_glob(pattern: str) -> Iterator[_FoundImage]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (absolute and relative patterns alike)
    if not matches:
        raise InputError(f"no file matches {pattern!r}", "check the pattern")
    for match in matches:
        if Path(match).is_dir():
            yield from _expand(match)
        else:
            yield _FoundImage(Path(match), Path(match).name)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield the images below a directory, then the folders that cannot be listed, which fail when they are read."""
    errors: list[OSError] = []
    for folder, subfolders, files in os.walk(directory, onerror=errors.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and not _is_special(path):
                yield path
    for error in errors:
        yield Path(error.filename)


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe, socket or device. Broken links are not: they fail when they are read."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113  (never raise)


def has_images(directory: Path) -> bool:
    """Return whether a directory holds an image, at any depth."""
    return next(_walk(directory), None) is not None


def _distinct_stems(images: list[_FoundImage]) -> list[str]:
    """Return distinct stems: the relative name without suffix; if that is not unique, with suffix; else the absolute path."""
    stems = [str(Path(image.relative).with_suffix("")) for image in images]
    names = [image.relative for image in images]
    paths = ["/".join(Path(_absolute(image.path)).parts[1:]) if image.path else image.relative for image in images]
    for longer in (names, paths):
        counts = Counter(stems)
        stems = [new if counts[stem] > 1 else stem for stem, new in zip(stems, longer, strict=True)]
    return stems


def _absolute(path: Path) -> str:
    """Return the absolute path without ``..``, which could lead out of an output directory. Does not follow links."""
    return os.path.abspath(path)  # noqa: PTH100  (resolve follows links)
