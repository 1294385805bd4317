"""ROAR (remove and retrain): accuracy of networks that are trained without the pixels that a method ranks highest."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from xplain.core.checkpoint_store import State
from xplain.core.papers import Paper
from xplain.core.parameters import Percentages, Positive, Steps, read_percentages
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.data.splits import LabeledImages, TrainTestSplit
from xplain.metrics._ranking import pixel_ranks
from xplain.metrics._training import Network, TrainingOptions, make_classifier, measure_accuracy, train
from xplain.metrics._trial import Trial
from xplain.models import Classifier


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

    def rank_chunk(chunk: slice) -> State:
        attributions = trial.attribute(classifier, images.batch(chunk), images.labels[chunk])
        return {"ranks": rank_pixels(attributions), "finite": bool(attributions.isfinite().all())}

    ranks = []
    for state in trial.compute_chunks(images, f"ranks-{part}", rank_chunk, trial.rows_per_image):
        if not state["finite"]:
            return None
        ranks.append(state["ranks"].to(images.pixels.device))
    return torch.cat(ranks)


def rank_pixels(attributions: Tensor) -> Tensor:
    """Return ``pixel_ranks`` (n, H, W) of attributions (n, C, H, W) in the smallest integer type that holds them."""
    ranks = pixel_ranks(attributions)
    return ranks.to(torch.int16 if ranks[0].numel() < 2**15 else torch.int32)


def remove_pixels(images: LabeledImages, ranks: Tensor, percent: float) -> LabeledImages:
    """Return the images with the ``percent`` % lowest ranks (N, H, W) replaced by the image's mean color."""
    return replace(images, removed=ranks < round(percent / 100 * ranks[0].numel()))
