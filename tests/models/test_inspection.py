"""Detecting the channels and classes of models and where their logits are; one channel and oblong inputs."""

from __future__ import annotations

import warnings
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import xplain
from tests.conftest import SAMPLES
from tests.helpers import toys
from tests.helpers.commands import read_messages
from xplain.core.errors import ModelNote, UsageError
from xplain.models.output_request import EXCLUSIVE_NOTE

X = toys.images()
NET = toys.small_net()
Pair = namedtuple("Pair", ["features", "logits"])


@dataclass
class Output:
    loss: Tensor | None
    scores: Tensor


def load(model: nn.Module, size: object = (8, 10), **options) -> tuple[xplain.Classifier, list[str]]:
    """Return the classifier of a network that returns the logits of exclusive classes, and the notes that were emitted."""
    model.size, model.activation = size, "softmax"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier = xplain.load_classifier(model, device="cpu", **options)
    notes = [str(warning.message) for warning in caught if warning.category is ModelNote]
    assert notes.pop().startswith(f"from the module: size {classifier.size[0]} x {classifier.size[1]}")
    assert notes == classifier.notes
    return classifier, notes


@pytest.mark.parametrize(
    ("wrap", "description"),
    [
        (lambda z: (z, z.new_ones(2, 3, 4, 4)), "a tuple; using its entry '0'"),
        (lambda z: [z.new_ones(2, 3, 4, 4), z], "a list; using its entry '1'"),
        (lambda z: {"out": z}, "a dict; using its entry 'out'"),
        (lambda z: Output(None, z), "a Output; using its entry 'scores'"),
        (lambda z: Pair(z * 2, z), ""),  # an entry called logits
    ],
)
def test_logits_found_in_structured_output(wrap, description):
    classifier, notes = load(toys.Function(lambda x: wrap(NET(x))))
    assert notes == ([f"the model returns {description} as the logits"] if description else [])
    assert torch.equal(classifier(X), NET(X))
    expected = xplain.attribute(toys.classifier(NET), X, "ig", target=1, steps=3).values
    toys.assert_same(xplain.attribute(classifier, X, "ig", target=1, steps=3).values, expected)


def test_logits_found_in_1x1_map():
    classifier, notes = load(toys.Function(lambda x: NET(x)[:, :, None, None]))
    assert torch.equal(classifier(X), NET(X))
    assert notes == []


def test_softmax_output_is_skipped():
    classifier, notes = load(nn.Sequential(NET, nn.Softmax(dim=1)))
    assert notes == []
    assert torch.equal(classifier(X), NET(X))
    toys.assert_same(
        xplain.attribute(classifier, X, "saliency", target=1, score="prob").values,
        xplain.attribute(toys.classifier(NET), X, "saliency", target=1, score="prob").values,
    )


def test_zero_probability_has_finite_log():
    zero = nn.Sequential(nn.Flatten(), nn.Linear(240, 3), nn.Softmax(dim=1))
    with torch.no_grad():
        zero[1].weight.zero_()
        zero[1].bias.copy_(torch.tensor([0.0, -500.0, 500.0]))
    classifier, _ = load(zero)
    assert classifier.output.is_peeled
    assert classifier(X.float()).isfinite().all()
    assert xplain.attribute(classifier, X.float(), "saliency", target=0).values.isfinite().all()


@pytest.mark.parametrize("end", [nn.Tanh(), nn.Identity(), nn.ReLU()])
def test_other_final_layers_are_kept(end):
    classifier, notes = load(nn.Sequential(NET, end))
    assert notes == []
    assert torch.equal(classifier(X), end(NET(X)))


def gray_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 6 * 8, 3)).double()


@pytest.mark.parametrize("normalized", [False, True])
def test_one_channel_model_receives_gray(normalized):
    net = gray_net()
    if normalized:
        net.mean, net.std = [0.5], [0.25]
    classifier, notes = load(net)
    assert notes == ["the model has one input channel; images are converted to grayscale"]
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    gray = (X * luma).sum(dim=1, keepdim=True).requires_grad_()
    pixels = (gray - 0.5) / 0.25 if normalized else gray
    logits = net(pixels)
    toys.assert_same(classifier(X), logits)
    (slope,) = torch.autograd.grad(logits[:, 2].sum(), gray)
    toys.assert_same(xplain.attribute(classifier, X, "saliency", target=2).values, slope * luma)
    toys.assert_same(classifier(gray), logits)  # gray images are not converted


def test_single_mean_normalizes_three_channels():
    net = toys.small_net()
    net.mean, net.std = 0.5, torch.tensor(0.25)
    classifier, notes = load(net)
    assert notes == []
    assert classifier.channels == 3
    toys.assert_same(classifier(X), net((X - 0.5) / 0.25))
    values = xplain.attribute(classifier, X, "ig", target=1, baseline="mean", steps=3).values
    three = toys.classifier(net, mean=[0.5] * 3, std=[0.25] * 3)
    toys.assert_same(values, xplain.attribute(three, X, "ig", target=1, baseline="mean", steps=3).values)


def test_gray_equals_pillow_gray():
    with Image.open(SAMPLES / "cat.jpg") as photo:
        photo = photo.resize((10, 8)).convert("RGB")
    pixels = torch.from_numpy(np.asarray(photo) / 255).permute(2, 0, 1)[None]
    classifier, _ = load(toys.Function(lambda x: x.flatten(1) if x.shape[1] == 1 else nn.Linear(2, 2)(x)))
    expected = torch.from_numpy(np.asarray(photo.convert("L")) / 255).flatten()
    assert float((classifier(pixels)[0].detach() - expected).abs().max()) <= 0.5 / 255 + 1e-9 + 0.5 / 255


@pytest.mark.parametrize(
    "method", ["saliency", "grad-cam", "occlusion", "rise", "lime", "xrai", "lrp", "attention-rollout"]
)
def test_methods_accept_oblong_inputs(method):
    net = toys.token_net() if method.startswith("attention") else toys.small_net()
    classifier, _ = load(net, size=(12, 20))
    x = toys.images(1, 12, 20)
    options = {"rise": {"masks": 4}, "lime": {"samples": 9}, "xrai": {"steps": 2}}
    values = xplain.attribute(classifier, x, method, **options.get(method, {})).values
    assert values.shape[-2:] == (12, 20)
    assert values.isfinite().all()


def test_explain_command_accepts_oblong_input(xp, tmp_path):
    result = xp(
        "explain",
        SAMPLES / "cat.jpg",
        "-m",
        "python:tests.helpers.factories:oblong",
        "-a",
        "saliency",
        "-a",
        "grad-cam",
        "--json",
    )
    assert result.code == 0, result.err
    for record in result.records:
        assert record["preprocessing"]["size"] == [24, 40]
        with Image.open(record["files"]["overlay"]) as picture:
            assert picture.size == (40, 24)


def test_model_rejecting_its_size_is_an_error(xp):
    result = xp("explain", SAMPLES / "cat.jpg", "-m", "python:tests.helpers.factories:wants_eight")
    assert result.code == 3
    assert result.err.startswith(
        "xplain: error: python:tests.helpers.factories:wants_eight does not accept images of 224 x 224 pixels ("
    )
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("count", [2, 3, 1200])
def test_any_number_of_classes(count):
    classifier, notes = load(toys.small_net(classes=count))
    assert classifier.classes == count
    assert notes == []
    values = xplain.attribute(classifier, X, "ig", steps=2).values
    assert values.isfinite().all()
    with pytest.raises(UsageError, match=f"class index {count} is out of range; use an index from 0 to {count - 1}"):
        classifier.class_names.find(str(count))


def test_notes_are_printed_and_recorded(xp):
    command = (
        "explain",
        SAMPLES / "cat.jpg",
        SAMPLES / "rocket.jpg",
        "-m",
        "python:tests.helpers.factories:untold",
        "-a",
        "saliency",
    )
    result = xp(*command, "--json")
    note = EXCLUSIVE_NOTE
    assert read_messages(result.err) == [f"xplain: note: {note}"]
    assert [record["model"]["notes"] for record in result.records] == [[note], [note]]
    assert xp(*command, "-q", "-o", "elsewhere").err == ""
