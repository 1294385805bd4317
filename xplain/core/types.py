"""The records that pass between the parts: papers, costs, attributions, scores."""

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
    """Rows through the model: image rows in forward passes, in backward passes, and seconds of wall time.

    ``checks`` counts the forward rows that serve the report and not the attribution: the prediction that
    chooses the target, and the end points of a completeness gap.
    """

    forwards: int = 0
    backwards: int = 0
    checks: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Forward rows, the usual unit of comparison between methods."""
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

    values: (B, C, H, W), C = 3 or 1 (methods that know no colour).
    target: (B,) class indices explained.
    cost: rows through the model for the whole batch.
    expected: (B,) what ``values`` should sum to where the method claims completeness, else None.
    details: facts by name, each (B, ...): forward and backward rows, steps taken, acceptance rates.
    flags: warnings by text, each a (B,) bool mask of the images it applies to.
    facts: facts that hold for the whole call, such as the layer that was found by tracing.
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
        """(B,) sums of the attributions, accumulated in float64."""
        return self.values.double().sum(dim=(1, 2, 3))

    @property
    def gap(self) -> Tensor | None:
        """(B,) completeness gap ``sum - expected``, or None where completeness is not claimed."""
        return None if self.expected is None else self.total - self.expected.double()


@dataclass(frozen=True, eq=False)
class Score:
    """A metric's result on a batch: values (B,), NaN = undefined; curve (B, K+1) or None; cost in rows.

    undefined: reasons, each a (B,) bool mask of the images it applies to.
    """

    values: Tensor
    curve: Tensor | None = None
    cost: Cost = Cost()
    undefined: dict[str, Tensor] = field(default_factory=dict)
