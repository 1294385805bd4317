"""In-domain single deletion score: deleted cells, closed forms, and true against random maps on a trained network."""

from __future__ import annotations

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.helpers.patches import make_images, make_set, patch_map
from xplain.core.checkpoint_store import MemoryCheckpoints
from xplain.metrics.idsds import delete_cells, find_cells, idsds, score_images
from xplain.metrics.roar import Trial

FAST = {"grid": 3, "network": "small", "epochs": 6, "batch": 16, "learning_rate": 3e-3}


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
    assert score_images(trial, classifier, 4).tolist() == pytest.approx([expected] * 6)


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
        assert score_images(trial, classifier, 3).tolist() == pytest.approx([expected] * 6)


def test_true_map_beats_random_one_and_networks_are_shared():
    data, checkpoints, calls = make_set(120, 40), MemoryCheckpoints(), []

    def count(epochs: float) -> None:
        calls.append(epochs)

    values = {}
    for name, attribute in (("true", lambda c, x, y: patch_map(x)), ("random", random_map)):
        trial = Trial(data, 0, attribute, checkpoints, name, on_progress=count)
        values[name] = float(idsds(trial, **FAST).values)
    assert calls.count(1) == FAST["epochs"]
    assert values["true"] > 0.25
    assert abs(values["random"]) < 0.2  # four standard deviations of 40 images of 9 cells
    calls.clear()
    again = Trial(data, 0, lambda *_: pytest.fail("computed again"), checkpoints, "true", on_progress=count)
    assert float(idsds(again, **FAST).values) == values["true"]
    assert calls == []


def test_maps_without_variation_are_left_out():
    data = make_set(8, 6)

    def attribute(classifier, x, labels):
        return torch.zeros_like(x[:, :1])

    score = idsds(Trial(data, 0, attribute, MemoryCheckpoints()), **FAST | {"epochs": 1})
    assert score.values.isnan().tolist() == [True]
    assert score.undefined["no test image has a score"].tolist() == [True]
    with pytest.raises(
        xplain.XplainError, match="idsds: grid=13 exceeds the image size of 12 x 12 pixels; use a smaller grid"
    ):
        idsds(Trial(data, 0, attribute, MemoryCheckpoints()), grid=13)
