"""Results of the checks of a model: randomness, dependent rows, missing gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xplain.core.errors import UsageError

RANDOM_FLAG = "the model is random in evaluation mode"


@dataclass(frozen=True)
class ModelChecks:
    """Results of the checks of a model. The defaults describe a model without problems.

    size: height and width of the images of the checks; None if the model was not checked.
    is_random: forward passes of the same images differ.
    mixes_rows: the rows of a call change one another; the oracle runs one row per call.
    needs_two_rows: the gradient of a single row differs from that of the row in a batch; the oracle runs it twice in a call.
    gradient_problem: why there are no gradients, as the end of "the model ..."; empty if there are.
    gradient_hint: what to do about it.
    """

    size: tuple[int, int] | None = None
    is_random: bool = False
    mixes_rows: bool = False
    needs_two_rows: bool = False
    gradient_problem: str = ""
    gradient_hint: str = ""

    @property
    def has_gradients(self) -> bool:
        """Whether methods that need gradients can be used."""
        return not self.gradient_problem

    def describe(self) -> dict[str, Any]:
        """Return the problems as entries of records; none for a model without problems."""
        findings = {
            "random": self.is_random,
            "mixes_rows": self.mixes_rows,
            "needs_two_rows": self.needs_two_rows,
            "no_gradients": self.gradient_problem,
        }
        return {name: value for name, value in findings.items() if value}

    def require_gradients(self, user: str) -> None:
        """Raise UsageError if ``user``, such as the name of a method, needs gradients that do not exist."""
        if self.gradient_problem:
            raise UsageError(f"{user} needs gradients, and the model {self.gradient_problem}", self.gradient_hint)

    def require_independent_rows(self, user: str) -> None:
        """Raise UsageError if ``user`` runs several images in one call, and the rows of a call change one another."""
        if self.mixes_rows:
            raise UsageError(
                f"{user} runs several images in a call, and the model mixes the rows of a call",
                "use saliency, integrated-gradients or occlusion",
            )
