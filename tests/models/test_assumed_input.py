"""Notes on the normalization and the input size that a user's network does not state."""

from __future__ import annotations

import warnings

import pytest
from torch import nn

import xplain
from tests.conftest import SAMPLES
from tests.helpers import toys
from xplain.core.errors import ModelNote, emit_note
from xplain.models import assumed_input

CAT = SAMPLES / "cat.jpg"
SIZE_NOTE = assumed_input.SIZE_NOTE.format(224, 224)
NOTES = {assumed_input.NORMALIZATION_NOTE: "normalization", SIZE_NOTE: "size"}


class Normalize(nn.Module):
    """Normalize images inside the network."""

    def forward(self, x):
        return (x - 0.5) / 0.25


def network(**attributes: object) -> nn.Module:
    """Return a network for images of any size, with attributes."""
    net = toys.small_net(1)
    net.activation = "softmax"
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


@pytest.fixture
def noted(monkeypatch):
    """Return a function that runs a call and returns which of the two notes it emits."""
    monkeypatch.setattr(assumed_input, "emit_note", emit_note)

    def run(call) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        texts = [str(warning.message) for warning in caught if warning.category is ModelNote]
        return [NOTES[text] for text in texts if text in NOTES]

    return run


@pytest.mark.parametrize(
    ("net", "options", "expected"),
    [
        (network(), {}, ["normalization", "size"]),
        (network(size=32), {}, ["normalization"]),
        (network(mean=[0.5] * 3, std=[0.2] * 3), {}, ["size"]),
        (network(mean=0.0), {}, ["size"]),
        (network(size=32, std=[0.2] * 3), {}, []),
        (nn.Sequential(Normalize(), network()), {"activation": "softmax"}, ["size"]),
        (network(), {"size": 32}, ["normalization"]),
        (network(), {"image_size": 32}, ["normalization"]),
        (network(), {"mean": [0.0] * 3, "std": [1.0] * 3}, ["size"]),
        (lambda x: x.mean(dim=(2, 3)), {"size": 32}, []),
        ("efficientnet-lite0", {}, []),
    ],
    ids=["nothing", "size", "both", "mean", "all", "inside", "size=", "image_size=", "mean=", "function", "built-in"],
)
def test_only_what_is_assumed_is_noted(noted, net, options, expected):
    def explain() -> None:
        xplain.explain(xplain.load_classifier(net, device="cpu", **options), CAT, "sobel")

    assert noted(explain) == expected


def test_size_is_not_noted_for_tensors(noted):
    images = toys.images(2)
    assert noted(lambda: xplain.attribute(network(), images, "saliency")) == ["normalization"]
    assert noted(lambda: xplain.explain(network(), images, "saliency")) == ["normalization"]


def test_command_notes_both(xp, monkeypatch, tmp_path):
    monkeypatch.setattr(assumed_input, "emit_note", emit_note)
    text = "from tests.helpers.toys import small_net\n\n\ndef make():\n    return small_net(1)\n"
    tmp_path.joinpath("anysize.py").write_text(text)
    options = (
        "-m",
        "python:anysize:make",
        "--device",
        "cpu",
        "-a",
        "sobel",
        "--activation",
        "softmax",
        "--stability",
        "off",
    )
    ran = xp("explain", CAT, *options)
    assert ran.code == 0
    assert ran.err.splitlines()[:2] == [
        f"xplain: note: {assumed_input.NORMALIZATION_NOTE}",
        f"xplain: note: {SIZE_NOTE}",
    ]
    ran = xp("explain", CAT, *options, "--image-size", "32", "--mean", "0,0,0", "--std", "1,1,1", "-o", "out")
    assert ran.code == 0
    assert "note" not in ran.err
