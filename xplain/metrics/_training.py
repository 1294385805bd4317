"""Small networks and their training on images in memory.

Seeds fix all random draws. An interrupted training resumes from its last complete epoch and gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
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
from xplain.models.arithmetic import deterministic_algorithms, float32_precision
from xplain.models.classifier import Weights
from xplain.oracle import Oracle

Network = Literal["cnn", "small"]
ROWS_AT_ONCE = 4096  # images that are converted to float together to measure the accuracy
# channels of the convolutions between poolings, and widths of the hidden linear layers
WIDTHS: dict[Network, tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    "cnn": (((32, 32), (64, 64), (128, 128)), (256, 128)),  # 6 convolutions and 3 linear layers
    "small": (((16,), (32,)), ()),
}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of ``train``, which uses Adam, cross-entropy and a new random order of the images in every epoch.

    seed: of the orders of the images.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    precision: Precision = "fp32"


def make_network(name: Network, classes: int, height: int, width: int) -> nn.Sequential:
    """Build 3 x 3 convolutions with ReLU, 2 x 2 max pooling after each group, and linear layers with ReLU.

    name: ``cnn`` has 32, 32, 64, 64, 128, 128 channels, then 256, 128 and ``classes`` features; ``small`` has 16 and 32 channels
    and one linear layer. height, width: of the images; a group without two pixels per side is not pooled.
    """
    groups, hidden = WIDTHS[name]
    layers: list[nn.Module] = []
    channels = 3
    for group in groups:
        for out_channels in group:
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU()]
            channels = out_channels
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    layers.append(nn.Flatten())
    features = channels * height * width
    for out_features in hidden:
        layers += [nn.Linear(features, out_features), nn.ReLU()]
        features = out_features
    return nn.Sequential(*layers, nn.Linear(features, classes))


def make_classifier(data: TrainTestSplit, name: Network, seed: int) -> Classifier:
    """Return an untrained classifier for a data set, on the device of its images.

    PyTorch initializes the weights from ``seed``. The classifier normalizes by the mean and standard deviation of each
    channel of the unmodified training images.
    """
    height, width = data.train.pixels.shape[2:]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "weights"))
        network = make_network(name, len(data.classes), height, width)
    mean, std = compute_channel_statistics(data.train.pixels)
    classifier = Classifier(
        network,
        name=f"{name} trained on the data set",
        labels=data.classes,
        mean=mean,
        std=std,
        preprocessing=Preprocessing((height, width), min(height, width)),
        weights=Weights("training"),
    )
    return classifier.to(data.train.pixels.device).eval()


def compute_channel_statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation per channel of 8-bit images (N, 3, H, W), scaled to [0, 1].

    Standard deviations are at least 1/255.
    """
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.transpose(0, 1)]).cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = shares @ values
    std = (shares @ values**2 - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)
    return mean.tolist(), std.tolist()


def train(
    classifier: Classifier,
    images: LabeledImages,
    options: TrainingOptions,
    checkpoints: CheckpointStore,
    name: str,
    on_progress: Callable[[float], None],
    change_images: Callable[[LabeledImages, int], LabeledImages] | None = None,
) -> None:
    """Train a classifier in place and leave it in evaluation mode.

    checkpoints: the store to which the state ``name`` is saved after every epoch, and from which training resumes.
    on_progress: called with 1 after every epoch. change_images: returns the images of an epoch, or None for the same in every epoch.
    """
    optimizer = torch.optim.Adam(classifier.parameters(), lr=options.learning_rate)
    start = 0
    state = checkpoints.load(name)
    if state is not None:
        classifier.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["epoch"])
    classifier.train()
    for epoch in range(start, options.epochs):
        changed = images if change_images is None else change_images(images, epoch)
        train_epoch(classifier, changed, optimizer, options, epoch)
        state = {"epoch": epoch + 1, "network": classifier.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoints.save(name, state)
        on_progress(1)
    classifier.eval()


def train_epoch(
    classifier: Classifier,
    images: LabeledImages,
    optimizer: torch.optim.Optimizer,
    options: TrainingOptions,
    epoch: int,
) -> None:
    """Train on every image once, in the random order of the epoch."""
    device = images.pixels.device
    generator = torch.Generator().manual_seed(seed_of(options.seed, "order", epoch))
    order = torch.randperm(len(images), generator=generator).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16) if options.precision == "bf16" else nullcontext()
    with torch.enable_grad(), deterministic_algorithms(device), float32_precision(options.precision, device):
        for indices in order.split(options.batch_size):
            with autocast:
                logits = classifier(images.batch(indices))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), images.labels[indices]).backward()
            optimizer.step()


def measure_accuracy(classifier: Classifier, images: LabeledImages, precision: Precision) -> float:
    """Return the top-1 accuracy on labeled images, in [0, 1]; NaN if a logit is not finite."""
    oracle = Oracle(classifier, precision=precision)
    correct = 0
    for start in range(0, len(images), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        logits = oracle.logits(images.batch(rows))
        if not bool(logits.isfinite().all()):
            return float("nan")
        correct += int((logits.argmax(dim=1) == images.labels[rows]).sum())
    return correct / len(images)
