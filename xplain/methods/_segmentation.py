"""Segments of images: superpixels that tile an image, and overlapping regions at several scales.

scikit-image works on arrays, so images go to the CPU here and labels come back.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SCALES = (50, 100, 150, 250, 500, 1200)  # of Felzenszwalb's algorithm, as in PAIR's XRAI
SMOOTHING = 0.8  # pixels
SMALLEST = 150  # pixels of a region at 224 x 224
SIDE = 224  # pixels: regions are found at this size
DILATION = 5  # pixels


def superpixels(x: Tensor, count: int) -> Tensor:
    """(B, H, W) labels 0, 1, ... of about ``count`` compact segments of each image (SLIC; compactness 10)."""
    from skimage.segmentation import slic  # slow to import

    found = []
    for image in _pixels(x):
        labels = slic(image, n_segments=count, compactness=10.0, start_label=0, channel_axis=-1)
        found.append(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
    return torch.from_numpy(np.stack(found)).long().to(x.device)


def spread(values: Tensor, labels: Tensor) -> Tensor:
    """(B, 1, H, W): values (B, K) of segments, shared evenly by the pixels of each segment of labels (B, H, W)."""
    flat = labels.flatten(1)
    sizes = torch.zeros_like(values).scatter_add_(1, flat, torch.ones_like(flat, dtype=values.dtype))
    return (values / sizes.clamp(min=1)).gather(1, flat).unflatten(1, labels.shape[1:])[:, None]


def segment_means(x: Tensor, labels: Tensor) -> Tensor:
    """Images (B, C, H, W) in which every segment has its mean colour."""
    index = labels.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    count = int(labels.max()) + 1
    means = x.new_zeros(*x.shape[:2], count).scatter_reduce_(2, index, x.flatten(2), "mean", include_self=False)
    return means.gather(2, index).view_as(x)


def regions(x: Tensor) -> list[Tensor]:
    """For each image (N, H, W) bool: overlapping regions at all ``SCALES`` together, each widened by ``DILATION``.

    As PAIR's XRAI: the image is scaled to [-1, 1], resized to 224 x 224 and cut up by Felzenszwalb's algorithm; the
    labels are resized back, and each region is dilated by a disk.
    """
    return [torch.from_numpy(_regions(image)).to(x.device) for image in _pixels(x)]


def _pixels(x: Tensor) -> np.ndarray:
    """(B, H, W, C) float64."""
    return x.detach().permute(0, 2, 3, 1).double().cpu().numpy()


def _regions(image: np.ndarray) -> np.ndarray:
    from skimage.morphology import dilation, disk
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    height, width = image.shape[:2]
    span = image.max() - image.min()
    scaled = (image - image.min()) / (span if span > 0 else 1.0) * 2 - 1
    scaled = resize(scaled, (SIDE, SIDE), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    found = []
    for scale in SCALES:
        labels = felzenszwalb(scaled, scale=scale, sigma=SMOOTHING, min_size=SMALLEST)
        labels = resize(labels, (height, width), order=0, mode="constant", preserve_range=True, anti_aliasing=False)
        found += [dilation(labels == each, footprint=disk(DILATION)) for each in np.unique(labels)]
    return np.stack(found)
