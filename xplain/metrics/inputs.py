"""The case that a metric measures: attributions, what they explain, and the way to make them again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from xplain.core.types import ScoreKind
from xplain.models import Classifier
from xplain.oracle import Oracle


class Explain(Protocol):
    """The method that made a case's attributions, to be run again on other images or other weights."""

    def __call__(
        self, images: Tensor, y: Tensor, classifier: Classifier | None = None, image: Tensor | None = None
    ) -> Tensor:
        """(rows, C or 1, H, W) attributions of ``images`` (rows, C, H, W) for the classes ``y`` (rows,).

        image: (rows,) the image of the case that each row belongs to, and whose random draws it has; None when rows are the
        images. classifier: instead of the case's own.
        """


@dataclass(frozen=True, eq=False)
class MetricInput:
    """What a metric is given.

    images: (B, C, H, W) in [0, 1]. attributions: (B, C or 1, H, W), raw and signed. y: (B,) targets.
    expected: (B,) what the attributions should sum to, where the method claims completeness.
    keys, sizes: the images' names within their data set and their files' heights and widths, where they have them.
    boxes: (B, N, 4) left, top, right and bottom edges of objects in pixels of the images, NaN where there are fewer.
    score: what the attributions explain, and slopes: whether they hold slopes (see ``MethodSpec``); None where not known.
    memory: what metrics keep for one another, such as curves.
    """

    oracle: Oracle
    images: Tensor
    attributions: Tensor
    y: Tensor
    expected: Tensor | None = None
    keys: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    boxes: Tensor | None = None
    score: ScoreKind | None = None
    slopes: bool | None = None
    cache: dict[object, Tensor] = field(default_factory=dict)
