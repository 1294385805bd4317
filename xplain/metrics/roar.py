"""Remove and retrain: how well a network learns once the pixels that a method finds important are gone from every image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xplain.core.checkpoint_store import CheckpointStore
from xplain.core.papers import Paper
from xplain.core.parameters import Percentages, Positive, Steps, read_percentages
from xplain.core.registry import metric
from xplain.core.types import Precision, Score
from xplain.data.splits import LabeledImages, TrainTestSplit
from xplain.metrics._ranking import pixel_ranks
from xplain.metrics._training import Network, Plan, accuracy, make_classifier, train
from xplain.models import Classifier

BLOCK = 2048 * 32 * 32  # pixels that are attributed and ranked together, and kept together

# (classifier, images (n, 3, H, W) in [0, 1], labels (n,)) -> raw attributions (n, C or 1, H, W)
Attribute = Callable[[Classifier, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trial:
    """One repetition of a metric that trains networks, for one method: what such a metric is given.

    seed: of the trial's draws, the same for every method. attribute: the method; rows: its forward rows an image, for the progress.
    states: what was reached before, of the trial; ``mark`` is the folder of this method's. tick: called with the number of epochs
    (or what takes as long) done.
    """

    data: TrainTestSplit
    seed: int
    attribute: Attribute
    states: CheckpointStore
    mark: str = "method"
    rows: int = 1
    precision: Precision = "fp32"
    tick: Callable[[float], None] = lambda epochs: None


def epochs_of(data: TrainTestSplit, rows: int, fractions: str, epochs: int) -> float:
    """How many epochs take as long as one method in one trial, without the first network's."""
    return epochs * len(read_percentages(fractions)) + rows * (len(data.train) + len(data.test)) / len(data.train)


def _forwards(side: int, fractions: str, trials: int, epochs: int, **_: object) -> int:
    return trials * epochs * (1 + len(read_percentages(fractions)))


@metric(
    "roar",
    scope="dataset",
    better="lower",
    unit="test accuracy",
    forwards=_forwards,
    attributions=lambda trials, **_: trials,
    undefined="where an attribution or a trained network's logit is not finite",
    paper=Paper(
        "A benchmark for interpretability methods in deep neural networks",
        "Hooker, Erhan, Kindermans, Kim",
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
    """The test accuracy of networks retrained without the pixels that a method finds most important.

    A network is trained on the data set (the model of -m has no part in it) and the method explains it on every train and test
    image. For each of ``fractions``, in percent, the round(k/100·H·W) pixels with the highest sum over channels (ties keep raster
    order) take the image's own mean colour, channel by channel, and a network with the same initial weights and the same order
    of batches is trained and tested on these images. The value is the mean test accuracy over the fractions; the curve begins
    with the accuracy on whole images. One value a trial; trials differ in weights, order and the method's draws.
    network: ``cnn`` has 6 convolutions (32, 32, 64, 64, 128, 128 channels) and 3 linear layers (256, 128, classes), the DGA paper's
    count (section 4.3) at widths of our choice; ``small`` has 2 and 1. Adam, cross-entropy, no augmentation, last epoch's weights.
    batch: images a step; unstated in the papers. size: side to which images are resized; none: as they are.
    per_class: at most so many images of a class to train on, and to test on. Undefined (NaN) where an attribution or a logit is
    not finite. The images are held in memory, 3 bytes a pixel, and their ranks at 2 to 4 bytes.
    """
    plan = Plan(epochs, batch, learning_rate, trial.seed, trial.precision)
    net, accuracy_whole = retrain(trial, network, plan, trial.data, "base")
    whole_train, whole_test = trial.data.train, trial.data.test
    train_ranks, test_ranks = (
        rank_images(trial, net, *each) for each in ((whole_train, "train"), (whole_test, "test"))
    )
    if train_ranks is None or test_ranks is None:
        nothing = torch.full((1,), torch.nan)
        return Score(nothing, undefined={"an attribution is not finite": nothing.isnan()})
    found = [accuracy_whole]
    for percent in read_percentages(fractions):
        parts = remove(whole_train, train_ranks, percent), remove(whole_test, test_ranks, percent)
        data = replace(trial.data, train=parts[0], test=parts[1])
        found.append(retrain(trial, network, plan, data, f"{trial.mark}/{percent:g}")[1])
    curve = torch.tensor([found], dtype=torch.float64)
    return Score(curve[:, 1:].mean(dim=1), curve, undefined={"a logit is not finite": curve.isnan().any(dim=1)})


def retrain(trial: Trial, network: Network, plan: Plan, data: TrainTestSplit, name: str) -> tuple[Classifier, float]:
    """A network trained from the trial's initial weights on a set of images, and its accuracy on the set's test images."""
    net = make_classifier(trial.data, network, trial.seed)
    train(net, data.train, plan, trial.states, name, trial.tick)
    return net, accuracy(net, data.test, plan.precision)


def rank_images(trial: Trial, net: Classifier, images: LabeledImages, part: str) -> Tensor | None:
    """(N, H, W) the place of each pixel in its image's order, 0 for the highest attribution; None unless all are finite."""
    height, width = images.pixels.shape[2:]
    size = max(BLOCK // (height * width), 1)
    blocks = []
    for start in range(0, len(images), size):
        some = slice(start, start + size)
        name = f"{trial.mark}/ranks-{part}-{start}"
        if (state := trial.states.load(name)) is None:
            values = trial.attribute(net, images.batch(some), images.labels[some])
            state = {"ranks": rank_pixels(values), "finite": bool(values.isfinite().all())}
            trial.states.save(name, state)
            trial.tick(trial.rows * len(values) / len(trial.data.train))
        if not state["finite"]:
            return None
        blocks.append(state["ranks"].to(images.pixels.device))
    return torch.cat(blocks)


def rank_pixels(values: Tensor) -> Tensor:
    """(n, H, W) ``pixel_ranks`` of attributions (n, C, H, W), 0 for the highest, in the smallest type that holds them."""
    found = pixel_ranks(values)
    return found.to(torch.int16 if found[0].numel() < 2**15 else torch.int32)


def remove(images: LabeledImages, ranks: Tensor, percent: float) -> LabeledImages:
    """The images with the ``percent`` % of their pixels of the lowest ranks (N, H, W) at the image's mean colour."""
    return replace(images, removed=ranks < round(percent / 100 * ranks[0].numel()))
