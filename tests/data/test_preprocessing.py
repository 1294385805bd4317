"""Tests of xplain.data.preprocessing, which must equal torchvision bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xplain.data.preprocessing import Preprocessing, preprocess


def make_noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def apply_without_normalization(transforms, image: Image.Image) -> torch.Tensor:
    transforms.mean, transforms.std = [0.0] * 3, [1.0] * 3
    return transforms(image)


SIZES = [
    (300, 451),
    (451, 300),
    (257, 333),
    (232, 232),
    (233, 232),
    (342, 500),
    (100, 37),
    (37, 100),
    (1, 1),
    (224, 224),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_preprocess_equals_torchvision(height, width):
    from torchvision.models import Inception_V3_Weights, ResNet50_Weights

    image = make_noise(height, width, seed=height)
    presets = {
        ResNet50_Weights.IMAGENET1K_V2: Preprocessing((224, 224), 232, "bilinear"),
        Inception_V3_Weights.IMAGENET1K_V1: Preprocessing((299, 299), 342, "bilinear"),
    }
    for weights, preprocessing in presets.items():
        expected = apply_without_normalization(weights.transforms(), image)
        x = preprocess(image, preprocessing)
        assert x.dtype == torch.float32
        assert torch.equal(x, expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (31, 35), (32, 32)])
def test_every_interpolation_equals_torchvision(interpolation, crop, resize):
    from torchvision.transforms._presets import ImageClassification
    from torchvision.transforms.functional import InterpolationMode

    transforms = ImageClassification(crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation))
    image = make_noise(51, 75)
    expected = apply_without_normalization(transforms, image)
    assert torch.equal(preprocess(image, Preprocessing((crop, crop), resize, interpolation)), expected)


def test_large_crop_is_padded_like_torchvision():
    from torchvision.transforms._presets import ImageClassification

    transforms = ImageClassification(crop_size=9, resize_size=6)
    for height, width in ((6, 6), (6, 8), (8, 6), (6, 20)):
        image = make_noise(height, width)
        expected = apply_without_normalization(transforms, image)
        assert torch.equal(preprocess(image, Preprocessing((9, 9), 6, "bilinear")), expected)


def test_rectangular_crop_is_centered():
    image = make_noise(10, 12)
    x = preprocess(image, Preprocessing((4, 6), 10))
    expected = torch.tensor(np.asarray(image)[3:7, 3:9].astype(np.float32) / 255).permute(2, 0, 1)
    assert torch.equal(x, expected)


def test_for_size_resizes_by_ratio():
    assert Preprocessing.for_size(224) == Preprocessing((224, 224), 256, "bicubic")
    assert Preprocessing.for_size(299) == Preprocessing((299, 299), 342, "bicubic")
    assert Preprocessing.for_size((64, 128)) == Preprocessing((64, 128), 146, "bicubic")


def test_resized_to_keeps_ratio():
    assert Preprocessing((299, 299), 342, "bilinear").resized_to(224) == Preprocessing((224, 224), 256, "bilinear")
    assert Preprocessing((224, 224), 232).resized_to(112) == Preprocessing((112, 112), 116)
    assert Preprocessing((64, 128), 146).resized_to(128) == Preprocessing((128, 128), 146)
