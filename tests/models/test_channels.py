"""The number of input channels of models: what declares it, what is found by running, and refusals that name channels."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.models.classifier import Classifier


def load(model: nn.Module, **options) -> Classifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelNote)
        return xplain.load_classifier(model, device="cpu", **options)


class Functional(nn.Module):
    """A convolution whose weight is a parameter of unusual shape, so that only its error names the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8 * channels * 9))
        self.channels_of_kernel = channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.conv2d(x, self.weight.view(8, self.channels_of_kernel, 3, 3)).mean(dim=(2, 3))


class Declared(nn.Module):
    """A model that accepts any number of channels and declares one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3))[:, None] * self.scale


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 6, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class OwnMean(nn.Module):
    """Subtraction of a mean (C, 1, 1), which is also possible for images of one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.linspace(0.3, 0.6, channels, dtype=torch.float64)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x - self.offset


def pooled(channels: int) -> nn.Module:
    head = nn.Linear(4 * channels, 3).double()
    return nn.Sequential(OwnMean(channels), nn.AdaptiveAvgPool2d(2), nn.Flatten(), head)


@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: toys.band_net(2), 2),
        (lambda: toys.band_net(4), 4),
        (lambda: toys.band_net(12), 12),
        (lambda: toys.Linear(toys.band_weights(12)), 12),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(5 * 16 * 16, 3)), 5),
        (lambda: Functional(21), 21),
        (lambda: Declared(7), 7),
        (grouped, 6),
        (lambda: pooled(2), 2),
        (lambda: pooled(12), 12),
        (lambda: toys.band_net(1), 1),
        (lambda: toys.band_net(3), 3),
    ],
    ids=[
        "2",
        "4",
        "12",
        "linear",
        "flat",
        "functional",
        "declared",
        "grouped",
        "mean of 2",
        "mean of 12",
        "gray",
        "rgb",
    ],
)
def test_channels_are_found(make, channels):
    model = make()
    model.size = 16
    classifier = load(model)
    images = torch.rand(2, channels, 16, 16, dtype=classifier.dtype)
    assert (classifier.channels, classifier.input_channels) == (channels, 3 if channels == 1 else channels)
    assert classifier.preprocessing.pixels.channels == classifier.input_channels
    assert len(classifier.mean) == len(classifier.std) == classifier.input_channels
    toys.assert_same(classifier(images), model(images))


def test_note_names_the_channels():
    assert load(toys.band_net(4)).notes[0] == "the model has 4 input channels"


@pytest.mark.parametrize("channels", [4, 12])
def test_normalization_of_any_length(channels):
    mean = torch.linspace(0.1, 0.9, channels, dtype=torch.float64)
    std = torch.linspace(0.2, 0.4, channels, dtype=torch.float64)
    model = toys.Linear(toys.band_weights(channels))
    model.size, model.mean, model.std = 16, mean.tolist(), std.tolist()
    images = torch.rand(2, channels, 16, 16, dtype=torch.float64)
    normalized = (images - mean[:, None, None]) / std[:, None, None]
    toys.assert_same(load(model)(images), model(normalized))
    gradient = xplain.attribute(load(model), images, "saliency", target=1).values
    toys.assert_same(gradient, (model.weight[1] / std[:, None, None]).expand_as(images))


def test_single_mean_applies_to_all_channels():
    model = toys.Linear(toys.band_weights(4))
    model.size, model.mean, model.std = 16, 0.5, [0.25]
    images = torch.rand(1, 4, 16, 16, dtype=torch.float64)
    classifier = load(model)
    assert (classifier.channels, len(classifier.mean)) == (4, 1)
    toys.assert_same(classifier(images), model((images - 0.5) / 0.25))


@pytest.mark.parametrize(
    ("channels", "mean", "message"),
    [
        (4, [0.5] * 3, "the model's 'mean' has 3 values, but Sequential takes 4 channels; set one value per channel"),
        (3, [0.5] * 4, "the model's 'mean' has 4 values, but Sequential takes 3 channels; set one value per channel"),
    ],
)
def test_mean_of_other_channels_is_refused(channels, mean, message):
    model = toys.band_net(channels)
    model.mean = mean
    for options in ({}, {"image_size": 16}):
        with pytest.raises(InputError) as error:
            load(model, **options)
        assert message in str(error.value)
        assert "--image-size" not in str(error.value)


def test_mean_and_std_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="the mean has 4 values and the std has 3; use one value per channel"):
        Classifier(toys.band_net(4), name="net", mean=[0.5] * 4, std=[0.2] * 3)


@pytest.mark.parametrize(
    ("channels", "shape", "message"),
    [
        (
            12,
            (1, 4, 16, 16),
            "images (1, 4, 16, 16) have 4 channels, but the model takes 12; pass images of shape (B, 12, H, W)",
        ),
        (4, (1, 3, 16, 16), "have 3 channels, but the model takes 4; pass images of shape (B, 4, H, W)"),
        (
            4,
            (1, 16, 16, 4),
            "have 16 channels, but the model takes 4; move the channels first by images.permute(0, 3, 1, 2)",
        ),
        (3, (1, 4, 16, 16), "have 4 channels, but the model takes 3; remove transparency by images[:, :3]"),
    ],
)
def test_images_of_other_channels_are_refused(channels, shape, message):
    classifier = load(toys.band_net(channels))
    images = torch.rand(shape, dtype=torch.float64)
    for call in (classifier, lambda x: xplain.attribute(classifier, x, "saliency")):
        with pytest.raises(UsageError) as error:
            call(images)
        assert message in str(error.value)


def test_gray_model_accepts_gray_and_rgb():
    classifier = load(toys.band_net(1))
    gray = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    toys.assert_same(classifier(gray), classifier(gray.expand(-1, 3, -1, -1)))
    assert xplain.attribute(classifier, gray, "ig", target=0, steps=3).values.shape == (2, 1, 16, 16)


@pytest.mark.parametrize("mean", [[], [0.3], [0.3, 0.5, 0.6]])
@pytest.mark.parametrize("method", ["ig", "kernel-shap"])
def test_mean_of_gray_images(mean, method):
    network = toys.band_net(1)
    if mean:
        network.mean, network.std = mean, [value / 2 for value in mean]
    classifier = load(network)
    gray = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    settings = {"steps": 3} if method == "ig" else {"samples": 20, "segments": 4}
    maps = [
        xplain.attribute(classifier, images, method, target=0, baseline="mean", **settings).values.sum(dim=1)
        for images in (gray, gray.expand(-1, 3, -1, -1))
    ]
    if method == "ig":
        toys.assert_same(maps[0], maps[1])
    zeros = network(torch.zeros(1, 1, 16, 16, dtype=torch.float64))
    toys.assert_same(classifier(classifier.mean_color(1).expand(1, 1, 16, 16)), zeros)
    curve = xplain.measure(classifier, gray, maps[0][:, None], "deletion", target=0, steps=2, baseline="mean").curve
    toys.assert_same(curve[:, -1], zeros.softmax(dim=1)[0, 0].expand(2))


def flat_net(channels: int) -> nn.Module:
    """Return a network that accepts images of 8 x 8 only, and does not say so."""
    conv = nn.Conv2d(channels, 4, 3)
    return nn.Sequential(conv, nn.Flatten(), nn.Linear(4 * 36, 3)).double().eval()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_learnt_from_images_if_the_size_is_unknown(channels):
    model = flat_net(channels)
    classifier = load(model)
    assert not classifier.has_known_channels
    images = torch.rand(2, max(channels, 3), 8, 8, dtype=torch.float64)
    result = xplain.attribute(classifier, images, "saliency", target=0)
    assert result.values.shape == images.shape
    assert (classifier.channels, classifier.has_known_channels) == (channels, True)
    assert len(classifier.mean) == len(images[0])


def test_wrong_channels_are_not_learnt():
    classifier = load(flat_net(4))
    with pytest.raises(UsageError, match="have 3 channels, but the model takes 4"):
        xplain.attribute(classifier, torch.rand(1, 3, 8, 8, dtype=torch.float64), "saliency")
    right = torch.rand(1, 4, 8, 8, dtype=torch.float64)
    assert xplain.attribute(classifier, right, "saliency").values.shape == right.shape


def test_error_of_a_wrong_size_is_that_of_the_right_channels():
    with pytest.raises(InputError) as error:
        load(flat_net(4), image_size=9)
    assert "does not accept images of 9 x 9 pixels (mat1 and mat2 shapes" in str(error.value)


def test_scripted_program_of_four_channels(tmp_path):
    net = toys.band_net(4).float()
    images = torch.rand(2, 4, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, images).save(tmp_path / "net.ts")
    classifier = load(f"script:{tmp_path / 'net.ts'}", image_size=16)
    assert classifier.channels == 4
    toys.assert_same(classifier(images), net(images), rtol=1e-5)
