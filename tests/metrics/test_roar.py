"""Remove and retrain: removed pixels, matched networks, and the effect of true and random maps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import xplain
from tests.helpers.patches import make_images, make_set, patch_map
from tests.helpers.toys import classifier, images, small_net
from xplain.core.checkpoint_store import MemoryCheckpoints
from xplain.core.registry import METRICS
from xplain.data.splits import TrainTestSplit
from xplain.metrics._training import TrainingOptions, make_classifier
from xplain.metrics._trial import Trial
from xplain.metrics.roar import estimate_epochs, rank_images, rank_pixels, remove_pixels, retrain, roar

FAST = {"network": "small", "epochs": 5, "batch": 16, "learning_rate": 3e-3}


def random_map(classifier, x, labels):
    return torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def scores():
    """Return scores of the true map, its negative and a random map, in a trial with a shared first network."""
    data, checkpoints = make_set(), MemoryCheckpoints()
    methods = {
        "true": (lambda classifier, x, y: patch_map(x), "12+30"),
        "random": (random_map, "12+30"),
        "false": (lambda classifier, x, y: -patch_map(x), "30"),
    }
    return {
        name: roar(Trial(data, 0, attribute, checkpoints, name), fractions=fractions, **FAST)
        for name, (attribute, fractions) in methods.items()
    }


def test_true_map_removes_evidence(scores):
    """16 of the 144 pixels hold the evidence; 12 % are 17 pixels. Without them the expected accuracy is 0.5."""
    whole, *reduced = scores["true"].curve[0].tolist()
    assert whole > 0.95
    assert max(reduced) < 0.7  # 3.6 standard deviations of 80 coin tosses above their mean
    assert min(scores["random"].curve[0].tolist()) > 0.95
    assert max(reduced) < min(scores["random"].curve[0].tolist()) - 0.25


def test_negated_map_keeps_evidence(scores):
    assert min(scores["false"].curve[0].tolist()) > 0.95


def test_retrain_is_reproducible():
    """With the same initial weights, order and images, the weights at 0 % are those of the first network."""
    data, options = make_set(40, 20), TrainingOptions(2, 16, 3e-3, 0)
    trial = Trial(data, 0, random_map, MemoryCheckpoints())
    first, accuracy = retrain(trial, "small", options, data, "base")
    ranks = [rank_images(trial, first, images, part) for part, images in (("train", data.train), ("test", data.test))]
    same, less = (
        replace(
            data, train=remove_pixels(data.train, ranks[0], percent), test=remove_pixels(data.test, ranks[1], percent)
        )
        for percent in (0, 1)
    )
    again, accuracy_again = retrain(trial, "small", options, same, "0")
    assert accuracy_again == accuracy
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other, _ = retrain(trial, "small", options, less, "1")
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_value_averages_the_fractions(scores):
    for score in scores.values():
        assert score.values.tolist() == pytest.approx([float(np.mean(score.curve[0, 1:].tolist()))])


def test_rank_pixels_sums_over_channels():
    values = torch.tensor([[[[1.0, -5.0], [0.5, 1.0]], [[1.0, 9.0], [0.5, 0.0]]]])  # sums 2, 4 / 1, 1
    assert rank_pixels(values).tolist() == [[[1, 0], [2, 3]]]


def test_remove_pixels_fills_mean_color():
    data = make_images(3, seed=4)
    ranks = rank_pixels(torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1)))
    removed = remove_pixels(data, ranks, 30)
    original = data.pixels.numpy().astype(np.float64) / 255
    expected = original.copy()
    for i in range(3):
        pixels = np.argwhere(ranks[i].numpy() < 43)  # 30 % of 144 pixels are 43.2
        assert len(pixels) == 43
        for row, column in pixels:
            for channel in range(3):
                expected[i, channel, row, column] = original[i, channel].mean()
    np.testing.assert_allclose(removed.batch(torch.arange(3)).numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(removed.pixels, data.pixels)


def test_remove_pixels_is_monotone():
    data = make_images(2, seed=4)
    ranks = rank_pixels(torch.rand(2, 1, 12, 12))
    masks = [remove_pixels(data, ranks, percent).removed for percent in (10, 40, 90)]
    assert [int(mask[0].sum()) for mask in masks] == [14, 58, 130]
    assert all(bool((more | ~less).all()) for less, more in pairwise(masks))


def test_method_explains_first_network():
    calls = []

    def record_calls(classifier, x, labels):
        calls.append((len(x), id(classifier)))
        assert not classifier.training
        return patch_map(x)

    data = make_set(40, 20)
    roar(Trial(data, 0, record_calls, MemoryCheckpoints()), fractions="10+30+50", **FAST | {"epochs": 1})
    assert [rows for rows, _ in calls] == [40, 20]
    assert len({classifier for _, classifier in calls}) == 1


def test_infinite_attribution_is_undefined():
    def broken_method(classifier, x, labels):
        return patch_map(x).masked_fill(torch.arange(len(x))[:, None, None, None] == 3, torch.nan)

    score = roar(Trial(make_set(40, 20), 0, broken_method, MemoryCheckpoints()), **FAST | {"epochs": 1})
    assert bool(score.values.isnan().all())
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {
        "an attribution is not finite": [True]
    }


def test_diverging_trainings_are_undefined():
    rate = {"learning_rate": 1e30, "epochs": 1}
    score = roar(Trial(make_set(40, 20), 0, random_map, MemoryCheckpoints()), fractions="50", **FAST | rate)
    assert {reason for reason, mask in score.undefined.items() if mask} == {"a logit is not finite"}
    assert bool(score.values.isnan())


def test_retraining_data_lose_highest_pixels(monkeypatch):
    """Training is replaced by fixed accuracies, and its data are compared with the maps."""
    data_sets: dict[str, TrainTestSplit] = {}
    accuracies = {"base": 0.9, "a method/10": 0.5, "a method/40": 0.25}

    def fake_retrain(trial, network, options, data, name):
        data_sets[name] = data
        return make_classifier(data, network, 0), accuracies[name]

    monkeypatch.setattr("xplain.metrics.roar.retrain", fake_retrain)
    data, progress = make_set(40, 20), []
    trial = Trial(data, 0, random_map, MemoryCheckpoints(), "a method", rows_per_image=3, on_progress=progress.append)
    score = roar(trial, fractions="10+40", **FAST)
    assert score.curve.tolist() == [[0.9, 0.5, 0.25]]
    assert list(data_sets) == list(accuracies)
    assert data_sets["base"] is data
    for name, count in (("a method/10", 14), ("a method/40", 58)):
        for part in ("train", "test"):
            whole, reduced = getattr(data, part), getattr(data_sets[name], part)
            ranks = rank_pixels(random_map(None, whole.batch(slice(None)), None))
            assert torch.equal(reduced.removed, ranks < count)
    assert sum(progress) == pytest.approx(3 * 60 / 40)  # in epochs: 3 rows for 60 images, divided by 40 training images
    assert estimate_epochs(data, 3, "10+40", 7) == pytest.approx(7 * 2 + 3 * 60 / 40)


def test_single_diverging_training_is_undefined(monkeypatch):
    accuracies = iter([0.9, float("nan"), 0.5])
    monkeypatch.setattr(
        "xplain.metrics.roar.retrain", lambda *arguments: (make_classifier(arguments[3], "small", 0), next(accuracies))
    )
    score = roar(Trial(make_set(40, 20), 0, random_map, MemoryCheckpoints()), fractions="10+40", **FAST)
    assert bool(score.values.isnan().all())
    assert score.undefined["a logit is not finite"].tolist() == [True]


def test_initial_weights_depend_on_trial():
    data = make_set(40, 20)

    def train_briefly(seed, images, name):
        trial, options = Trial(data, seed, random_map, MemoryCheckpoints()), TrainingOptions(1, 16, 1e-30, seed)
        return torch.cat(
            [weight.detach().flatten() for weight in retrain(trial, "small", options, images, name)[0].parameters()]
        )

    first = train_briefly(0, data, "base")
    less = replace(data, train=remove_pixels(data.train, rank_pixels(data.train.batch(slice(None))), 50))
    assert torch.equal(train_briefly(0, less, "m/50"), first)
    assert not torch.equal(train_briefly(1, data, "base"), first)


def test_rank_images_in_chunks(monkeypatch):
    data = make_set(40, 20)
    trial = Trial(data, 0, lambda classifier, x, labels: x - 0.5, MemoryCheckpoints())
    net = make_classifier(data, "small", 0)
    expected = rank_pixels(data.train.batch(slice(None)) - 0.5)
    monkeypatch.setattr("xplain.metrics._trial.PIXELS_AT_ONCE", 16 * 12 * 12)
    for _ in range(2):  # the second time from checkpoints
        assert torch.equal(rank_images(trial, net, data.train, "train"), expected)


def test_rank_pixels_of_large_images():
    ranks = rank_pixels(torch.arange(200.0 * 200).reshape(1, 1, 200, 200))
    assert (int(ranks.min()), int(ranks.max()), int(ranks[0, 0, 0])) == (0, 39_999, 39_999)


def test_measure_rejects_roar():
    model = classifier(small_net())
    with pytest.raises(
        xplain.XplainError, match='roar requires a dataset; use "xplain evaluate DATASET --metric roar"'
    ):
        xplain.measure(model, images(), images(), "roar")


@pytest.mark.parametrize("text", ["10+", "ten", "101", "0", "-1", "50+10", "10+10", ""])
def test_fractions_invalid_are_rejected(text):
    with pytest.raises(xplain.XplainError, match=r"roar: invalid value fractions=.*; use increasing percentages"):
        METRICS.get("roar").resolve({"fractions": text})


def test_defaults_match_paper():
    settings = METRICS.get("roar").resolve({})
    assert settings["fractions"] == "10+30+50+70+90"
    assert (settings["trials"], settings["epochs"], settings["learning_rate"]) == (10, 100, 3e-4)
    assert METRICS.get("roar").forwards(side=32, **settings) == 10 * 100 * 6
