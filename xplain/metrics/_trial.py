"""Input of a metric that trains networks: one method in one trial, which can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from xplain.core.checkpoint_store import CheckpointStore, State
from xplain.core.types import Precision
from xplain.data.splits import LabeledImages, TrainTestSplit
from xplain.models import Classifier

PIXELS_AT_ONCE = 2048 * 32 * 32  # pixels whose attributions are computed and saved together

# (classifier, images (n, 3, H, W) in [0, 1], labels (n,)) -> raw attributions (n, C or 1, H, W)
Attribute = Callable[[Classifier, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trial:
    """Input of a metric that trains networks: one method in one trial.

    data: training and test images.
    seed: random seed of the trial, which is the same for every method.
    attribute: function that computes the attributions.
    checkpoints: store for intermediate results, from which the trial can be resumed.
    prefix: directory of the checkpoints of this method. The first network is shared by all methods.
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

    def compute_chunks(
        self, images: LabeledImages, name: str, compute: Callable[[slice], State], rows_per_image: int
    ) -> Iterator[State]:
        """Yield the result of each chunk of images. Results that were computed before an interruption are loaded.

        name: of the checkpoints, without the directory of the method.
        compute: returns the result of the images in a slice.
        rows_per_image: forward rows of ``compute`` per image, used to report progress.
        """
        size = max(PIXELS_AT_ONCE // images.pixels[0, 0].numel(), 1)
        for start in range(0, len(images), size):
            checkpoint = f"{self.prefix}/{name}-{start}"
            state = self.checkpoints.load(checkpoint)
            if state is None:
                state = compute(slice(start, start + size))
                self.checkpoints.save(checkpoint, state)
                count = min(size, len(images) - start)
                self.on_progress(rows_per_image * count / len(self.data.train))
            yield state
