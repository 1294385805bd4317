"""Result types: Cost, Attribution, Score; and the literals that options share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from xplain.core.stability import Stability

ScoreKind = str  # a score in the full form of ``xplain.core.scores.parse_score``
Precision = Literal["fp32", "tf32", "bf16"]
EngineName = Literal["auto", "torch", "openvino"]
PYTORCH = {
    "forwards": "torch",
    "gradients": "torch",
}  # what computes forward passes and gradients, unless a record says otherwise
ActivationName = Literal["auto", "softmax", "sigmoid", "none"]
Interval = Literal["percentile", "bca"]


def shorten_list(values: Sequence[object], limit: int = 8) -> str:
    """Return the values as text, with the first ones only and their number if there are more than ``limit``."""
    if len(values) <= limit:
        return str(list(values))
    return f"[{', '.join(map(repr, values[:limit]))}, ... {len(values)} in all]"


@dataclass(frozen=True)
class Cost:
    """Cost of a computation in model evaluations. A row is one image in one pass through the model.

    forwards: rows of forward passes. backwards: rows of backward passes. seconds: wall time.
    checks: forward rows that are used only for reporting: the prediction that selects the target, and the endpoints of the
    completeness gap.
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
    """Signed attributions for a batch of images, in units of the explained score.

    values: (B, C, H, W) with the channels of the images, or C = 1 for methods that do not distinguish them.
    target: (B,) explained class indices.
    cost: cost of the whole batch.
    expected: (B,) theoretical sums of ``values`` for methods that satisfy completeness, otherwise None.
    details: values per image by name, each (B, ...): forward and backward rows, steps, acceptance rates.
    flags: dict that maps each warning to a boolean mask (B,) of the affected images.
    facts: information about the whole batch, such as the name of the layer that was used.
    parts: (B, 2, C, H, W) sums over the even and the odd samples of a method that adds up independent samples; None for others.
    has_draws: whether the method drew random numbers; None if unknown.
    stability: how much of each map stays when the method runs again, if it was requested.
    """

    values: Tensor
    target: Tensor | None = None
    cost: Cost = Cost()
    expected: Tensor | None = None
    details: dict[str, Tensor] = field(default_factory=dict)
    flags: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    parts: Tensor | None = None
    has_draws: bool | None = None
    stability: Stability | None = None

    @property
    def total(self) -> Tensor:
        """(B,) float64 sums of the attributions."""
        return self.values.double().sum(dim=(1, 2, 3))

    @property
    def gap(self) -> Tensor | None:
        """Completeness gap ``total - expected`` of shape (B,), or None for methods that do not satisfy completeness."""
        return None if self.expected is None else self.total - self.expected.double()

    def __repr__(self) -> str:
        targets = "" if self.target is None else f", target {shorten_list(self.target.tolist())}"
        gap = "" if self.gap is None else f", largest gap {float(self.gap.abs().max()):.3g}"
        cost = f"{self.cost.forwards} forward and {self.cost.backwards} backward rows"
        return f"Attribution(values {tuple(self.values.shape)}{targets}{gap}, cost {cost} in {self.cost.seconds:.2g} s)"

    def with_details_on_cpu(self) -> Attribution:
        """Return a copy of which only ``values`` are not on the CPU: one copy per tensor, not one per image."""
        return replace(
            self,
            target=None if self.target is None else self.target.cpu(),
            expected=None if self.expected is None else self.expected.cpu(),
            details={name: value.cpu() for name, value in self.details.items()},
            flags={text: mask.cpu() for text, mask in self.flags.items()},
        )

    def cpu(self) -> Attribution:
        """Return a copy on the CPU."""
        parts = None if self.parts is None else self.parts.cpu()
        stability = None if self.stability is None else self.stability.cpu()
        return replace(self.with_details_on_cpu(), values=self.values.cpu(), parts=parts, stability=stability)


@dataclass(frozen=True, eq=False)
class Score:
    """The result of a metric on a batch of images.

    values: (B,), NaN if undefined.
    curve: (B, K + 1) values at K steps and the start, or None.
    cost: cost of the whole batch.
    undefined: dict that maps each reason to a boolean mask (B,) of the affected images.
    chance: (B,) expected value of a random map, or None if it is unknown.
    undefined_images: for a mean over images, the number of images that it excludes, by reason.
    """

    values: Tensor
    curve: Tensor | None = None
    cost: Cost = Cost()
    undefined: dict[str, Tensor] = field(default_factory=dict)
    chance: Tensor | None = None
    undefined_images: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        values = [round(value, 4) for value in self.values.tolist()]
        curve = "" if self.curve is None else f", curve {tuple(self.curve.shape)}"
        counts = {reason: int(mask.sum()) for reason, mask in self.undefined.items()}
        undefined = "".join(f", {count} undefined: {reason}" for reason, count in counts.items() if count)
        return f"Score(values {shorten_list(values)}{curve}{undefined})"

    def cpu(self) -> Score:
        """Return a copy on the CPU."""
        return replace(
            self,
            values=self.values.cpu(),
            curve=None if self.curve is None else self.curve.cpu(),
            undefined={reason: mask.cpu() for reason, mask in self.undefined.items()},
            chance=None if self.chance is None else self.chance.cpu(),
        )
