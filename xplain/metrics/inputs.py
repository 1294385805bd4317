"""The input of a metric: attributions, what they explain, and a callable that computes them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from xplain.core.types import Precision, ScoreKind
from xplain.models import Classifier
from xplain.oracle import Oracle


@dataclass(frozen=True)
class Repeat:
    """How a method runs again, if not with the settings of the reported map.

    draw: number of the independent set of random draws to use; None: the draws of the reported map.
    precision: of the model; None: that of the reported map.
    plain: one row per model call, without folded batch norms.
    """

    draw: int | None = None
    precision: Precision | None = None
    plain: bool = False


SAME_SETTINGS = Repeat()


class Explain(Protocol):
    """The attribution method of a metric's input, callable on other images or with other weights."""

    def __call__(
        self,
        images: Tensor,
        y: Tensor,
        classifier: Classifier | None = None,
        image: Tensor | None = None,
        repeat: Repeat = SAME_SETTINGS,
    ) -> Tensor:
        """Return the attributions (N, C or 1, H, W) of images (N, C, H, W) for the classes ``y`` (N,).

        classifier: the model to explain; defaults to the model of the metric's input.
        image: (N,) the index of the input image to which each row belongs; the row uses that image's random draws.
            None if the rows are the input images themselves.
        repeat: the settings that differ. Raises UnknownMethodError if the method cannot change them.
        """


@dataclass(frozen=True, eq=False)
class MetricInput:
    """The attributions of a batch of images, and what a metric needs to evaluate them.

    oracle: runs the model and counts its rows.
    images: (B, C, H, W) in [0, 1].
    attributions: (B, C or 1, H, W), raw and signed.
    y: (B,) target classes.
    expected: (B,) the sums that the attributions should have; None if the method does not satisfy completeness.
    keys: names of the images within their data set, if known.
    sizes: (height, width) of the image files, if known.
    orientations: EXIF orientation of the image files, if known.
    masks: (B, M, H, W) of objects: 1 on the object, 0 elsewhere, NaN where nothing is known; all NaN without an object.
    boxes: (B, N, 4) left, top, right and bottom edges of objects in pixels of the images; unused rows are NaN.
    score: the score that the attributions explain; None if unknown.
    slopes: whether the attributions are slopes (see ``MethodSpec``); None if unknown.
    content: the images on the CPU, which seed random numbers; None to read ``images``.
    contrasts: (B, A) contrast classes of the score, if it is ``contrast`` and they are known.
    cache: results that metrics of the same input share, such as curves.
    """

    oracle: Oracle
    images: Tensor
    attributions: Tensor
    y: Tensor
    expected: Tensor | None = None
    keys: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    boxes: Tensor | None = None
    orientations: tuple[int, ...] = ()
    masks: Tensor | None = None
    score: ScoreKind | None = None
    slopes: bool | None = None
    content: Tensor | None = None
    contrasts: Tensor | None = None
    cache: dict[object, Tensor] = field(default_factory=dict)
