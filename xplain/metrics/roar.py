"""ROAR (remove and retrain): accuracy of networks that are trained without the pixels that a method ranks highest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xplain.core.checkpoint_store import CheckpointStore
from xplain.core.papers import Paper
from xplain.core.parameters import Percentages, Positive, Steps, read_percentages
from xplain.core.registry import metric
from xplain.core.types import Precision, Score
from xplain.data.splits import LabeledImages, TrainTestSplit
from xplain.metrics._ranking import pixel_ranks
from xplain.metrics._training import Network, TrainingOptions, make_classifier, measure_accuracy, train
from xplain.models import Classifier

PIXELS_AT_ONCE = 2048 * 32 * 32  # pixels that are attributed, ranked and saved together

# (classifier, images (n, 3, H, W) in [0, 1], labels (n,)) -> raw attributions (n, C or 1, H, W)
Attribute = Callable[[Classifier, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trial:
    """Input of a metric that trains networks: one method in one trial.

    data: training and test images.
    seed: random seed of the trial, which is the same for every method.
    attribute: function that computes the attributions.
    checkpoints: store for intermediate results, from which the trial can be resumed.
    prefix: directory of the checkpoints of this method. The network trained on unmodified images is shared by all methods.
    rows_per_image: forward rows of the method per image, used to report progress.
    precision: floating-point precision for training and testing.
    on_progress: callback that receives the number of finished epochs. Other work is converted to an equivalent number of epochs.
    choose_targets: function that returns the explained classes (n,) of images.
    """

    data: TrainTestSplit
    seed: int
    attribute: Attribute
    checkpoints: CheckpointStore
    prefix: str = "method"
    rows_per_image: int = 1
    precision: Precision = "fp32"
    on_progress: Callable[[float], None] = lambda epochs: None
    choose_targets: Attribute = lambda classifier, images, labels: labels


def estimate_epochs(data: TrainTestSplit, rows_per_image: int, fractions: str, epochs: int) -> float:
    """Return the number of epochs that take as long as one method in one trial, without the first network."""
    attributed = rows_per_image * (len(data.train) + len(data.test)) / len(data.train)
    return epochs * len(read_percentages(fractions)) + attributed


def _count_forwards(side: int, fractions: str, trials: int, epochs: int, **_: object) -> int:
    return trials * epochs * (1 + len(read_percentages(fractions)))


@metric(
    "roar",
    scope="dataset",
    better="lower",
    unit="test accuracy",
    forwards=_count_forwards,
    attributions=lambda trials, **_: trials,
    undefined="where an attribution or a trained network's logit is not finite",
    paper=Paper(
        "A benchmark for interpretability methods in deep neural networks",
        "Sara Hooker, Dumitru Erhan, Pieter-Jan Kindermans, Been Kim",
        2019,
        "NeurIPS",
        "1806.10758",
    ),
)
def roar(
    trial: Trial,
    *,
    fractions: Percentages = "10+30+50+70+90",
    trials: Steps = 10,
    epochs: Steps = 100,
    network: Network = "cnn",
    batch: Steps = 128,
    learning_rate: Positive = 3e-4,
    size: Steps | None = None,
    per_class: Steps | None = None,
) -> Score:
    """Train networks without the pixels that a method finds most important, and average their test accuracy.

    A first network is trained on the data set (the model of -m is ignored), and the method explains it on every training and
    test image. For each fraction of k %, the round(k/100·H·W) pixels with the highest sum over channels are replaced by the image's mean
    color, and a network with the same initial weights and the same order of batches is trained and tested on these images.
    Ties keep raster order. The value is the mean test accuracy over the fractions; the curve starts with the accuracy on whole images.
    Undefined (NaN) if an attribution or a logit is not finite. Memory holds the images at 3 bytes per pixel and their
    ranks at 2 to 4 bytes.

    fractions: percentages of pixels to remove.
    trials: number of values; trials differ in the initial weights, the order of images and the method's draws.
    epochs: epochs of the training with Adam and cross-entropy, without augmentation; the weights are those of the last epoch.
    batch: images per batch, which the papers do not state.
    learning_rate: learning rate of Adam.
    network: ``cnn`` has 6 convolutions (32, 32, 64, 64, 128, 128 channels) and 3 linear layers (256, 128, classes), the depth of
    the DGA paper (section 4.3) with widths of our choice; ``small`` has 2 convolutions and 1 linear layer.
    size: side to which images are resized; defaults to their own size.
    per_class: maximum number of images per class, for training and for testing; defaults to all.
    """
    options = TrainingOptions(epochs, batch, learning_rate, trial.seed, trial.precision)
    data = trial.data
    classifier, whole_accuracy = retrain(trial, network, options, data, "base")
    train_ranks = rank_images(trial, classifier, data.train, "train")
    test_ranks = rank_images(trial, classifier, data.test, "test")
    if train_ranks is None or test_ranks is None:
        values = torch.full((1,), torch.nan)
        return Score(values, undefined={"an attribution is not finite": values.isnan()})
    accuracies = [whole_accuracy]
    for percent in read_percentages(fractions):
        train_images = remove_pixels(data.train, train_ranks, percent)
        test_images = remove_pixels(data.test, test_ranks, percent)
        reduced_data = replace(data, train=train_images, test=test_images)
        _, accuracy = retrain(trial, network, options, reduced_data, f"{trial.prefix}/{percent:g}")
        accuracies.append(accuracy)
    curve = torch.tensor([accuracies], dtype=torch.float64)
    return Score(curve[:, 1:].mean(dim=1), curve, undefined={"a logit is not finite": curve.isnan().any(dim=1)})


def retrain(
    trial: Trial, network: Network, options: TrainingOptions, data: TrainTestSplit, name: str
) -> tuple[Classifier, float]:
    """Train a network from the trial's initial weights on a data set.

    name: of the checkpoint. Returns the classifier and its accuracy on the test images of ``data``.
    """
    classifier = make_classifier(trial.data, network, trial.seed)
    train(classifier, data.train, options, trial.checkpoints, name, trial.on_progress)
    return classifier, measure_accuracy(classifier, data.test, options.precision)


def rank_images(trial: Trial, classifier: Classifier, images: LabeledImages, part: str) -> Tensor | None:
    """Return the rank (N, H, W) of each pixel in its image, with 0 for the highest attribution, or None if an attribution is not finite.

    part: ``train`` or ``test``, used in the names of checkpoints.
    """
    height, width = images.pixels.shape[2:]
    size = max(PIXELS_AT_ONCE // (height * width), 1)
    ranks = []
    for start in range(0, len(images), size):
        state = _rank_chunk(trial, classifier, images, slice(start, start + size), f"ranks-{part}-{start}")
        if not state["finite"]:
            return None
        ranks.append(state["ranks"].to(images.pixels.device))
    return torch.cat(ranks)


def _rank_chunk(trial: Trial, classifier: Classifier, images: LabeledImages, chunk: slice, name: str) -> dict[str, Any]:
    """Return the ranks of some images and whether their attributions are finite, from the checkpoint ``name`` if it exists."""
    state = trial.checkpoints.load(f"{trial.prefix}/{name}")
    if state is None:
        attributions = trial.attribute(classifier, images.batch(chunk), images.labels[chunk])
        state = {"ranks": rank_pixels(attributions), "finite": bool(attributions.isfinite().all())}
        trial.checkpoints.save(f"{trial.prefix}/{name}", state)
        trial.on_progress(trial.rows_per_image * len(attributions) / len(trial.data.train))
    return state


def rank_pixels(attributions: Tensor) -> Tensor:
    """Return ``pixel_ranks`` (n, H, W) of attributions (n, C, H, W) in the smallest integer type that holds them."""
    ranks = pixel_ranks(attributions)
    return ranks.to(torch.int16 if ranks[0].numel() < 2**15 else torch.int32)


def remove_pixels(images: LabeledImages, ranks: Tensor, percent: float) -> LabeledImages:
    """Return the images with the ``percent`` % lowest ranks (N, H, W) replaced by the image's mean color."""
    return replace(images, removed=ranks < round(percent / 100 * ranks[0].numel()))
