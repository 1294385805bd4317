"""Find images, read them, and bring them to the model's input: pixels in [0, 1], not normalised.

Decided once, for every command: EXIF orientation is applied, transparency is laid over white, 16-bit grey is
scaled to 8 bits, of animations the first frame is taken, colour profiles are not applied, everything becomes RGB; then the
short side is resized and the centre is cropped in 8 bits by Pillow, as torchvision's transforms do on Pillow images.
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

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import ImageSource, _too_large


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


def _to_rgb(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    source = ImageSource(Path(path), Path(path).stem)
    return preprocess(decode_image(source.read(), source.name), preprocessing or Preprocessing.for_size(size))


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that was read: the SHA-256 of its file, its pixels (3, H, W), and the file's height and width when upright."""

    source: ImageSource
    digest: str
    pixels: Tensor
    size: tuple[int, int]


def prefetch_images(
    sources: Iterable[ImageSource], preprocessing: Preprocessing, size: int, threads: int = 4
) -> Iterator[list[LoadedImage | Failure]]:
    """Groups of ``size`` images in order, read by threads while the caller works on the group before."""

    def read(source: ImageSource) -> LoadedImage | Failure:
        try:
            content = source.read()
            image = decode_image(content, source.name)
            return LoadedImage(source, sha256(content), preprocess(image, preprocessing), (image.height, image.width))
        except XplainError as error:
            return Failure(source.name, error)

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
