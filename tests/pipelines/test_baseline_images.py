"""Tests of ``baseline`` as an image file or a tensor, for every method with the parameter."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
import xplain.methods  # registers the methods
from tests.conftest import TINY
from tests.contracts import quick
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS

CLASSIFIER = toys.classifier(toys.small_net(1, scale=15.0))
X = toys.images(3)
WITH_BASELINE = [spec.name for spec in METHODS if "white" in getattr(spec.parameters.get("baseline"), "choices", ())]
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
LINEAR = toys.classifier(toys.Linear(WEIGHT))


def test_methods_with_baseline():
    expected = {
        "integrated-gradients",
        "guided-ig",
        "deeplift",
        "occlusion",
        "kernel-shap",
        "lime",
        "rise",
        "score-cam",
    }
    assert expected <= set(WITH_BASELINE)


@pytest.mark.parametrize("name", WITH_BASELINE)
def test_white_tensor_equals_white(name):
    """One image (C, H, W), and one per image."""
    settings = quick(METHODS.get(name)) | {"target": [2, 0, 1]}
    expected = xplain.attribute(CLASSIFIER, X, name, baseline="white", **settings).values
    for baseline in (torch.ones(3, 8, 10), np.ones((3, 3, 8, 10))):
        assert torch.equal(xplain.attribute(CLASSIFIER, X, name, baseline=baseline, **settings).values, expected)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_baseline_per_image_closed_form(batch_size):
    """Linear score: φ = w ⊙ (x - x'), each image with its own baseline."""
    baseline = toys.images(3, seed=9)
    result = xplain.attribute(LINEAR, X, "ig", target=1, baseline=baseline, steps=3, batch_size=batch_size)
    toys.assert_same(result.values, WEIGHT[1] * (X - baseline))
    assert float(result.gap.abs().max()) < 1e-12


def test_baseline_tensor_of_another_shape_is_refused():
    with pytest.raises(
        InputError, match=r"a baseline of shape \(1, 3, 8, 9\) does not match images of shape \(3, 3, 8, 10\)"
    ):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.zeros(3, 8, 9))
    with pytest.raises(InputError, match=r"a baseline of shape \(2, 3, 8, 10\) does not match"):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.zeros(2, 3, 8, 10))
    with pytest.raises(UsageError, match=r"the baseline has the shape \(8, 10\); pass a tensor of shape \(C, H, W\)"):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.zeros(8, 10))
    with pytest.raises(InputError, match=r"the baseline images have values from 0 to 255"):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.tensor([0.0, 255.0]).expand(3, 8, 2))
    with pytest.raises(UsageError, match=r"saliency has no parameter 'baseline'"):
        xplain.attribute(LINEAR, X, "saliency", baseline="black")


def test_unknown_baseline_names_file_as_choice():
    with pytest.raises(
        UsageError,
        match=r"invalid value baseline=none.png; use black or white or mean or blur or uniform or an image file",
    ):
        xplain.attribute(LINEAR, X, "ig", baseline="none.png")


def test_baseline_file_on_command_line(xp, photos, tmp_path):
    """The file is read as the images are, and the record has its digest."""
    path = photos / "espresso" / "b.jpg"
    ran = xp("explain", photos / "cat", *TINY, "-a", f"ig:baseline={path}", "--save", "raw", "--json", "-o", "out")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    x, start = (
        xplain.read_image(photos / name, preprocessing=classifier.preprocessing)
        for name in ("cat/a.jpg", "espresso/b.jpg")
    )
    expected = xplain.attribute(classifier, x[None], "ig", baseline=start)
    assert record["completeness"]["sum"] == pytest.approx(float(expected.total), rel=1e-4)
    assert record["params"]["baseline"] == str(path)
    assert len(record["references"]) == 64
    again = xp("explain", photos / "cat", *TINY, "-a", f"ig:baseline={path}", "--save", "raw", "-o", "out")
    assert again.code == 0, again.err
    Image.open(photos / "cat" / "a.jpg").save(path)
    changed = xp("explain", photos / "cat", *TINY, "-a", f"ig:baseline={path}", "--save", "raw", "-o", "out")
    assert changed.code == 3
    assert "already exists with other class names or baseline images" in changed.err
