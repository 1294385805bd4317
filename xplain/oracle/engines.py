"""Where the rows of a classifier are computed: in PyTorch, or by a compiled engine while a command runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

from xplain.core.types import Precision
from xplain.models import Classifier


class Engine(Protocol):
    """Compute the rows of one classifier in one precision instead of PyTorch. A row does not depend on the other rows of a call."""

    precision: Precision

    def logits(self, x: Tensor) -> Tensor | None:
        """Return the logits (rows, classes) in float32 of images (rows, C, H, W), or None if PyTorch must compute them."""

    def gradients(self, x: Tensor, y: Tensor, score: str, contrasts: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Return logits (rows, classes) and gradients (rows, C, H, W), or None if PyTorch must compute them.

        y: (rows,) or (rows, S) target classes. score: see ``compute_scores``. contrasts: (rows, A) contrast classes, or None.
        """

    def describe(self) -> dict[str, str]:
        """Return the engine of forward passes and that of gradients, for records."""


# The engine of a classifier inside ``use_engine``.
_ACTIVE: WeakKeyDictionary[Classifier, Engine] = WeakKeyDictionary()


@contextmanager
def use_engine(classifier: Classifier, engine: Engine | None) -> Iterator[None]:
    """Let an engine compute the rows of a classifier inside the block; None: PyTorch. The classifier must not change meanwhile."""
    previous = _ACTIVE.pop(classifier, None)
    if engine is not None:
        _ACTIVE[classifier] = engine
    try:
        yield
    finally:
        _ACTIVE.pop(classifier, None)
        if previous is not None:
            _ACTIVE[classifier] = previous


def active_engine(classifier: Classifier, precision: Precision, *, fold: bool) -> Engine | None:
    """Return the engine that computes the rows of a classifier now, or None for PyTorch.

    precision, fold: of the oracle. An engine computes in its own precision, and from the inference copy with folded batch norms.
    """
    engine = _ACTIVE.get(classifier)
    return engine if engine is not None and engine.precision == precision and fold else None
