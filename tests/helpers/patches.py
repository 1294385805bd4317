"""Labelled images with known evidence: noise with a patch of vertical or horizontal stripes at a random place."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from xplain.data.splits import LabeledImages, TrainTestSplit

SIDE, PATCH = 12, 4


def make_images(count: int, seed: int) -> LabeledImages:
    """Noise from 96 to 159; stripes of 0 and 255, whose mean colour is the same for both classes."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(96, 160, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    stripes = torch.tensor([0, 255, 0, 255], dtype=torch.uint8)
    patches = (stripes[None, :].expand(PATCH, PATCH), stripes[:, None].expand(PATCH, PATCH))
    labels = torch.arange(count) % 2
    for i, (top, left) in enumerate(torch.randint(0, SIDE - PATCH + 1, (count, 2), generator=generator).tolist()):
        pixels[i, :, top : top + PATCH, left : left + PATCH] = patches[int(labels[i])]
    return LabeledImages(pixels, labels)


def make_set(train: int = 160, test: int = 80) -> TrainTestSplit:
    """The classes are called upright and level."""
    return TrainTestSplit(make_images(train, 0), make_images(test, 1), ("upright", "level"))


def patch_map(x: Tensor) -> Tensor:
    """Return the true map (n, 1, H, W): 1 on the patch and 0 on the noise, which is never black or white."""
    return ((x == 0) | (x == 1)).all(dim=1, keepdim=True).to(x)


def write_set(data: TrainTestSplit, folder: Path) -> Path:
    """The set as PNG files in ``train`` and ``test``."""
    for part, images in (("train", data.train), ("test", data.test)):
        for i, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist(), strict=True)):
            path = folder / part / data.classes[label] / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return folder
