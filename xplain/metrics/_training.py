"""Small networks and their training on images in memory.

Every draw is fixed by seeds, and an interrupted training goes on, from its last whole epoch, to the numbers of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xplain.core.checkpoint_store import CheckpointStore
from xplain.core.rng import seed_of
from xplain.core.types import Precision
from xplain.data.preprocessing import Preprocessing
from xplain.data.splits import LabeledImages, TrainTestSplit
from xplain.models import Classifier
from xplain.models.classifier import Weights
from xplain.models.optimize import arithmetic
from xplain.oracle import Oracle

Network = Literal["cnn", "small"]
# channels of the convolutions between poolings, and widths of the hidden linear layers
WIDTHS: dict[Network, tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    "cnn": (((32, 32), (64, 64), (128, 128)), (256, 128)),  # 6 convolutions and 3 linear layers
    "small": (((16,), (32,)), ()),
}


@dataclass(frozen=True)
class Plan:
    """How a network is trained: Adam, cross-entropy, batches in an order drawn for each epoch.

    seed: of the orders.
    """

    epochs: int
    batch: int
    learning_rate: float
    seed: int
    precision: Precision = "fp32"


def make_network(name: Network, classes: int, height: int, width: int) -> nn.Sequential:
    """Convolutions of 3 x 3 with ReLU, a 2 x 2 max-pooling after each group (while there are 2 pixels), linear layers with ReLU.

    cnn: 32, 32, 64, 64, 128, 128 channels, then 256, 128 and ``classes`` features. small: 16 and 32 channels, one linear layer.
    """
    groups, hidden = WIDTHS[name]
    layers: list[nn.Module] = []
    channels = 3
    for group in groups:
        for wider in group:
            layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU()]
            channels = wider
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    layers.append(nn.Flatten())
    features = channels * height * width
    for wider in hidden:
        layers += [nn.Linear(features, wider), nn.ReLU()]
        features = wider
    return nn.Sequential(*layers, nn.Linear(features, classes))


def make_classifier(data: TrainTestSplit, name: Network, seed: int) -> Classifier:
    """An untrained classifier of the set's images, on their device.

    Its weights are torch's initial ones, drawn by the seed. It normalises by the mean and standard deviation of each
    channel of the unmodified training images.
    """
    height, width = data.train.pixels.shape[2:]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "weights"))
        network = make_network(name, len(data.classes), height, width)
    mean, std = channel_statistics(data.train.pixels)
    found = Classifier(
        network,
        name=f"{name} trained on the data set",
        labels=data.classes,
        mean=mean,
        std=std,
        preprocessing=Preprocessing((height, width), min(height, width)),
        weights=Weights("training"),
    )
    return found.to(data.train.pixels.device).eval()


def channel_statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of 8-bit images (N, 3, H, W), in [0, 1]; a deviation is at least 1/255."""
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.transpose(0, 1)]).cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = shares @ values
    std = (shares @ values**2 - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)
    return mean.tolist(), std.tolist()


def train(
    classifier: Classifier,
    images: LabeledImages,
    plan: Plan,
    states: CheckpointStore,
    name: str,
    tick: Callable[[float], None],
) -> None:
    """Train in place, from the state ``name`` on where there is one; each epoch's state is saved under it.

    tick: called with 1 after each epoch.
    """
    optimizer = torch.optim.Adam(classifier.parameters(), lr=plan.learning_rate)
    start = 0
    if (state := states.load(name)) is not None:
        classifier.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["epoch"])
    classifier.train()
    for epoch in range(start, plan.epochs):
        train_epoch(classifier, images, optimizer, plan, epoch)
        state = {"epoch": epoch + 1, "network": classifier.state_dict(), "optimizer": optimizer.state_dict()}
        states.save(name, state)
        tick(1)
    classifier.eval()


def train_epoch(
    classifier: Classifier, images: LabeledImages, optimizer: torch.optim.Optimizer, plan: Plan, epoch: int
) -> None:
    """All images once, in the order of the epoch."""
    device = images.pixels.device
    generator = torch.Generator().manual_seed(seed_of(plan.seed, "order", epoch))
    order = torch.randperm(len(images), generator=generator).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16) if plan.precision == "bf16" else nullcontext()
    with torch.enable_grad(), _repeatable(device), arithmetic(plan.precision, device):
        for some in order.split(plan.batch):
            with autocast:
                logits = classifier(images.batch(some))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), images.labels[some]).backward()
            optimizer.step()


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Only algorithms that add up in a fixed order, on CUDA; restored on leaving."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def accuracy(classifier: Classifier, images: LabeledImages, precision: Precision) -> float:
    """The share of the images whose top class is their label; NaN when a logit is not finite."""
    oracle = Oracle(classifier, precision=precision)
    right, rows = 0, 4096
    for start in range(0, len(images), rows):
        some = slice(start, start + rows)
        logits = oracle.logits(images.batch(some))
        if not bool(logits.isfinite().all()):
            return float("nan")
        right += int((logits.argmax(dim=1) == images.labels[some]).sum())
    return right / len(images)
