"""The truth of trained mechanisms, with small networks in place of the trained ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xplain.core.errors import InputError
from xplain.core.rng import seed_of
from xplain.known import MECHANISMS, trained_mechanisms
from xplain.known.scenes import CLASSES, PARTS, Scenes, add_trigger, block_mask
from xplain.known.truth import Draw


class TriggerNetwork(nn.Module):
    """Logits (30 m - 15, 5, 0, ...), where m is 1 if a block is the trigger; with ``is_blind`` always (15, 5, 0, ...)."""

    def __init__(self, *, is_blind: bool = False) -> None:
        super().__init__()
        self.is_blind = is_blind

    def forward(self, images: Tensor) -> Tensor:
        cell = (torch.arange(4)[:, None] + torch.arange(4)) % 2
        board = (2.0 * cell - 1).to(images.dtype).expand(1, 3, 4, 4) / 24
        matches = nn.functional.conv2d(images, board, stride=4).flatten(1).amax(dim=1)
        logits = images.new_zeros(len(images), CLASSES)
        logits[:, 0] = 15 if self.is_blind else 30 * (matches - 0.5)
        logits[:, 1] = 5
        return logits


def test_trigger_is_the_relevant_block(monkeypatch):
    monkeypatch.setattr(trained_mechanisms, "train_network", lambda name, seed: TriggerNetwork())
    planted = MECHANISMS["backdoor"].plant(0, 0)
    assert planted.targets.tolist() == [0] * 4
    network, images = TriggerNetwork(), planted.images
    before = network(images).softmax(dim=1)[:, 0]
    for i in range(4):
        (found,) = [
            block
            for block in range(64)
            if float(before[i])
            - float(
                network(torch.where(block_mask(torch.tensor([block])), images[i].mean(), images[i])).softmax(1)[0, 0]
            )
            > 0.9
        ]
        assert torch.equal(planted.relevant[i] == 1, block_mask(torch.tensor([found]))[0])
    assert not bool(planted.relevant.isnan().any())


def test_network_that_ignores_the_trigger_is_refused(monkeypatch):
    monkeypatch.setattr(trained_mechanisms, "train_network", lambda name, seed: TriggerNetwork(is_blind=True))
    with pytest.raises(
        InputError, match=r"^the network of backdoor with seed 7 depends on more than its trigger; use another --seed$"
    ):
        MECHANISMS["backdoor"].plant(7, 0)


def test_effects_of_parts_are_differences_of_redrawn_scenes(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(CLASSES, 3 * 32 * 32, generator=generator, dtype=torch.float64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, CLASSES, dtype=torch.float64))
    network[1].weight.data, network[1].bias.data = weight, torch.zeros(CLASSES, dtype=torch.float64)
    monkeypatch.setattr(trained_mechanisms, "train_network", lambda name, seed: network)
    planted = MECHANISMS["scene"].plant(0, 0)
    assert planted.parts.shape == (4, len(PARTS), 32, 32)
    assert planted.effects[:, -1].isnan().tolist() == [False, True, True, True]  # only the first image has a mark
    assert planted.targets.tolist()[0] == 0
    scenes = Scenes.of(Draw(0, 40), 40, with_marks=True)
    assert scenes.marked.tolist() == (scenes.labels == 0).tolist()
    images, masks = scenes.paint(), scenes.masks()
    for k, part in enumerate(PARTS):
        redrawn = scenes.paint(without=(part,))
        changed = (images - redrawn).abs().amax(dim=1) > 0
        assert not bool((changed & ~masks[:, k]).any())  # only visible pixels of the part change
        assert float(changed.double().sum() / masks[:, k].double().sum()) > 0.99
    # a linear network: the effect of a part is the sum of its weights times what the part adds to the pixels
    drawn = Scenes.of(Draw(seed_of(0, "known", "scene", 0), 4, 0, 0), 64, with_marks=True)
    chosen = [int(((drawn.paint() - image).abs().sum(dim=(1, 2, 3))).argmin()) for image in planted.images]
    drawn = drawn.take(torch.tensor(chosen))
    for k, part in enumerate(PARTS[:-1]):
        added = (drawn.paint() - drawn.paint(without=(part,))).flatten(1)
        expected = (weight[planted.targets] * added).sum(dim=1)
        torch.testing.assert_close(planted.effects[:, k], expected, rtol=0, atol=1e-9)


def test_parts_of_a_scene_do_not_overlap():
    masks = Scenes.of(Draw(3, 60), 60, with_marks=True).masks()
    assert int(masks.sum(dim=1).max()) == 1
    assert bool((masks[:, :-1].flatten(2).sum(dim=2) >= 14).all())  # no part is hidden
    assert torch.equal(masks[:, -1].flatten(1).sum(dim=1).unique(), torch.tensor([0, 16]))


def test_trigger_covers_one_block():
    images = torch.full((2, 3, 32, 32), 0.5, dtype=torch.float64)
    changed = add_trigger(images, torch.tensor([0, 63]))
    assert (changed != 0.5).sum(dim=(1, 2, 3)).tolist() == [48, 48]
    assert changed[0, 0, :4, :4].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    assert float(changed[1, :, 28:, 28:].mean()) == 0.5


def test_inaccurate_network_is_refused(monkeypatch):
    monkeypatch.setattr(trained_mechanisms, "EPOCHS", 1)
    monkeypatch.setattr(trained_mechanisms, "TRAINED_ON", 100)
    monkeypatch.setattr(trained_mechanisms, "TESTED_ON", 50)
    trained_mechanisms.train_network.cache_clear()
    with pytest.raises(
        InputError,
        match=r"^the network of scene with seed 1 has an accuracy of 0\.\d{3}, less than 0\.98; use another --seed$",
    ):
        trained_mechanisms.train_network("scene", 1)
