"""Find image files in arguments, folders, globs, lists and standard input."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xplain.core.errors import DeviceError, InputError, UsageError

if TYPE_CHECKING:
    pass


SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".avif")
)


@dataclass(frozen=True)
class ImageSource:
    """An image to be read: a file, or bytes that came on standard input.

    stem: its name without suffix, as a relative path, under which outputs are written.
    folder: the name of the folder that holds it (a class folder's name is the label).
    span: the first byte and the number of bytes of an image that is part of its file; member: that part's name.
    """

    path: Path | None
    stem: str
    folder: str = ""
    content: bytes | None = None
    span: tuple[int, int] | None = None
    member: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.member:
            return self.member
        return str(self.path) if self.path is not None else "-"

    def read(self) -> bytes:
        """The file's bytes. Raises InputError when it is not there or cannot be read."""
        if self.content is not None:
            return self.content
        assert self.path is not None
        try:
            _check_kind(self.path, self.name)
            return self.path.read_bytes() if self.span is None else self._read_span(self.path, *self.span)
        except FileNotFoundError:
            raise InputError(f"no such file: {self.name!r}", "check the path") from None
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"cannot read {self.name!r}: {why}", "give a readable image file") from None
        except MemoryError:
            raise _too_large(self.name) from None

    def _read_span(self, path: Path, start: int, size: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(size)
        if len(content) < size:
            raise InputError(f"{self.name!r} ends after {len(content)} of {size} bytes", "restore the file")
        return content


def _check_kind(path: Path, name: str) -> None:
    """Raise InputError for what would wait for a writer or never end; OSError where nothing can be seen."""
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) and not path.as_posix().startswith("/dev/"):  # there it is the shell's <(command)
        raise InputError(f"{name!r} is a pipe", "give - and the image on standard input")
    if stat.S_ISCHR(mode):
        raise InputError(f"{name!r} is a device", "give an image file")


def find_images(arguments: Iterable[str], files_from: str | None = None) -> list[ImageSource]:
    """Sources for files, directories (recursive), globs, ``@list.txt`` and ``-`` (image bytes on stdin).

    ``files_from`` names a file of paths, one a line; ``-`` is standard input. Files that are named but missing
    are kept, so that they are reported one by one. Raises InputError when a directory, glob or list holds no image, and
    UsageError when nothing was named.
    """
    arguments = list(arguments)
    if not arguments and files_from is None:
        raise UsageError("no image was named", "give files, directories, globs, @list.txt, - or --files-from FILE")
    if "-" in arguments and files_from == "-":
        raise UsageError("standard input cannot be both an image and a list", "use - or --files-from -, not both")
    found: dict[str, tuple[Path | None, str]] = {}
    if files_from is not None:
        arguments += list(_read_list(files_from))
    for argument in _expand_lists(arguments):
        for path, relative in _expand(argument):
            found.setdefault(_whole_path(path) if path else "-", (path, relative))
    stems = _distinct_stems(list(found.values()))
    return [
        ImageSource(path, stem, path.absolute().parent.name if path else "", None if path else sys.stdin.buffer.read())
        for (path, _), stem in zip(found.values(), stems, strict=True)
    ]


def _expand_lists(arguments: Iterable[str]) -> Iterator[str]:
    for argument in arguments:
        if argument.startswith("@") and not os.path.exists(argument):  # noqa: PTH110  (no name raises)
            yield from _read_list(argument[1:])
        else:
            yield argument


def _read_list(name: str) -> list[str]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the list {name!r}: {error}", "give a text file, one path a line") from None
    paths = [line for line in text.splitlines() if line.strip()]
    if not paths:
        raise InputError(f"the list {name!r} names no image", "write one path a line")
    return paths


def _expand(argument: str) -> Iterator[tuple[Path | None, str]]:
    """(path, path relative to what was named) for one argument."""
    if argument == "-":
        yield None, "stdin"
        return
    path = Path(argument)
    if os.path.isdir(argument):  # noqa: PTH112  (no name raises)
        files = list(_walk(path))
        if not files:
            raise InputError(f"no image in the directory {argument!r}", f"its files end in none of {_suffix_list()}")
        if files == [path]:
            raise InputError(f"cannot look into the directory {argument!r}", "make it readable")
        yield from ((file, str(file.relative_to(path))) for file in files)
    elif not os.path.exists(argument) and glob.has_magic(argument) and "\0" not in argument:  # noqa: PTH110
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  (absolute and relative patterns alike)
        if not matches:
            raise InputError(f"nothing matches {argument!r}", "check the pattern")
        for match in matches:
            if Path(match).is_dir():
                yield from _expand(match)
            else:
                yield Path(match), Path(match).name
    elif not path.name:
        raise InputError(f"{argument!r} names no file", "give files, directories or globs")
    else:
        yield path, path.name


def _walk(directory: Path) -> Iterator[Path]:
    """The images below a directory, and the folders that cannot be looked into, which are then reported as they are read."""
    closed = list[OSError]()
    for folder, folders, files in os.walk(directory, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and not _is_special(path):
                yield path
    yield from (Path(each.filename) for each in closed)


def _is_special(path: Path) -> bool:
    """Whether it is a pipe or the like; a link that leads nowhere is none, and is reported when it is read."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113  (closed places raise no error)


def has_images(directory: Path) -> bool:
    """Whether there is an image in a directory or below it."""
    return next(_walk(directory), None) is not None


def _suffix_list() -> str:
    return " ".join(sorted(SUFFIXES))


def _distinct_stems(found: Sequence[tuple[Path | None, str]]) -> list[str]:
    """Relative names without suffix; where two would collide, with the suffix, then with the whole path."""
    candidates = [
        (
            str(Path(relative).with_suffix("")),
            relative,
            "/".join(Path(_whole_path(path)).parts[1:]) if path else relative,
        )
        for path, relative in found
    ]
    stems = [bare for bare, _, _ in candidates]
    for level in (1, 2):
        counts = Counter(stems)
        stems = [each[level] if counts[stem] > 1 else stem for each, stem in zip(candidates, stems, strict=True)]
    return stems


def _whole_path(path: Path) -> str:
    """The absolute path without ``..``, which could lead out of an output directory; links stay."""
    return os.path.abspath(path)  # noqa: PTH100  (resolve would follow links)


def _too_large(name: str) -> DeviceError:
    return DeviceError(f"{name!r} is too large for the memory that is free", "make it smaller first")
