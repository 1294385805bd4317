"""Remove and retrain: what is removed, what is matched, and that a true map does more harm than a random one."""

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
from xplain.metrics.roar import Trial, estimate_epochs, rank_images, rank_pixels, remove_pixels, retrain, roar

QUICK = {"network": "small", "epochs": 5, "batch": 16, "learning_rate": 3e-3}


def random_map(net, x, labels):
    return torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def found():
    """A trial with the true map, its negative and a random one, whose first network is shared."""
    data, states = make_set(), MemoryCheckpoints()
    maps = {
        "true": (lambda net, x, y: patch_map(x), "12+30"),
        "random": (random_map, "12+30"),
        "false": (lambda net, x, y: -patch_map(x), "30"),
    }
    return {
        name: roar(Trial(data, 0, each, states, name), fractions=fractions, **QUICK)
        for name, (each, fractions) in maps.items()
    }


def test_the_true_map_takes_what_can_be_learnt(found):
    """16 of the 144 pixels hold the evidence; 12 % are 17 pixels. Without them two classes are a coin's toss: 0.5 of 80 images."""
    whole, *removed = found["true"].curve[0].tolist()
    assert whole > 0.95
    assert max(removed) < 0.7  # 3.6 standard deviations of 80 tosses above their mean
    assert min(found["random"].curve[0].tolist()) > 0.95
    assert max(removed) < min(found["random"].curve[0].tolist()) - 0.25


def test_pixels_without_evidence_can_go(found):
    assert min(found["false"].curve[0].tolist()) > 0.95


def test_nothing_removed_is_the_first_network():
    """The same initial weights, order and images: at 0 % the weights are the first network's, to the bit."""
    data, plan = make_set(40, 20), TrainingOptions(2, 16, 3e-3, 0)
    trial = Trial(data, 0, random_map, MemoryCheckpoints())
    first, accuracy = retrain(trial, "small", plan, data, "base")
    ranks = [rank_images(trial, first, images, part) for part, images in (("train", data.train), ("test", data.test))]
    same, less = (
        replace(
            data, train=remove_pixels(data.train, ranks[0], percent), test=remove_pixels(data.test, ranks[1], percent)
        )
        for percent in (0, 1)
    )
    again, accuracy_again = retrain(trial, "small", plan, same, "0")
    assert accuracy_again == accuracy
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other, _ = retrain(trial, "small", plan, less, "1")
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_the_value_is_the_mean_over_the_fractions(found):
    for each in found.values():
        assert each.values.tolist() == pytest.approx([float(np.mean(each.curve[0, 1:].tolist()))])


def test_the_highest_sums_over_channels_go_first_and_ties_in_raster_order():
    values = torch.tensor([[[[1.0, -5.0], [0.5, 1.0]], [[1.0, 9.0], [0.5, 0.0]]]])  # sums 2, 4 / 1, 1
    assert rank_pixels(values).tolist() == [[[1, 0], [2, 3]]]


def test_removed_pixels_show_the_mean_colour_of_the_whole_image():
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


def test_more_removed_is_never_less():
    data = make_images(2, seed=4)
    ranks = rank_pixels(torch.rand(2, 1, 12, 12))
    masks = [remove_pixels(data, ranks, percent).removed for percent in (10, 40, 90)]
    assert [int(mask[0].sum()) for mask in masks] == [14, 58, 130]
    assert all(bool((more | ~less).all()) for less, more in pairwise(masks))


def test_the_method_is_asked_once_for_each_image_with_the_first_network():
    asked = []

    def count(net, x, labels):
        asked.append((len(x), id(net)))
        assert not net.training
        return patch_map(x)

    data = make_set(40, 20)
    roar(Trial(data, 0, count, MemoryCheckpoints()), fractions="10+30+50", **QUICK | {"epochs": 1})
    assert [rows for rows, _ in asked] == [40, 20]
    assert len({net for _, net in asked}) == 1


def test_an_attribution_that_is_not_finite_leaves_the_trial_undefined():
    def broken(net, x, labels):
        return patch_map(x).masked_fill(torch.arange(len(x))[:, None, None, None] == 3, torch.nan)

    score = roar(Trial(make_set(40, 20), 0, broken, MemoryCheckpoints()), **QUICK | {"epochs": 1})
    assert bool(score.values.isnan().all())
    assert {why: mask.tolist() for why, mask in score.undefined.items()} == {"an attribution is not finite": [True]}


def test_a_training_that_diverges_leaves_the_trial_undefined():
    rate = {"learning_rate": 1e30, "epochs": 1}
    score = roar(Trial(make_set(40, 20), 0, random_map, MemoryCheckpoints()), fractions="50", **QUICK | rate)
    assert {why for why, mask in score.undefined.items() if mask} == {"a logit is not finite"}
    assert bool(score.values.isnan())


def test_train_and_test_images_lose_the_pixels_that_their_own_maps_rank_highest(monkeypatch):
    """Networks are replaced by numbers; what each was given is compared with the maps."""
    given: dict[str, TrainTestSplit] = {}
    accuracies = {"base": 0.9, "a method/10": 0.5, "a method/40": 0.25}

    def learnt(trial, network, plan, data, name):
        given[name] = data
        return make_classifier(data, network, 0), accuracies[name]

    monkeypatch.setattr("xplain.metrics.roar.retrain", learnt)
    data, ticks = make_set(40, 20), []
    trial = Trial(data, 0, random_map, MemoryCheckpoints(), "a method", rows_per_image=3, on_progress=ticks.append)
    score = roar(trial, fractions="10+40", **QUICK)
    assert score.curve.tolist() == [[0.9, 0.5, 0.25]]
    assert list(given) == list(accuracies)
    assert given["base"] is data
    for name, count in (("a method/10", 14), ("a method/40", 58)):
        for part in ("train", "test"):
            whole, less = getattr(data, part), getattr(given[name], part)
            ranks = rank_pixels(random_map(None, whole.batch(slice(None)), None))
            assert torch.equal(less.removed, ranks < count)
    assert sum(ticks) == pytest.approx(3 * 60 / 40)  # in epochs: rows of 60 images by a train set of 40
    assert estimate_epochs(data, 3, "10+40", 7) == pytest.approx(7 * 2 + 3 * 60 / 40)


def test_one_training_that_diverges_leaves_the_trial_undefined(monkeypatch):
    accuracies = iter([0.9, float("nan"), 0.5])
    monkeypatch.setattr(
        "xplain.metrics.roar.retrain", lambda *given: (make_classifier(given[3], "small", 0), next(accuracies))
    )
    score = roar(Trial(make_set(40, 20), 0, random_map, MemoryCheckpoints()), fractions="10+40", **QUICK)
    assert bool(score.values.isnan().all())
    assert score.undefined["a logit is not finite"].tolist() == [True]


def test_the_networks_of_a_trial_begin_alike_and_those_of_another_do_not():
    data, still = make_set(40, 20), {"epochs": 1, "batch": 16, "learning_rate": 1e-30}

    def begun(seed, images, name):
        trial, plan = Trial(data, seed, random_map, MemoryCheckpoints()), TrainingOptions(*still.values(), seed)
        return torch.cat(
            [each.detach().flatten() for each in retrain(trial, "small", plan, images, name)[0].parameters()]
        )

    first = begun(0, data, "base")
    less = replace(data, train=remove_pixels(data.train, rank_pixels(data.train.batch(slice(None))), 50))
    assert torch.equal(begun(0, less, "m/50"), first)
    assert not torch.equal(begun(1, data, "base"), first)


def test_images_that_are_ranked_in_blocks_have_the_places_of_all(monkeypatch):
    data = make_set(40, 20)
    trial = Trial(data, 0, lambda net, x, labels: x - 0.5, MemoryCheckpoints())
    net = make_classifier(data, "small", 0)
    expected = rank_pixels(data.train.batch(slice(None)) - 0.5)
    monkeypatch.setattr("xplain.metrics.roar.PIXELS_AT_ONCE", 16 * 12 * 12)
    for _ in range(2):  # the second time from what was kept
        assert torch.equal(rank_images(trial, net, data.train, "train"), expected)


def test_places_of_large_images_fit_into_their_type():
    ranks = rank_pixels(torch.arange(200.0 * 200).reshape(1, 1, 200, 200))
    assert (int(ranks.min()), int(ranks.max()), int(ranks[0, 0, 0])) == (0, 39_999, 39_999)


def test_it_has_no_value_for_an_image():
    clf = classifier(small_net())
    with pytest.raises(xplain.XplainError, match="roar has no value for an image; use xplain evaluate DATASET -M roar"):
        xplain.measure(clf, images(), images(), "roar")


@pytest.mark.parametrize("text", ["10+", "ten", "101", "0", "-1", "50+10", "10+10", ""])
def test_fractions_that_make_no_sense_are_refused_before_anything_is_trained(text):
    with pytest.raises(xplain.XplainError, match=r"roar: fractions=.* is not accepted; use increasing percentages"):
        METRICS.get("roar").resolve({"fractions": text})


def test_the_defaults_are_the_papers():
    settings = METRICS.get("roar").resolve({})
    assert settings["fractions"] == "10+30+50+70+90"
    assert (settings["trials"], settings["epochs"], settings["learning_rate"]) == (10, 100, 3e-4)
    assert METRICS.get("roar").forwards(side=32, **settings) == 10 * 100 * 6
