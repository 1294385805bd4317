"""Linear imputation as a dense linear system for one image (Rong et al. 2022, section 4)."""

import torch
from torch import Tensor

WEIGHTS = {(i, j): 1 / 6 if 0 in (i, j) else 1 / 12 for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)}


def imputed(image: Tensor, missing: Tensor) -> Tensor:
    """Return an image (C, H, W) whose missing pixels (H, W) are solved for, without noise."""
    height, width = missing.shape
    pixels = [(i, j) for i in range(height) for j in range(width) if missing[i, j]]
    if not pixels:
        return image
    matrix = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    right = torch.zeros(len(pixels), len(image), dtype=torch.float64)
    for row, (i, j) in enumerate(pixels):
        for (down, across), weight in WEIGHTS.items():
            near = (i + down, j + across)
            if not (0 <= near[0] < height and 0 <= near[1] < width):
                continue
            matrix[row, row] += weight
            if near in pixels:
                matrix[row, pixels.index(near)] -= weight
            else:
                right[row] += weight * image[:, near[0], near[1]]
    result = image.clone()
    for (i, j), value in zip(pixels, torch.linalg.solve(matrix, right), strict=True):
        result[:, i, j] = value
    return result


def removed(saliency: Tensor, count: int, lowest: bool) -> Tensor:
    """Return the mask (H, W) of the first ``count`` pixels of a map (H, W); ties keep raster order."""
    flat = saliency.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda at: (flat[at] if lowest else -flat[at], at))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.reshape(saliency.shape)
