"""Find image files in arguments, folders, globs, lists and standard input."""

from __future__ import annotations

import codecs
import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xplain.core.errors import DeviceError, InputError, UsageError, no_image_error
from xplain.core.files import FileState, file_state
from xplain.core.text_files import decode_text, split_lines
from xplain.data.folders import SkippedFiles, walk_images
from xplain.data.formats import ARRAY_SUFFIXES, read_suffixes
from xplain.data.globs import expand_glob
from xplain.data.own_outputs import has_record, is_own_file, is_own_picture

if TYPE_CHECKING:
    from torch import Tensor

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True)
class ImageSource:
    """Where an image is read from: a file, a part of a file, or bytes in memory.

    stem: relative path without suffix, under which outputs are written.
    folder: name of the folder that holds the file; if that is a class folder, the label.
    content: the bytes, if there is no file. span: first byte and number of bytes of a part of the file. member: the part's name.
    pixels: the model input (C, H, W) itself, if it is in memory. find: function that returns the source of an image that is made when
    it is read, such as that of a data set in memory.
    """

    path: Path | None
    stem: str
    folder: str = ""
    content: bytes | None = None
    span: tuple[int, int] | None = None
    member: str = ""
    pixels: Tensor | None = None
    find: Callable[[], ImageSource] | None = None

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
            raise InputError(f"{self.name!r} is truncated ({len(content)} of {size} bytes)", "replace the file")
        return content


def too_large_error(name: str) -> DeviceError:
    """Return the error for an image that does not fit in memory."""
    return DeviceError(f"not enough memory to read {name!r}", "resize the image")


def _check_readable(path: Path, name: str) -> None:
    """Raise InputError if reading the file could block or never end, and OSError if the file cannot be inspected."""
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) and not path.as_posix().startswith("/dev/"):  # /dev/fd/N is the shell's <(command)
        raise InputError(f"{name!r} is a named pipe", "pass - and pipe the image to stdin")
    if stat.S_ISCHR(mode):
        raise InputError(f"{name!r} is a device file", "pass an image file")


class _FoundImage(NamedTuple):
    """path: None for standard input. relative: the path relative to the folder that was named, or the file name."""

    path: Path | None
    relative: str


def find_images(
    arguments: Iterable[str],
    files_from: str | None = None,
    *,
    null: bool = False,
    output: Path | None = None,
    skipped: SkippedFiles | None = None,
) -> list[ImageSource]:
    """Find the images in files, directories (recursively), globs, ``@list.txt`` and ``-`` (an image on standard input).

    files_from: a file of paths, one per line; ``-`` is standard input. null: its paths end with NUL bytes instead.
    output: the output directory; pictures in it that xplain wrote are skipped if other images are named.
    skipped: receives what is not read in directories; without it, notes are emitted.
    Directories are searched through links. Images that xplain wrote are not searched for.
    Missing files are kept, so that each is reported when it is read. An image that occurs twice is returned once.
    Raises InputError if a directory, glob or list holds no image, and UsageError if there is no argument.
    """
    arguments = list(arguments)
    if not arguments and files_from is None:
        raise no_image_error()
    if "-" in arguments and files_from == "-":
        raise UsageError("stdin cannot be both an image and a list", "use either - or --files-from -")
    if null and files_from is None:
        raise UsageError("--null requires --files-from", "add --files-from FILE or -")
    if files_from is not None:
        arguments += _read_list(files_from, null=null)
    search = _ImageSearch(output)
    for argument in _expand_lists(arguments):
        search.add(argument)
    images = search.finish()
    if skipped is None:
        search.skipped.emit_notes()
    else:
        skipped.extend(search.skipped)
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


def _read_list(name: str, *, null: bool = False) -> list[str]:
    """Read the paths of a list. Bytes that are not UTF-8 are kept, because file names may hold any."""
    separator = "NUL byte" if null else "line"
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        paths = _split_at_null(content) if null else _split_path_lines(content)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the list {name!r}: {error}", f"pass a text file with one path per {separator}"
        ) from None
    if not paths:
        raise InputError(f"the list {name!r} contains no path", f"write one path per {separator}")
    return paths


def _split_path_lines(content: bytes) -> list[str]:
    """Return the lines that are not blank. Raises ValueError for binary data."""
    if b"\0" in content and not content.startswith(UTF16_MARKS):
        raise ValueError("it holds NUL bytes; for a list that find -print0 wrote, use --null")
    return [line for line in split_lines(decode_text(content, "surrogateescape")) if line.strip()]


def _split_at_null(content: bytes) -> list[str]:
    """Return the paths that end with NUL bytes. Raises ValueError if there is no NUL byte but more than one line."""
    paths = [os.fsdecode(path) for path in content.split(b"\0") if path]
    if len(paths) == 1 and b"\0" not in content and b"\n" in content:
        raise ValueError("it has lines but no NUL bytes; omit --null")
    return paths


class _ImageSearch:
    """The images of the arguments in order, each once, and what is skipped.

    own_images: pictures of xplain that a glob matches, or that are named and in the output directory.
    problem: the error of the first argument that holds output of xplain only.
    """

    def __init__(self, output: Path | None) -> None:
        self.output = None if output is None else Path(os.path.realpath(output))
        self.skipped = SkippedFiles()
        self.images: dict[str, _FoundImage] = {}
        self.own_images: dict[str, _FoundImage] = {}
        self.problem: InputError | None = None

    def add(self, argument: str) -> None:
        """Add the images of one argument."""
        path = Path(argument)
        if argument == "-":
            self.images.setdefault("-", _FoundImage(None, "stdin"))
        elif os.path.isdir(argument):  # noqa: PTH112  (never raises)
            self._add_directory(path)
        elif not os.path.exists(argument) and glob.has_magic(argument) and "\0" not in argument:  # noqa: PTH110
            self._add_glob(argument)
        elif not path.name:
            raise InputError(f"{argument!r} is not a file name", "pass files, directories or globs")
        else:
            self._add_file(path, is_own=self._is_own_output(path))

    def finish(self) -> list[_FoundImage]:
        """Return the images. Pictures of xplain are included if there are no others."""
        if not self.images:
            self.images = self.own_images
        else:
            self.skipped.own_pictures += [image.path for image in self.own_images.values() if image.path]
        if not self.images and self.problem is not None:
            raise self.problem
        return list(self.images.values())

    def _add_file(self, path: Path, *, is_own: bool) -> None:
        images = self.own_images if is_own else self.images
        images.setdefault(_absolute(path), _FoundImage(path, path.name))

    def _is_own_output(self, path: Path) -> bool:
        """Return whether a file is a picture in the output directory that xplain wrote."""
        if self.output is None or self.output not in Path(os.path.realpath(path)).parents:
            return False
        return is_own_picture(path)

    def _add_directory(self, path: Path) -> None:
        skipped = SkippedFiles()
        files = list(walk_images(path, skipped))
        if not files and not skipped.own and has_record(path):
            skipped.own_folders.append(path)
        self.skipped.extend(skipped)
        if not files:
            self._add_problem(f"no images found in the directory {str(path)!r}", skipped)
        if files == [path]:
            raise InputError(f"cannot list the directory {str(path)!r}", "check its permissions")
        for file in files:
            self.images.setdefault(_absolute(file), _FoundImage(file, str(file.relative_to(path))))

    def _add_glob(self, pattern: str) -> None:
        skipped = SkippedFiles()
        matches = expand_glob(pattern, skipped)
        self.skipped.extend(skipped)
        if not matches:
            self._add_problem(f"no file matches {pattern!r}", skipped)
        for match in matches:
            if match.is_dir():
                self._add_directory(match)
            else:
                self._add_file(match, is_own=is_own_file(match))

    def _add_problem(self, message: str, skipped: SkippedFiles) -> None:
        """Raise InputError for an argument without images; keep it for later if the argument holds output of xplain."""
        if skipped.own:
            message = f"{message} that xplain did not write"
            self.problem = self.problem or InputError(message, "pass files by name to explain pictures of xplain")
            return
        if skipped.unread:
            raise InputError(f"{message}: {skipped.reasons()[0]}")
        hint = f"supported suffixes are {' '.join(sorted(read_suffixes() | ARRAY_SUFFIXES))}"
        raise InputError(message, "check the pattern" if message.startswith("no file") else hint)


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
