"""Classifier: the normalization of its input, and the logits in its output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.models import Classifier


def test_classifier_normalizes_pixels():
    weight = torch.zeros(3, 3, 1, 1, dtype=torch.float64)
    weight[[0, 1, 2], [0, 1, 2]] = 1
    model = toys.classifier(toys.Linear(weight), mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0])
    x = torch.tensor([0.6, 0.7, 0.3], dtype=torch.float64).reshape(1, 3, 1, 1)
    assert model(x)[0].tolist() == pytest.approx([1.0, 2.0, 0.0], abs=1e-15)


def test_classifier_without_mean_and_std():
    model = toys.small_net()
    x = toys.images()
    assert torch.equal(toys.classifier(model)(x), model(x))


def test_classifier_converts_image_dtype():
    model = toys.classifier(toys.small_net())
    assert model(toys.images().float()).dtype == torch.float64
    assert model.dtype == torch.float64
    assert model.device == torch.device("cpu")


def test_mean_and_std_are_float64():
    model = toys.classifier(toys.small_net(), mean=[0.485] * 3, std=[0.229] * 3)
    assert model.mean.flatten().tolist() == [0.485] * 3
    assert model.std.flatten().tolist() == [0.229] * 3


def test_state_dict_excludes_normalization():
    model = toys.classifier(toys.small_net(), mean=[0.485] * 3)
    assert not [name for name in model.state_dict() if "mean" in name and "running" not in name]


def nonfinite_classifier(bad: float) -> tuple[xplain.Classifier, torch.Tensor]:
    """Return a classifier and three images. The logits of the last one are not finite."""

    def function(x):
        return torch.where(x[:, :1, 0, 0] > 0.5, bad, x.flatten(1)[:, :3])

    images = torch.tensor([0.1, 0.2, 0.9], dtype=torch.float64)[:, None, None, None].expand(3, 3, 4, 4)
    return toys.classifier(toys.Function(function)), images


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_attribute_rejects_nonfinite_logits(bad):
    model, images = nonfinite_classifier(bad)
    with pytest.raises(InputError, match="logits of image 2 contain NaN or infinity") as error:
        xplain.attribute(model, images, "saliency")
    assert error.value.exit_code == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_measure_rejects_nonfinite_logits(bad):
    model, images = nonfinite_classifier(bad)
    with pytest.raises(InputError, match="NaN or infinity"):
        xplain.measure(model, images, images, "deletion", steps=2)


@pytest.mark.parametrize(
    ("function", "description"),
    [
        (lambda x: (x, x.sum()), "the model returned tuple instead of logits of shape (images, classes)"),
        (lambda x: {"out": x}, "the model returned dict instead of logits of shape (images, classes)"),
        (lambda x: {"one": x.flatten(1), "two": x.flatten(1)}, "the model returns one (B, 240) and two (B, 240)"),
        (lambda x: x, "the model returns (2, 3, 8, 10), a map of classes"),
        (lambda x: x.mean(dim=(1, 2, 3)), "the model returns (2,)"),
    ],
)
def test_forward_rejects_output_without_logits(function, description):
    with pytest.raises(InputError) as error:
        toys.classifier(toys.Function(function))(toys.images())
    assert error.value.message == description


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 3, 8, 8), "float32"), "the images are of type ndarray, not a tensor; pass pixels"),
        ("cat.jpg", "the images are of type str, not a tensor"),
        (
            torch.zeros(3, 8, 8),
            r"got float32 of shape \(3, 8, 8\); pass pixels in \[0, 1\] as a float tensor with a batch",
        ),
        (torch.full((1, 3, 8, 8), 200, dtype=torch.uint8), "got uint8 of shape"),
        (torch.zeros(1, 1, 8, 8), "have 1 channel, but the model takes 3; repeat the gray channel"),
        (torch.zeros(1, 8, 8, 3), "have 8 channels, but the model takes 3; move the channels first"),
        (torch.zeros(1, 3, 8, 8, device="meta"), r"the images are on meta, the model on cpu; use images.to"),
    ],
    ids=["array", "path", "no-batch", "integers", "gray", "channels-last", "device"],
)
def test_call_refuses_other_than_images(images, message):
    classifier = Classifier(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), name="net")
    with pytest.raises(UsageError, match=message):
        classifier(images)
