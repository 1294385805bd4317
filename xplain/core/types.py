"""Result types: Cost, Attribution, Score; and the literals that options share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

ScoreKind = Literal["logit", "prob", "log-prob", "margin"]
Precision = Literal["fp32", "tf32", "bf16"]
Interval = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Cost:
    """The cost of a computation. A row is one image in one pass through the model.

    forwards: rows of forward passes. backwards: rows of backward passes. seconds: wall time.
    checks: forward rows that the report needs and the attribution does not: the prediction that chooses the target, and the
    end points of the completeness gap.
    """

    forwards: int = 0
    backwards: int = 0
    checks: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Forward rows, the usual unit for comparing methods."""
        return self.forwards

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.checks + other.checks,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, eq=False)
class Attribution:
    """Signed raw attributions of a batch of images, in units of the explained score.

    values: (B, C, H, W) with C = 3, or C = 1 for methods that do not distinguish colors.
    target: (B,) explained class indices.
    cost: cost of the whole batch.
    expected: (B,) sums that ``values`` should have if the method claims completeness, else None.
    details: values per image by name, each (B, ...): forward and backward rows, steps, acceptance rates.
    flags: warnings by text, each a bool mask (B,) of the images that it applies to.
    facts: texts by name that hold for the whole batch, such as the layer that was found by tracing.
    """

    values: Tensor
    target: Tensor | None = None
    cost: Cost = Cost()
    expected: Tensor | None = None
    details: dict[str, Tensor] = field(default_factory=dict)
    flags: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """(B,) float64 sums of the attributions."""
        return self.values.double().sum(dim=(1, 2, 3))

    @property
    def gap(self) -> Tensor | None:
        """(B,) completeness gap ``total - expected``, or None if the method does not claim completeness."""
        return None if self.expected is None else self.total - self.expected.double()


@dataclass(frozen=True, eq=False)
class Score:
    """The result of a metric on a batch of images.

    values: (B,), NaN if undefined.
    curve: (B, K + 1) values at K steps and the start, or None.
    cost: cost of the whole batch.
    undefined: reasons by text, each a bool mask (B,) of the images that it applies to.
    """

    values: Tensor
    curve: Tensor | None = None
    cost: Cost = Cost()
    undefined: dict[str, Tensor] = field(default_factory=dict)
