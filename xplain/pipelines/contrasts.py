"""The contrast classes of the score ``contrast``. They are chosen once, on the clean images."""

from __future__ import annotations

from torch import Tensor

from xplain.core.options import ComputeOptions
from xplain.core.scores import ContrastScore
from xplain.core.types import Cost
from xplain.models import Classifier
from xplain.oracle.runtime import predict
from xplain.oracle.targets import find_nearest_classes

CONTRASTS = "contrasts"  # the name of the contrast classes in the details of an attribution


class NearestContrasts:
    """Find the classes whose logits are nearest to the target's, if the score is ``contrast``.

    images: the clean images (N, C, H, W). logits: theirs (N, classes), or None to compute them when they are needed.
    """

    def __init__(
        self, score: str, classifier: Classifier, images: Tensor, compute: ComputeOptions, logits: Tensor | None = None
    ) -> None:
        self.contrast = ContrastScore.parse(score)
        self.classifier, self.images, self.compute = classifier, images, compute
        self.logits = logits

    def find(self, y: Tensor, image: Tensor | None = None) -> tuple[Tensor | None, Cost]:
        """Return the contrast classes (R, A) for the targets y (R,), or None for other scores, and the cost of the logits.

        image: (R,) the clean image to which each target belongs; None: they are in the order of the images.
        """
        if self.contrast is None:
            return None, Cost()
        cost = Cost()
        if self.logits is None:
            self.logits, cost = predict(self.classifier, self.images, self.compute)
        logits = self.logits if image is None else self.logits[image]
        return find_nearest_classes(logits, y, self.contrast.classes), cost
