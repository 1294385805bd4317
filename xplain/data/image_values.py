"""Images that the library receives as values: paths, Pillow images, NumPy arrays and tensors."""

from __future__ import annotations

import io
from collections.abc import Collection
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xplain.core.errors import InputError, UsageError
from xplain.data.image_metadata import read_orientation, turn_upright
from xplain.data.pixel_formats import check_range_is_defined
from xplain.data.sources import ImageSource
from xplain.data.unit_range import check_unit_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    ImageLike = str | PathLike[str] | Image | NDArray[Any] | Tensor

IMAGE_HINT = "pass a path, a Pillow image, a NumPy array or a tensor"
PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")  # Pillow's modes that PNG stores without loss


def make_source(value: object, name: str, channels: Collection[int]) -> ImageSource:
    """Return an image that is given as a value.

    A path, a Pillow image, and an array or tensor of integers (H, W), (H, W, C) or (C, H, W) are read as an image file is: resized
    and cropped for the model. Floats (H, W, C) are, too. Floats (C, H, W) are model input and stay as they are.

    name: in messages and records. channels: numbers of channels that model input may have; empty if unknown.
    Raises UsageError for another type or shape, and InputError for floats that are not in [0, 1].
    """
    if isinstance(value, str | PathLike):
        return _make_file_source(value)
    if type(value).__module__.startswith("PIL."):
        return ImageSource(None, name, content=_encode_image(value, name), member=name)  # type: ignore[arg-type]
    return _make_array_source(value, name, channels)


def _make_file_source(value: str | PathLike[Any]) -> ImageSource:
    text = fspath(value)
    if not isinstance(text, str) or not Path(text).name:
        raise UsageError(f"{value!r} is not the path of a file", IMAGE_HINT)
    path = Path(text)
    return ImageSource(path, path.stem, path.absolute().parent.name)


def _encode_image(image: Image, name: str) -> bytes:
    """Return the bytes of an upright Pillow image as PNG, without loss of 8-bit colors."""
    check_range_is_defined(image, name)
    upright = turn_upright(image, read_orientation(image))
    if upright.mode not in PNG_MODES:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    transparency = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    stream = io.BytesIO()
    upright.save(stream, "PNG", compress_level=1, exif=b"", **transparency)
    return stream.getvalue()


def _make_array_source(value: object, name: str, channels: Collection[int]) -> ImageSource:
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise UsageError(f"{name!r} is an array of {value.dtype}", "pass numbers, such as uint8 or float32")
        tensor_like: NDArray[Any] | Tensor = value
        is_float = value.dtype.kind == "f"
    elif isinstance(value, torch.Tensor):
        tensor_like, is_float = value.detach().cpu(), value.is_floating_point()
    else:
        raise UsageError(f"{name!r} is of type {type(value).__name__}", IMAGE_HINT)
    if tensor_like.ndim not in (2, 3) or 0 in tensor_like.shape:
        raise UsageError(
            f"{name!r} has the shape {tuple(tensor_like.shape)}", "pass (C, H, W) or (H, W, C), or a batch of them"
        )
    if is_float and tensor_like.ndim == 3 and (not channels or tensor_like.shape[0] in channels):
        return ImageSource(None, name, member=name, pixels=_to_model_input(tensor_like))
    array = tensor_like if isinstance(tensor_like, np.ndarray) else tensor_like.numpy()
    return ImageSource(None, name, content=_encode_array(array, name, channels), member=name)


def _to_model_input(values: NDArray[Any] | Tensor) -> Tensor:
    """Return floats (C, H, W) as a tensor of float32 or float64. Raises InputError unless they are finite and in [0, 1]."""
    import torch

    tensor = torch.as_tensor(values)
    tensor = tensor.clone() if tensor.dtype == torch.float64 else tensor.float().clone()
    if not bool(tensor.isfinite().all()):
        raise InputError("the images contain NaN or infinity", "pass finite values")
    check_unit_range(tensor, "images")
    return tensor


def _encode_array(array: NDArray[np.generic], name: str, channels: Collection[int]) -> bytes:
    """Return an array as the bytes of a file: NPY, or PNG for 8-bit pixels with transparency."""
    import numpy as np
    from PIL import Image

    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 4 and 3 in channels:
        return _encode_image(Image.fromarray(array), name)
    if array.dtype.kind == "f":
        import torch

        check_unit_range(torch.as_tensor(array.astype(np.float64)), "images")
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
