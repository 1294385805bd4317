"""Decode images to upright 8-bit RGB, read them as model input, and prefetch them with threads.

Every command decodes alike: EXIF orientation is applied, transparency is blended with white, 16-bit gray is scaled to 8 bits,
the first frame of an animation is used, color profiles are ignored, and all modes become RGB.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from xplain.core.errors import Failure, InputError, XplainError, first_line
from xplain.core.files import FileState
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import ImageSource, too_large_error

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def decode_image(content: bytes, name: str) -> Image:
    """Decode the bytes of an image file to an upright 8-bit RGB Pillow image. Raises InputError that names ``name``."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise InputError(f"{name!r} is empty (0 bytes)", "pass an image file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode == "F":
                raise InputError(
                    f"{name!r} has floating-point pixels, whose range is not defined", "save it with 8 or 16 bits"
                )
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InputError(
            f"{name!r} is not an image that Pillow can read", "use JPEG, PNG, WebP, TIFF or a similar format"
        ) from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name!r} is too large: {error}", "reduce its size") from None
    except MemoryError:
        raise too_large_error(name) from None
    except XplainError:
        raise
    except Exception as error:  # decoders raise many types
        raise InputError(f"{name!r} is damaged: {first_line(error)}", "restore the file or leave it out") from None


def _to_rgb(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit gray
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
        InputError: if the file cannot be used.

    Example:
        >>> x = xplain.read_image("cat.jpg", preprocessing=clf.preprocessing)[None]
    """
    source = ImageSource(Path(path), Path(path).stem)
    return preprocess(decode_image(source.read(), source.name), preprocessing or Preprocessing.for_size(size))


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
