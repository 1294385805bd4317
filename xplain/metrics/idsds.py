"""In-domain single deletion score (IDSDS): SDS on networks that are trained on images with deleted cells."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from typing import Annotated

import torch
from torch import Tensor

from xplain.core.checkpoint_store import State
from xplain.core.parameters import Bounds, Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import seed_of
from xplain.core.types import Score
from xplain.data.splits import LabeledImages
from xplain.metrics._parts import assign_even_parts
from xplain.metrics._training import Network, TrainingOptions, make_classifier, measure_accuracy, train
from xplain.metrics._trial import Trial
from xplain.metrics.inputs import MetricInput
from xplain.metrics.sds import HESSE, check_grid, correlate_cells
from xplain.models import Classifier
from xplain.oracle import Oracle

SHARE = 0.5  # of the training images lose a cell in an epoch


@metric(
    "idsds",
    scope="dataset",
    better="higher",
    bounds=(-1, 1),
    unit="rank correlation",
    forwards=lambda trials, epochs, **_: trials * epochs,
    attributions=lambda trials, **_: trials,
    undefined="where no test image has sums and scores that vary between cells, or a logit of the trained network is not finite",
    paper=HESSE,
    deviations="A network is trained from random weights on the data set with Adam and without augmentation; the authors fine-tune "
    "ImageNet networks with SGD. Given weights cannot be fine-tuned. A deleted cell has the image's mean color in training and "
    "testing; the authors' code sets it to the mean color of ImageNet. Undefined scores are counted and excluded; a single one makes "
    "the mean of the authors' code NaN.",
)
def idsds(
    trial: Trial,
    *,
    grid: Annotated[int, Bounds(low=2)] = 4,
    trials: Steps = 3,
    epochs: Steps = 100,
    network: Network = "cnn",
    batch: Steps = 128,
    learning_rate: Positive = 3e-4,
    size: Steps | None = None,
    per_class: Steps | None = None,
) -> Score:
    """Average the single deletion score over the test images, on a network that is trained on images with deleted cells.

    In every epoch, each training image loses, with probability 1/2, one of its grid² cells, drawn at random: the cell is replaced by the
    image's mean color. The images of ``sds`` are thus in the domain of the network (the model of -m is ignored). One network per
    trial explains the test images with all methods. ``sds`` is Spearman's correlation of the summed attributions of the cells with the
    falls of the explained logit without them. A random map scores 0 on average. The paper explains the label of the data set
    (``--target label``). Images whose attribution is not finite, or whose sums or logits do not vary between cells, are counted
    and excluded from the mean.

    grid: cells per side; cell k begins at pixel round(k·H / grid).
    trials, epochs, network, batch, learning_rate, size, per_class: as of ``roar``.
    Raises UsageError if the grid is finer than the images.
    """
    data = trial.data
    check_grid("idsds", grid, data.train.pixels)
    options = TrainingOptions(epochs, batch, learning_rate, trial.seed, trial.precision)
    classifier = make_classifier(data, network, trial.seed)

    def delete(images: LabeledImages, epoch: int) -> LabeledImages:
        return delete_cells(images, grid, seed_of(trial.seed, "drop", epoch))

    train(classifier, data.train, options, trial.checkpoints, "base", trial.on_progress, change_images=delete)
    if isnan(measure_accuracy(classifier, data.test, trial.precision)):
        return Score(torch.full((1,), torch.nan), undefined={"a logit is not finite": torch.tensor([True])})
    score = score_images(trial, classifier, grid)
    mean = score.values[~score.values.isnan()].mean()
    undefined = {"no test image has a score": mean.isnan()[None]}
    return Score(mean[None], undefined=undefined, undefined_images=count_undefined(score))


def delete_cells(images: LabeledImages, grid: int, seed: int) -> LabeledImages:
    """Return the images, each without one random cell with probability ``SHARE``."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(grid**2, (len(images),), generator=generator)
    is_changed = torch.rand(len(images), generator=generator) < SHARE
    cells = torch.where(is_changed, cells, -1).to(images.pixels.device)
    return replace(images, removed=find_cells(images.pixels, grid)[None] == cells[:, None, None])


def find_cells(pixels: Tensor, grid: int) -> Tensor:
    """Return the cell (H, W) of each pixel of images (N, C, H, W)."""
    rows, columns = (assign_even_parts(side, grid, pixels.device) for side in pixels.shape[2:])
    return rows[:, None] * grid + columns


def score_images(trial: Trial, classifier: Classifier, grid: int) -> Score:
    """Return the single deletion scores (N,) of a method on the test images, on the CPU, with masks (N,) of undefined ones."""
    images = trial.data.test

    def score_chunk(chunk: slice) -> State:
        x, labels = images.batch(chunk), images.labels[chunk]
        targets = trial.choose_targets(classifier, x, labels)
        attributions = trial.attribute(classifier, x, labels).to(x)
        is_finite = attributions.isfinite().flatten(1).all(dim=1)
        inputs = MetricInput(Oracle(classifier, precision=trial.precision), x, attributions.nan_to_num(), targets)
        score = correlate_cells(inputs, grid, images.mean_colors[chunk].expand_as(x), "logit").cpu()
        undefined = {"the attribution is not finite": ~is_finite.cpu()} | score.undefined
        return {"values": score.values.masked_fill(~is_finite.cpu(), torch.nan), "undefined": undefined}

    chunks = list(trial.compute_chunks(images, "sds", score_chunk, trial.rows_per_image + grid**2))
    reasons = chunks[0]["undefined"]
    undefined = {reason: torch.cat([chunk["undefined"][reason] for chunk in chunks]) for reason in reasons}
    return Score(torch.cat([chunk["values"] for chunk in chunks]), undefined=undefined)


def count_undefined(score: Score) -> dict[str, int]:
    """Return the number of undefined values per reason, each under the first of its reasons."""
    counts = {}
    is_counted = torch.zeros(len(score.values), dtype=torch.bool)
    for reason, mask in score.undefined.items():
        counts[reason] = int((mask & ~is_counted).sum())
        is_counted = is_counted | mask
    return {reason: count for reason, count in counts.items() if count}
