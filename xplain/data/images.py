"""Find images, read them, and bring them to the model's input: pixels in [0, 1], not normalised.

Decided once, for every command: EXIF orientation is applied, transparency is laid over white, 16-bit grey is
scaled to 8 bits, of animations the first frame is taken, colour profiles are not applied, everything becomes RGB; then the
short side is resized and the centre is cropped in 8 bits by Pillow, as torchvision's transforms do on Pillow images.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from xplain.core.errors import DeviceError, Failed, InputError, UsageError, XplainError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".avif")
)
THIN = 50  # how many times longer than wide an image is resized as a whole
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Place(NamedTuple):
    """How an image is brought to the model's input: resized to ``width`` x ``height``, then cropped from ``left`` and ``top`` on.

    Where the crop is larger than the resized image, it begins before it (below zero), and black fills the rest.
    """

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to ``resize`` pixels, then crop the centre ``size`` = (height, width).

    squash: resize to the proportion of ``size`` instead, its longer side to ``resize``, whatever the image's own proportion is.
    """

    size: tuple[int, int] = (224, 224)
    resize: int = 256
    interpolation: Interpolation = "bicubic"
    squash: bool = False

    @classmethod
    def for_size(cls, size: int | Sequence[int]) -> Preprocessing:
        """The usual 0.875 centre crop for an input side or (height, width) in pixels."""
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        return cls((height, width), round(max(height, width) / 0.875))

    def place(self, width: int, height: int) -> Place:
        """Where the pixels of an image of ``width`` x ``height`` go."""
        short = self.resize
        new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        if self.squash:
            new = (self.resize * self.size[1] // max(self.size), self.resize * self.size[0] // max(self.size))
        return Place(*new, _start_of_crop(new[0], self.size[1]), _start_of_crop(new[1], self.size[0]))

    def at(self, side: int) -> Preprocessing:
        """The same for square inputs of ``side`` pixels: ``resize`` in the proportion it had."""
        return replace(self, size=(side, side), resize=round(self.resize * side / max(self.size)))


@dataclass(frozen=True)
class Source:
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


def find_images(arguments: Iterable[str], files_from: str | None = None) -> list[Source]:
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
        Source(path, stem, path.absolute().parent.name if path else "", None if path else sys.stdin.buffer.read())
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


def decode_image(content: bytes, name: str) -> Image:
    """An upright 8-bit RGB Pillow image from a file's bytes. Raises InputError, naming ``name``."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise InputError(f"{name!r} is empty (0 bytes)", "give an image file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode == "F":
                raise InputError(f"{name!r} has floating-point pixels of no agreed range", "save it with 8 or 16 bits")
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InputError(f"{name!r} is not an image that Pillow knows", "give a JPEG, PNG, WebP, TIFF, ...") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name!r} is too large: {error}", "make it smaller first") from None
    except MemoryError:
        raise _too_large(name) from None
    except XplainError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise InputError(f"{name!r} is damaged: {first_line(error)}", "restore the file or leave it out") from None


def _too_large(name: str) -> DeviceError:
    return DeviceError(f"{name!r} is too large for the memory that is free", "make it smaller first")


def _to_rgb(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def preprocess(image: Image, preprocessing: Preprocessing) -> Tensor:
    """(3, H, W) float32 pixels in [0, 1]: short side resized, centre cropped, in 8 bits."""
    import numpy as np
    import torch
    from PIL import Image

    width, height = image.size
    place = preprocessing.place(width, height)
    new, left, top = (place.width, place.height), place.left, place.top
    crop_height, crop_width = preprocessing.size
    filtered = Image.Resampling[preprocessing.interpolation.upper()]
    if max(new) > THIN * min(new):  # nearly all of it would be cropped away: make the centre only
        box = (max(left, 0), max(top, 0), min(left + crop_width, new[0]), min(top + crop_height, new[1]))
        wide, high = width / new[0], height / new[1]
        source = (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
        image = image.resize((box[2] - box[0], box[3] - box[1]), filtered, box=source)
        left, top = min(left, 0), min(top, 0)
    elif new != image.size:
        image = image.resize(new, filtered)
    image = image.crop((left, top, left + crop_width, top + crop_height))
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def _start_of_crop(side: int, crop: int) -> int:
    """Where a centred crop begins; before the image, which is padded with black, if the crop is larger."""
    return round((side - crop) / 2.0) if side >= crop else -((crop - side) // 2)


def read_image(
    path: str | Path, size: int | Sequence[int] = 224, *, preprocessing: Preprocessing | None = None
) -> Tensor:
    """Pixels of an image as the commands see them, minus the normalisation.

    path: an image file. It is turned upright by its EXIF orientation, laid over white, and made RGB; colour profiles are not applied.
    size: input side in pixels or (height, width); the short side is resized to size / 0.875 (bicubic), then the centre is cropped.
    preprocessing: a classifier's own (``classifier.preprocessing``) instead of ``size``: models differ in what they resize to.
    Returns float32 (3, H, W) in [0, 1] on the CPU. Raises InputError when the file cannot be used.

    >>> x = xplain.read_image("cat.jpg", preprocessing=clf.preprocessing)[None]
    """
    source = Source(Path(path), Path(path).stem)
    return preprocess(decode_image(source.read(), source.name), preprocessing or Preprocessing.for_size(size))


@dataclass(frozen=True, eq=False)
class Loaded:
    """An image that was read: the SHA-256 of its file, its pixels (3, H, W), and the file's height and width when upright."""

    source: Source
    digest: str
    pixels: Tensor
    size: tuple[int, int]


def read_ahead(
    sources: Iterable[Source], preprocessing: Preprocessing, size: int, threads: int = 4
) -> Iterator[list[Loaded | Failed]]:
    """Groups of ``size`` images in order, read by threads while the caller works on the group before."""

    def read(source: Source) -> Loaded | Failed:
        try:
            content = source.read()
            image = decode_image(content, source.name)
            return Loaded(source, sha256(content), preprocess(image, preprocessing), (image.height, image.width))
        except XplainError as error:
            return Failed(source.name, error)

    remaining = iter(sources)
    with ThreadPoolExecutor(threads) as pool:
        coming = [pool.submit(read, source) for source in islice(remaining, size)]
        try:
            while coming:
                group, coming = coming, [pool.submit(read, source) for source in islice(remaining, size)]
                yield [future.result() for future in group]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()
