"""Segments of images: superpixels that tile an image, and overlapping regions at several scales.

Images of more than three bands are segmented by their first three, and those of two by the first, as pictures show them.

scikit-image needs NumPy arrays, so images are moved to the CPU and labels are moved back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SCALES = (50, 100, 150, 250, 500, 1200)  # of Felzenszwalb's algorithm, as in PAIR's XRAI
SMOOTHING = 0.8  # pixels
MIN_SIZE = 150  # pixels of a region at 224 x 224
SIDE = 224  # pixels: images are segmented at this size
DILATION = 5  # pixels


def find_superpixels(x: Tensor, count: int) -> Tensor:
    """Return labels (B, H, W) 0, 1, ... of about ``count`` compact segments per image (SLIC, compactness 10)."""
    from skimage.segmentation import slic  # slow to import

    label_maps = []
    for image in _to_arrays(x):
        labels = slic(image, n_segments=count, compactness=10.0, start_label=0, channel_axis=-1)
        label_maps.append(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
    return torch.from_numpy(np.stack(label_maps)).long().to(x.device)


def spread_evenly(values: Tensor, labels: Tensor) -> Tensor:
    """Divide the value of each segment evenly among its pixels.

    values: (B, K) per segment. labels: (B, H, W). Returns (B, 1, H, W).
    """
    flat = labels.flatten(1)
    sizes = torch.zeros_like(values).scatter_add_(1, flat, torch.ones_like(flat, dtype=values.dtype))
    return (values / sizes.clamp(min=1)).gather(1, flat).unflatten(1, labels.shape[1:])[:, None]


def fill_with_means(x: Tensor, labels: Tensor) -> Tensor:
    """Return images (B, C, H, W) in which every segment shows its mean color."""
    index = labels.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    count = int(labels.max()) + 1
    means = x.new_zeros(*x.shape[:2], count).scatter_reduce_(2, index, x.flatten(2), "mean", include_self=False)
    return means.gather(2, index).view_as(x)


def find_regions(x: Tensor) -> list[Tensor]:
    """Return masks (N, H, W) per image, on the CPU, of the overlapping regions at all ``SCALES``, each dilated by ``DILATION`` pixels.

    As in PAIR's XRAI, the image is scaled to [-1, 1], resized to 224 x 224 and segmented by Felzenszwalb's algorithm; the
    labels are resized back, and each region is dilated by a disk.
    """
    return [torch.from_numpy(_find_regions(image)) for image in _to_arrays(x)]


def describe_segmented_bands(x: Tensor) -> dict[str, str]:
    """Return the bands of images (B, C, H, W) that were segmented, for records; {} for RGB and gray images."""
    channels = x.shape[1]
    if channels in (1, 3):
        return {}
    return {"segmented_bands": "1, 2, 3" if channels > 3 else "1"}


def _to_arrays(x: Tensor) -> np.ndarray:
    """Return images (B, C, H, W) as a float64 array (B, H, W, C) of three channels or one."""
    if x.shape[1] == 2:
        x = x[:, :1].expand(-1, 3, -1, -1)
    x = x[:, :3]
    return x.detach().permute(0, 2, 3, 1).double().cpu().numpy()


def _find_regions(image: np.ndarray) -> np.ndarray:
    """Return the masks (N, H, W) of the regions of one image (H, W, C)."""
    from skimage.morphology import dilation, disk
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    height, width = image.shape[:2]
    span = image.max() - image.min()
    scaled = (image - image.min()) / (span if span > 0 else 1.0) * 2 - 1
    scaled = resize(scaled, (SIDE, SIDE), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    masks = []
    for scale in SCALES:
        labels = felzenszwalb(scaled, scale=scale, sigma=SMOOTHING, min_size=MIN_SIZE)
        labels = resize(labels, (height, width), order=0, mode="constant", preserve_range=True, anti_aliasing=False)
        masks += [dilation(labels == label, footprint=disk(DILATION)) for label in np.unique(labels)]
    return np.stack(masks)
