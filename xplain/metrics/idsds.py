"""In-domain single deletion score (IDSDS): SDS on networks that are trained on images with deleted cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import seed_of
from xplain.core.types import Score
from xplain.data.splits import LabeledImages
from xplain.metrics._parts import assign_even_parts
from xplain.metrics._training import Network, TrainingOptions, make_classifier, train
from xplain.metrics._trial import PIXELS_AT_ONCE, Trial
from xplain.metrics.inputs import MetricInput
from xplain.metrics.sds import HESSE, correlate_cells
from xplain.models import Classifier
from xplain.oracle import Oracle

SHARE = 0.5  # of the training images, of which a cell is deleted


@metric(
    "idsds",
    scope="dataset",
    better="higher",
    bounds=(-1, 1),
    unit="rank correlation",
    forwards=lambda trials, epochs, **_: trials * epochs,
    attributions=lambda trials, **_: trials,
    undefined="where no test image has sums and scores that vary between cells",
    paper=HESSE,
    deviations="A network is trained from random weights on the data set with Adam and without augmentation, instead of being fine-tuned. "
    "A deleted cell has the image's mean color in training and testing; the authors' code sets it to the mean color of ImageNet.",
)
def idsds(
    trial: Trial,
    *,
    grid: Steps = 4,
    trials: Steps = 3,
    epochs: Steps = 100,
    network: Network = "cnn",
    batch: Steps = 128,
    learning_rate: Positive = 3e-4,
    size: Steps | None = None,
    per_class: Steps | None = None,
) -> Score:
    """Average the single deletion score over the test images, on a network that is trained on images with deleted cells.

    In every epoch, one of the grid² cells of half of the training images, drawn at random, is replaced by the image's mean color, so that
    the images of ``sds`` are in the domain of the network (the model of -m is ignored). One network per trial serves all methods. ``sds``
    is Spearman's correlation of the summed attributions of the cells with the falls of the explained logit without them. A random map
    scores 0 on average. Images whose sums or logits do not vary between cells are left out.
    grid: cells per side; cell k begins at pixel round(k·H / grid).
    trials, epochs, network, batch, learning_rate, size, per_class: as of ``roar``.
    Raises UsageError if the grid is finer than the images.
    """
    data = trial.data
    height, width = data.train.pixels.shape[2:]
    if grid > min(height, width):
        text = f"idsds: grid={grid} exceeds the image size of {height} x {width} pixels"
        raise UsageError(text, "use a smaller grid")
    options = TrainingOptions(epochs, batch, learning_rate, trial.seed, trial.precision)
    classifier = make_classifier(data, network, trial.seed)

    def delete(images: LabeledImages, epoch: int) -> LabeledImages:
        return delete_cells(images, grid, seed_of(trial.seed, "drop", epoch))

    train(classifier, data.train, options, trial.checkpoints, "base", trial.on_progress, change_images=delete)
    scores = score_images(trial, classifier, grid)
    defined = scores[~scores.isnan()]
    mean = defined.mean() if len(defined) else scores.new_tensor(torch.nan)
    return Score(mean[None], undefined={"no test image has a score": mean.isnan()[None]})


def delete_cells(images: LabeledImages, grid: int, seed: int) -> LabeledImages:
    """Return the images without one random cell of each, for a random half of them."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(grid**2, (len(images),), generator=generator)
    is_changed = torch.rand(len(images), generator=generator) < SHARE
    cells = torch.where(is_changed, cells, -1).to(images.pixels.device)
    return replace(images, removed=find_cells(images.pixels, grid)[None] == cells[:, None, None])


def find_cells(pixels: Tensor, grid: int) -> Tensor:
    """Return the cell (H, W) of each pixel of images (N, C, H, W)."""
    rows, columns = (assign_even_parts(side, grid, pixels.device) for side in pixels.shape[2:])
    return rows[:, None] * grid + columns


def score_images(trial: Trial, classifier: Classifier, grid: int) -> Tensor:
    """Return the single deletion scores (N,) of a method on the test images, float64 on the CPU; NaN where undefined."""
    images = trial.data.test
    size = max(PIXELS_AT_ONCE // images.pixels[0, 0].numel(), 1)
    scores = [
        _score_chunk(trial, classifier, images, slice(start, start + size), grid, f"{trial.prefix}/scores-{start}")[
            "scores"
        ]
        for start in range(0, len(images), size)
    ]
    return torch.cat(scores)


def _score_chunk(
    trial: Trial, classifier: Classifier, images: LabeledImages, chunk: slice, grid: int, name: str
) -> dict[str, Any]:
    """Return the scores of some images, from the checkpoint ``name`` if it exists."""
    state = trial.checkpoints.load(name)
    if state is None:
        x, labels = images.batch(chunk), images.labels[chunk]
        targets = trial.choose_targets(classifier, x, labels)
        attributions = trial.attribute(classifier, x, labels).to(x)
        inputs = MetricInput(Oracle(classifier, precision=trial.precision), x, attributions.nan_to_num(), targets)
        values = correlate_cells(inputs, grid, images.mean_colors[chunk].expand_as(x), "logit").values
        is_finite = attributions.isfinite().flatten(1).all(dim=1)
        state = {"scores": values.masked_fill(~is_finite, torch.nan).cpu()}
        trial.checkpoints.save(name, state)
        trial.on_progress((trial.rows_per_image + grid**2) * len(x) / len(trial.data.train))
    return state
