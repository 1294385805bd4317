"""Warnings about implausible top-1 accuracies, against exact binomial tails."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
from tests.conftest import TINY
from xplain.models import torchvision_models as from_torchvision
from xplain.models.classifier import Weights
from xplain.reports.accuracy_check import accuracy_warnings, suggest_class_order


def probability_at_most(k: int, n: int, p: Fraction) -> Fraction:
    """Return P(X <= k) for X ~ Binomial(n, p)."""
    return sum((comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@pytest.mark.parametrize("n", [5, 20, 50, 300])
def test_accuracy_far_below_published_warns(n):
    for right in range(0, n + 1, -(-n // 50)):
        warnings = accuracy_warnings(right, n, 0.75, "somewhere", None)
        assert bool(warnings) == (probability_at_most(right, n, Fraction(3, 5)) < Fraction(1, 1000)), (right, n)


@pytest.mark.parametrize(("n", "classes"), [(10, 2), (40, 2), (60, 10), (200, 1000)])
def test_accuracy_near_chance_warns(n, classes):
    chance = Fraction(1, classes)
    for right in range(0, n + 1, -(-n // 50)):
        warnings = accuracy_warnings(right, n, None, "", classes)
        like_chance = 1 - probability_at_most(right - 1, n, chance) > Fraction(1, 100)
        no_skill = probability_at_most(right, n, (1 + chance) / 2) < Fraction(1, 1000)
        assert bool(warnings) == (like_chance and no_skill), (right, n, classes)


def test_accuracy_warnings_name_the_numbers():
    far, guess = accuracy_warnings(1, 200, 0.751, "their table", 1000)
    assert (
        "top-1 accuracy on these 200 labeled images is 0.005, far below the published accuracy 0.751 of the weights (their table)"
        in far
    )
    assert "is 0.005, close to chance for 1000 classes; check that the class order" in guess


def test_plausible_accuracies_do_not_warn():
    assert accuracy_warnings(0, 0, 0.75, "", 10) == []
    assert accuracy_warnings(0, 3, 0.75, "", 1000) == []
    assert accuracy_warnings(640, 1000, 0.75, "", 1000) == []  # 11 points less
    assert accuracy_warnings(30000, 50000, 0.8, "", 1000) != []  # 20 points less


def make_halves(n: int, classes: int, predict) -> tuple[Counter, Counter]:
    """Return confusions of n images whose labels cycle through the classes. predict: (image, label) to class."""
    halves = Counter(), Counter()
    for i in range(n):
        label = i // 2 % classes
        halves[i % 2][label, predict(i, label)] += 1
    return halves


def test_suggest_class_order_ignores_guesses():
    """Of 120 images all but every seventh are predicted as the class after their own."""
    guesses = np.random.default_rng(0).integers(0, 10, 120)
    shifted = make_halves(120, 10, lambda i, label: (label + (2 if i % 7 == 6 else 1)) % 10)
    text = suggest_class_order(shifted, 10)  # 103 of 120
    assert text == (
        "a different class order would increase the accuracy to 0.858: images of class 0 are predicted as class 1, "
        "images of class 1 are predicted as class 2, images of class 2 are predicted as class 3, ..."
    )
    assert suggest_class_order(make_halves(120, 10, lambda i, _: int(guesses[i])), 10) == ""
    assert suggest_class_order(make_halves(120, 10, lambda *_: 3), 10) == ""
    assert (
        suggest_class_order(make_halves(10, 10, lambda _, label: (label + 1) % 10), 10) != ""
    )  # one in each half: 10 of 10 at chance 0.1
    assert (
        suggest_class_order(make_halves(2, 10, lambda _, label: (label + 1) % 10), 10) == ""
    )  # two images are no evidence
    (warning,) = accuracy_warnings(0, 120, None, "", 10, shifted)
    assert warning.endswith(f"check that the class order matches the labels (--classes); {text}")
    assert accuracy_warnings(60, 120, None, "", 10, shifted) == []  # half of them right is not near chance


def test_default_model_publishes_accuracy():
    embedded = xplain.load_classifier(device="cpu")
    assert (embedded.accuracy.top1, xplain.load_classifier("python:tests.helpers.factories:tiny", "cpu").accuracy) == (
        0.751,
        None,
    )


def test_torchvision_publishes_accuracy(monkeypatch, tmp_path):
    from torchvision import models

    state = models.get_model("squeezenet1_1", weights=None).state_dict()
    monkeypatch.setattr(from_torchvision, "_get_weights", lambda *_: (Weights("w"), state))
    accuracy = from_torchvision.load_torchvision("squeezenet1_1", None).accuracy
    assert (accuracy.top1, accuracy.source) == (0.58178, "torchvision, SqueezeNet1_1_Weights.IMAGENET1K_V1")
    torch.save(state, tmp_path / "own.pth")
    assert from_torchvision.load_torchvision("squeezenet1_1", tmp_path / "own.pth").accuracy is None


def test_evaluate_warns_of_class_order(xp, tmp_path):
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    predicted = [int(clf(xplain.read_image(path, preprocessing=clf.preprocessing)[None]).argmax()) for path in paths]
    (tmp_path / "list.txt").write_text(
        "".join(f"{path.name}\t{(k + 1) % 5}\n" for path, k in zip(paths, predicted, strict=True)), "utf-8"
    )
    ran = xp("evaluate", "list.txt", *TINY, "-M", "deletion:steps=2", "-a", "sm", "-o", "run", "--json")
    text = "the top-1 accuracy on these 20 labeled images is 0.000, close to chance for 5 classes"
    assert ran.code == 0
    assert f"xplain: warning: {text}" in ran.err
    summary = ran.records[0]
    assert (summary["top1"], summary["labelled"]) == (0.0, 20)
    assert summary["warnings"][0].startswith(text)
    assert text in (tmp_path / "run/summary.md").read_text()
    assert text.replace("'", "&#39;") in (tmp_path / "run/report.html").read_text()
    assert json.loads((tmp_path / "run/run.json").read_text())["classes"] == 5


def test_single_class_is_not_chance():
    assert accuracy_warnings(3, 40, None, "", 1) == []
    assert accuracy_warnings(40, 40, None, "", 1) == []
