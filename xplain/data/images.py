"""Decode images to upright 8-bit RGB, read them as model input, and prefetch them with threads.

Every command decodes alike: EXIF orientation is applied, transparency is blended with white, gray of 12, 16 and 32 bits is scaled
to 8 bits, the first frame of an animation is used, color profiles are ignored, and all modes become RGB.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from xplain.core.current_image import processing_image
from xplain.core.errors import Failure, InputError, UsageError, XplainError, emit_note, first_line
from xplain.core.files import FileState
from xplain.data.formats import is_heif, register_heif, suggest_format
from xplain.data.image_metadata import TIFF_HEADERS, read_orientation, strip_metadata, turn_upright
from xplain.data.pixel_formats import convert_to_rgb, read_planes_in_full
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import ImageSource, too_large_error

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TIFF_HINT = "save it as PNG, or as little-endian TIFF with 1 or 3 channels of 8 or 16 bits"  # Pillow reads few others
# Texts of Pillow's exceptions that report too little memory, or a size that it refuses.
DECODER_MEMORY_TEXTS = ("out of memory error", "decoder error -9")


def decode_image(content: bytes, name: str) -> Image:
    """Decode the bytes of an image file to an upright 8-bit RGB Pillow image. Raises InputError that names ``name``."""
    if not content:
        raise InputError(f"{name!r} is empty (0 bytes)", "pass an image file")
    with processing_image(name):
        error: InputError | None = None
        for variant in strip_metadata(content):  # metadata that Pillow cannot parse hides no pixels
            try:
                return _decode(variant, name)
            except _UnreadableError as unreadable:
                error = unreadable
        raise InputError(str(error)) from None


class _UnreadableError(InputError):
    """Pillow cannot read a file, which may be due to its metadata."""


def _decode(content: bytes, name: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    if is_heif(content):
        register_heif()
    try:
        with Image.open(io.BytesIO(content)) as image:
            raw_mode = _raw_mode(image)
            read_planes_in_full(image, name)
            _silence_libtiff()
            image.load()
            if image.format == "TIFF" and getattr(image, "is_animated", False):
                emit_note(f"{name!r} has several pages; the first is used")
            return turn_upright(convert_to_rgb(image, raw_mode, content, name), read_orientation(image))
    except UnidentifiedImageError:
        hint = TIFF_HINT if content[:4] in TIFF_HEADERS else suggest_format(content)
        raise _UnreadableError(f"{name!r} is not an image that Pillow can read", hint) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name!r} is too large: {error}", "reduce its size") from None
    except XplainError:
        raise
    except Exception as error:  # decoders raise many types
        if isinstance(error, MemoryError) or any(text in str(error) for text in DECODER_MEMORY_TEXTS):
            raise too_large_error(name) from None
        raise _UnreadableError(
            f"{name!r} is damaged: {first_line(error)}", "restore the file or leave it out"
        ) from None


def _raw_mode(image: Image) -> str:
    """Return how the file stores pixels in Pillow's notation, such as ``RGB;16B``; empty if the decoder has another form."""
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles and isinstance(tiles[0].args, str) else ""


@cache
def _silence_libtiff() -> None:
    """Stop libtiff from writing to standard error. What it reports is part of the exceptions that Pillow raises."""
    from PIL import _imaging

    try:
        handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError, TypeError):  # not a part of this Pillow
        return
    handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    handler(None)


def read_image(
    path: str | Path, size: int | Sequence[int] = 224, *, preprocessing: Preprocessing | None = None
) -> Tensor:
    """Read an image file as a model input. The image is not normalized, because classifiers normalize their input.

    With ``preprocessing=classifier.preprocessing``, the result is the input that the commands use.

    Args:
        path: path of the image file. EXIF orientation is applied, transparent pixels are blended with white, and color profiles are
            ignored.
        size: input side in pixels or (height, width). The short side is resized to size / 0.875 (bicubic), then the center is cropped.
        preprocessing: preprocessing to use instead of ``size``, usually ``classifier.preprocessing``, because models resize differently.

    Returns:
        float32 (3, H, W) in [0, 1] on the CPU.

    Raises:
        UsageError: an argument is invalid.
        InputError: the file cannot be used.

    Example:
        >>> x = xplain.read_image("cat.jpg", preprocessing=clf.preprocessing)[None]
    """
    if not isinstance(path, str | PathLike) or not isinstance(fspath(path), str):
        raise UsageError(
            f"the image is of type {type(path).__name__}, not a path",
            "pass the path of a file, or convert pixels: torch.tensor(array / 255).permute(2, 0, 1).float()",
        )
    if preprocessing is None:
        preprocessing = Preprocessing.for_size(size)
    if not isinstance(preprocessing, Preprocessing):
        raise UsageError(f"preprocessing is of type {type(preprocessing).__name__}", "pass classifier.preprocessing")
    source = ImageSource(Path(path), Path(path).stem)
    image = decode_image(source.read(), source.name)
    try:
        return preprocess(image, preprocessing)
    except MemoryError:
        raise too_large_error(source.name) from None


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A preprocessed image.

    digest: SHA-256 of its file. pixels: (3, H, W) in [0, 1]. size: (height, width) of the upright file.
    state: of the file before it was read, or None if there is no file.
    """

    source: ImageSource
    digest: str
    pixels: Tensor
    size: tuple[int, int]
    state: FileState | None = None


def prefetch_images(
    sources: Iterable[ImageSource], preprocessing: Preprocessing, size: int, threads: int = 4
) -> Iterator[list[LoadedImage | Failure]]:
    """Yield groups of ``size`` images in order. Threads read the next group while the caller processes the current one."""

    def read(source: ImageSource) -> LoadedImage | Failure:
        try:
            state = source.state()
            content = source.read()
            image = decode_image(content, source.name)
            pixels = preprocess(image, preprocessing)
            return LoadedImage(source, sha256(content), pixels, (image.height, image.width), state)
        except XplainError as error:
            return Failure(source.name, error)

    remaining = iter(sources)
    with ThreadPoolExecutor(threads) as pool:
        pending = [pool.submit(read, source) for source in islice(remaining, size)]
        try:
            while pending:
                current = pending
                pending = [pool.submit(read, source) for source in islice(remaining, size)]
                yield [future.result() for future in current]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256 digest of a file's bytes."""
    return hashlib.sha256(content).hexdigest()
