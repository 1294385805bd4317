"""Read an image and preprocess it for the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xplain.core.files import FileState
from xplain.data.images import read_model_input, sha256
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A preprocessed image.

    digest: SHA-256 of its file. pixels: (C, H, W) in [0, 1]. size: (height, width) of the upright file.
    state: of the file before it was read, or None if there is no file. stored, orientation: as in ``ModelInput``.
    """

    source: ImageSource
    digest: str
    pixels: Tensor
    size: tuple[int, int]
    state: FileState | None = None
    stored: dict[str, Any] | None = None
    orientation: int = 1


def load_image(source: ImageSource, preprocessing: Preprocessing) -> LoadedImage:
    """Read and preprocess an image. Model input that is in memory stays as it is. Raises InputError if it cannot be used."""
    if source.find is not None:
        return replace(load_image(source.find(), preprocessing), source=source)
    if source.pixels is not None:
        _, height, width = source.pixels.shape
        return LoadedImage(source, hash_pixels(source.pixels), source.pixels, (height, width))
    state = source.state()
    content = source.read()
    result = read_model_input(content, source.name, preprocessing)
    return LoadedImage(source, sha256(content), result.pixels, result.size, state, result.stored, result.orientation)


def hash_pixels(pixels: Tensor) -> str:
    """Return the hexadecimal SHA-256 digest of pixels on the CPU, their type and their shape."""
    header = f"{pixels.dtype} {tuple(pixels.shape)}".encode()
    return sha256(header + pixels.contiguous().numpy().tobytes())
