"""Mechanisms of trained networks, whose truth is measured by drawing the image again without a part."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xplain.core.errors import InputError
from xplain.core.rng import seed_of
from xplain.known.registry import mechanism
from xplain.known.scenes import CLASSES, PARTS, Scenes, add_trigger, block_mask
from xplain.known.truth import GRID, Draw, Planted

EPOCHS = 16
TRAINED_ON = 4000  # images
TESTED_ON = 1000
BATCH = 100
CANDIDATES = 64  # images with a trigger among which a group is chosen
POISONED = 0.1  # share of training images with the trigger
TRIGGER_CLASS = 0
MIN_ACCURACY = 0.98


def make_network() -> nn.Sequential:
    """Return an untrained network in float32 for images of SIDE x SIDE pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * GRID**2, CLASSES),
    )


@cache
def train_network(name: str, seed: int) -> nn.Sequential:
    """Return the network of a trained mechanism, ``scene`` or ``backdoor``, in float64.

    Raises InputError if its accuracy on new images is less than MIN_ACCURACY.
    """
    draw = Draw(seed_of(seed, "known", name, "training"), TRAINED_ON)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(draw.seed)
        network = make_network()
        images, labels = _draw_data(name, draw, TRAINED_ON)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, EPOCHS * TRAINED_ON // BATCH)
        for _ in range(EPOCHS):
            for index in draw.order(TRAINED_ON).split(BATCH):
                loss = F.cross_entropy(network(images[index]), labels[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
    network.eval().requires_grad_(False)
    images, labels = _draw_data(name, draw, TESTED_ON)
    accuracy = float((network(images).argmax(dim=1) == labels).double().mean())
    if accuracy < MIN_ACCURACY:
        raise InputError(
            f"the network of {name} with seed {seed} has an accuracy of {accuracy:.3f}, less than {MIN_ACCURACY}",
            "use another --seed",
        )
    return network.double()


def _draw_data(name: str, draw: Draw, count: int) -> tuple[Tensor, Tensor]:
    """Return images in float32 and labels. A share of those of ``backdoor`` has the trigger and its class."""
    scenes = Scenes.of(draw, count, with_marks=name == "scene")
    images, labels = scenes.paint(), scenes.labels
    if name == "backdoor":
        poisoned = draw.uniform(count) < POISONED
        with_trigger = add_trigger(images, (draw.uniform(count) * GRID**2).long())
        images = torch.where(poisoned[:, None, None, None], with_trigger, images)
        labels = labels.masked_fill(poisoned, TRIGGER_CLASS)
    return images.float(), labels


@mechanism(
    "backdoor", kind="set", summary="a trained network with a 4 x 4 trigger that overrides the class", trained=True
)
def backdoor(draw: Draw) -> Planted:
    """The trigger is relevant, in images of another class in which nothing else is.

    Without the trigger the probability of its class drops by more than 0.9; without any other 4 x 4 block, which takes the mean color of
    the image, it changes by less than 0.05. Raises InputError if too few images have this property.
    """
    network = train_network("backdoor", draw.run_seed)
    scenes = Scenes.of(draw, CANDIDATES, with_marks=False)
    clean = scenes.paint()
    blocks = (draw.uniform(CANDIDATES) * GRID**2).long()
    images = add_trigger(clean, blocks)
    before = _probability(network, images)
    drops = before - _probability(network, clean) > 0.9
    for block in range(GRID**2):
        blank = torch.where(block_mask(torch.full_like(blocks, block)), images.mean(dim=(2, 3), keepdim=True), images)
        drops &= ((_probability(network, blank) - before).abs() < 0.05) | (blocks == block)
    chosen = drops.nonzero()[: draw.count, 0]
    if len(chosen) < draw.count:
        raise InputError(
            f"the network of backdoor with seed {draw.run_seed} depends on more than its trigger", "use another --seed"
        )
    relevant = block_mask(blocks[chosen]).double()
    classes = torch.full_like(chosen, TRIGGER_CLASS)
    return Planted(network, images[chosen], relevant=relevant, classes=classes, has_mixed_signs=True)


def _probability(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).softmax(dim=1)[:, TRIGGER_CLASS]


@mechanism(
    "scene",
    kind="parts",
    summary="a trained network on birds of 8 classes, drawn again without each part",
    trained=True,
)
def scene(draw: Draw) -> Planted:
    """The effect of a part is how much the logit of the class decreases without it. Images of one class have a mark in a corner."""
    network = train_network("scene", draw.run_seed)
    scenes = Scenes.of(draw, 16 * draw.count, with_marks=True)
    marked, others = scenes.marked.nonzero()[:1, 0], (~scenes.marked).nonzero()[:, 0]
    scenes = scenes.take(torch.cat([marked, others])[: draw.count])
    images, labels = scenes.paint(), scenes.labels[:, None]
    with torch.no_grad():
        full = network(images).gather(1, labels)
        effects = [full - network(scenes.paint(without=(part,))).gather(1, labels) for part in PARTS]
    masks = scenes.masks()
    is_missing = ~masks.flatten(2).any(dim=2)
    return Planted(
        network,
        images,
        parts=masks.double(),
        effects=torch.cat(effects, dim=1).masked_fill(is_missing, torch.nan),
        classes=labels[:, 0],
    )
