"""Compress images as JPEG and decode them again."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xplain.core.errors import UsageError


def compress_as_jpeg(images: Tensor, quality: int) -> Tensor:
    """Return images (B, C, H, W) in [0, 1] after JPEG compression, with Pillow's default subsampling of colors.

    Raises UsageError unless the images have one or three channels.
    """
    if images.shape[1] not in (1, 3):
        raise UsageError(f"images with {images.shape[1]} channels cannot be stored as JPEG", "use noise=uniform")
    pixels = (images.detach().cpu().double() * 255).round().byte().permute(0, 2, 3, 1).numpy()
    decoded = [_compress(image, quality) for image in pixels]
    return torch.stack(decoded).to(images)


def _compress(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int) -> Tensor:
    """Return (C, H, W) float64 of the bytes (H, W, C) of an image."""
    stream = io.BytesIO()
    is_gray = pixels.shape[2] == 1
    Image.fromarray(pixels[..., 0] if is_gray else pixels).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as image:
        array = np.asarray(image, dtype=np.float64)
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1) / 255)
