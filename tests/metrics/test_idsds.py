"""In-domain single deletion score: deleted cells, closed forms, and true against random maps on a trained network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from tests.helpers.patches import make_images, make_set, patch_map
from tests.reference import sds as reference
from xplain.core.checkpoint_store import MemoryCheckpoints
from xplain.metrics._training import make_classifier
from xplain.metrics._trial import Trial
from xplain.metrics.idsds import delete_cells, find_cells, idsds, score_images

FAST = {"grid": 3, "network": "small", "epochs": 6, "batch": 16, "learning_rate": 3e-3}


def true_map(classifier, x, labels):
    return patch_map(x)


def random_map(classifier, x, labels):
    return torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(5))


def test_half_of_the_images_lose_one_cell():
    images = make_images(400, 3)
    changed = delete_cells(images, 5, 7)
    part = [next(k for k in range(5) if i < round((k + 1) * 12 / 5)) for i in range(12)]
    cells = torch.tensor([[5 * row + column for column in part] for row in part])
    assert torch.equal(find_cells(images.pixels, 5), cells)
    removed = changed.removed
    count = removed.flatten(1).any(dim=1).sum()
    assert 160 < int(count) < 240  # four standard deviations of 400 coin tosses
    deleted = [set(cells[mask].tolist()) for mask in removed if mask.any()]
    assert {len(found) for found in deleted} == {1}
    assert {next(iter(found)) for found in deleted} == set(range(25))
    assert all(int(mask.sum()) == int((cells == cells[mask][0]).sum()) for mask in removed if mask.any())
    i = int(removed.flatten(1).any(dim=1).nonzero()[0])
    mean = (images.pixels[i].double() / 255).mean(dim=(1, 2))
    x = changed.batch(torch.tensor([i]))[0]
    assert torch.allclose(x[:, removed[i]].double(), mean[:, None].expand(3, int(removed[i].sum())), atol=1e-6)
    assert torch.equal(x[:, ~removed[i]], images.batch(torch.tensor([i]))[0][:, ~removed[i]])
    assert torch.equal(delete_cells(images, 5, 7).removed, removed)
    assert not torch.equal(delete_cells(images, 5, 8).removed, removed)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1), (-1, -1)])
def test_exact_attributions_of_a_linear_network(sign, expected):
    """w ⊙ (x - fill) with the image's mean color as fill has the falls of the logit as its sums."""
    data = make_set(4, 6)
    weight = torch.randn((2, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    classifier = toys.classifier(toys.Linear(weight)).float()

    def attribute(classifier, x, labels):
        return sign * weight[labels] * (x - x.mean(dim=(2, 3), keepdim=True))

    trial = Trial(data, 0, attribute, MemoryCheckpoints())
    assert score_images(trial, classifier, 4).values.tolist() == pytest.approx([expected] * 6)


def test_explained_classes_are_those_of_the_trial():
    data = make_set(4, 6)
    weight = torch.randn((2, 3, 12, 12), generator=torch.Generator().manual_seed(0))
    weight[1] = -weight[0]
    classifier = toys.classifier(toys.Linear(weight)).float()

    def attribute(classifier, x, labels):
        return weight[:1] * (x - x.mean(dim=(2, 3), keepdim=True))

    for target, expected in ((0, 1), (1, -1)):
        trial = Trial(
            data,
            0,
            attribute,
            MemoryCheckpoints(),
            choose_targets=lambda c, x, y, target=target: torch.full_like(y, target),
        )
        assert score_images(trial, classifier, 3).values.tolist() == pytest.approx([expected] * 6)


@pytest.fixture(scope="module")
def trained():
    """A data set, and the checkpoints of a network that is trained on it, with the score of the true map."""
    data, checkpoints = make_set(120, 40), MemoryCheckpoints()
    epochs: list[float] = []
    score = idsds(Trial(data, 0, true_map, checkpoints, "true", on_progress=epochs.append), **FAST)
    assert epochs.count(1) == FAST["epochs"]
    return data, checkpoints, float(score.values)


def score_method(trained, attribute) -> float:
    """Return the score of a method on the trained network, which must not be trained again."""
    data, checkpoints, _ = trained
    epochs: list[float] = []
    trial = Trial(data, 0, attribute, MemoryCheckpoints(dict(checkpoints.states)), on_progress=epochs.append)
    value = float(idsds(trial, **FAST).values)
    assert 1 not in epochs
    return value


def load_network(trained):
    data, checkpoints, _ = trained
    classifier = make_classifier(data, "small", 0)
    classifier.load_state_dict(checkpoints.states["base"]["network"])
    return classifier


def test_value_is_the_mean_of_literal_scores(trained):
    data, _, value = trained
    classifier = load_network(trained)
    scores = []
    for pixels, label in zip(data.test.pixels, data.test.labels.tolist(), strict=True):
        image = pixels.double() / 255
        fill = image.mean(dim=(1, 2), keepdim=True).expand_as(image)

        def compute(changed, label=label):
            return float(classifier(changed[None].float())[0, label].detach())

        scores.append(reference.sds(compute, image, patch_map(image[None])[0], fill, grid=3))
    assert len(scores) == 40
    assert value == pytest.approx(float(np.mean(scores)), abs=1e-3)  # rounding may exchange two neighboring ranks


@pytest.mark.parametrize("sign", [1, -1])
def test_true_effects_are_scored_one(trained, sign):
    """The map spreads the fall of the logit without a cell evenly over the pixels of the cell."""

    def attribute(classifier, x, labels):
        cells, rows = find_cells(x, 3), torch.arange(len(x))
        attributions = torch.zeros_like(x[:, :1], dtype=torch.float64)
        with torch.no_grad():
            whole = classifier(x)[rows, labels].double()
            for cell in range(9):
                changed = torch.where(cells == cell, x.mean(dim=(2, 3), keepdim=True), x)
                fall = whole - classifier(changed)[rows, labels].double()
                attributions[:, 0, cells == cell] = sign * fall[:, None] / int((cells == cell).sum())
        return attributions

    assert score_method(trained, attribute) == pytest.approx(sign, abs=2e-3)  # rounding may exchange neighboring ranks


def test_random_map_scores_zero_and_true_map_more(trained):
    """The standard deviation for an image of 9 cells is 1/√8."""
    assert score_method(trained, random_map) == pytest.approx(0, abs=4 / (8 * 40) ** 0.5)
    assert trained[2] > 0.25


def test_finished_scores_are_loaded(trained):
    data, checkpoints, value = trained
    calls: list[float] = []
    again = Trial(data, 0, lambda *_: pytest.fail("computed again"), checkpoints, "true", on_progress=calls.append)
    assert float(idsds(again, **FAST).values) == value
    assert calls == []


def test_network_is_trained_without_cells(monkeypatch):
    """In each epoch, half of the images lose one cell, which has the mean color of the image."""
    epochs = []
    monkeypatch.setattr("xplain.metrics._training.train_epoch", lambda classifier, images, *_: epochs.append(images))
    data = make_set(200, 4)
    idsds(Trial(data, 0, random_map, MemoryCheckpoints()), **FAST | {"epochs": 3})
    cells = find_cells(data.train.pixels, 3)
    assert len(epochs) == 3
    for images in epochs:
        assert torch.equal(images.pixels, data.train.pixels)
        counts = torch.stack([(images.removed & (cells == cell)).sum(dim=(1, 2)) for cell in range(9)], dim=1)
        assert set(counts.flatten().tolist()) == {0, 16}  # all pixels of a cell or none
        assert set((counts > 0).sum(dim=1).tolist()) == {0, 1}
        assert 72 <= int((counts > 0).any(dim=1).sum()) <= 128  # four standard deviations of 200 coin tosses
        pixels, x = data.train.batch(slice(None)), images.batch(slice(None))
        fill = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
        removed = images.removed[:, None].expand_as(pixels)
        torch.testing.assert_close(x[removed], fill[removed])
        assert torch.equal(x[~removed], pixels[~removed])
    assert not torch.equal(epochs[0].removed, epochs[1].removed)
    assert data.train.removed is None


def test_seed_determines_network_and_value():
    data, options = make_set(40, 20), FAST | {"epochs": 2}

    def run(seed):
        checkpoints = MemoryCheckpoints()
        score = idsds(Trial(data, seed, true_map, checkpoints), **options)
        weights = checkpoints.states["base"]["network"].values()
        return torch.cat([weight.flatten() for weight in weights]).numpy().tobytes(), float(score.values)

    assert run(0) == run(0)
    assert run(0)[0] != run(1)[0]
    assert run(0)[1] != run(1)[1]


def test_interrupted_scoring_continues(monkeypatch):
    data, options = make_set(40, 20), FAST | {"epochs": 1}
    expected = float(idsds(Trial(data, 0, true_map, MemoryCheckpoints()), **options).values)
    monkeypatch.setattr("xplain.metrics._trial.PIXELS_AT_ONCE", 8 * 12 * 12)
    checkpoints, rows = MemoryCheckpoints(), []

    def interrupt(classifier, x, labels):
        if len(rows) == 2:
            raise KeyboardInterrupt
        rows.append(len(x))
        return true_map(classifier, x, labels)

    with pytest.raises(KeyboardInterrupt):
        idsds(Trial(data, 0, interrupt, checkpoints), **options)
    rows[:] = rows[:1]  # one call is left: the two finished chunks are loaded
    monkeypatch.setattr("xplain.metrics._training.train_epoch", lambda *_: pytest.fail("trained again"))
    assert float(idsds(Trial(data, 0, interrupt, checkpoints), **options).values) == pytest.approx(expected, abs=1e-12)
    assert rows == [8, 4]


def test_undefined_images_are_counted_and_excluded():
    data, options = make_set(40, 20), FAST | {"epochs": 1}

    def attribute(classifier, x, labels):
        attributions = patch_map(x)
        attributions[3:5] = 0
        attributions[7] = torch.nan  # zeros in place of NaN, which do not vary either
        return attributions

    checkpoints = MemoryCheckpoints()
    score = idsds(Trial(data, 0, attribute, checkpoints), **options)
    assert score.undefined_images == {
        "the attribution is not finite": 1,
        "the map's sums do not vary between cells": 2,
    }
    values = checkpoints.states["method/sds-0"]["values"]
    assert values.isnan().nonzero().flatten().tolist() == [3, 4, 7]
    defined = np.delete(values.numpy(), [3, 4, 7])
    assert float(score.values) == pytest.approx(float(defined.mean()), abs=1e-12)
    assert idsds(Trial(data, 0, true_map, MemoryCheckpoints()), **options).undefined_images == {}


def test_no_image_has_a_score():
    def attribute(classifier, x, labels):
        return torch.zeros_like(x[:, :1])

    score = idsds(Trial(make_set(8, 6), 0, attribute, MemoryCheckpoints()), **FAST | {"epochs": 1})
    assert score.values.isnan().tolist() == [True]
    assert score.undefined["no test image has a score"].tolist() == [True]
    assert score.undefined_images == {"the map's sums do not vary between cells": 6}


def test_diverging_training_is_undefined():
    score = idsds(
        Trial(make_set(8, 6), 0, random_map, MemoryCheckpoints()), **FAST | {"epochs": 1, "learning_rate": 1e30}
    )
    assert score.values.isnan().tolist() == [True]
    assert score.undefined["a logit is not finite"].tolist() == [True]


def test_grid_must_fit_the_images():
    trial = Trial(make_set(8, 6), 0, random_map, MemoryCheckpoints())
    text = r"^idsds: grid=13 exceeds the image size of 12 x 12 pixels; use a smaller grid$"
    with pytest.raises(xplain.XplainError, match=text):
        idsds(trial, grid=13)
