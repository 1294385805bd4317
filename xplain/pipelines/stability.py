"""Stability of attributions: repeat the method within a budget of rows, and compare the maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from xplain.core.config import ComputeOptions
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.core.stability import FULL_HINT, SourceStability, Stability, StabilityLevel
from xplain.core.types import Attribution
from xplain.metrics.inputs import MetricInput
from xplain.metrics.repeats import repeat_draws, repeat_noise, repeat_rounding, without_draws
from xplain.metrics.split_half import describe_halves, estimate_draws
from xplain.models import Classifier
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import make_metric_oracle

LEVELS: tuple[StabilityLevel, ...] = ("off", "quick", "full")
REPEATS = 4  # of draws and of noise, at most
RADIUS = 1 / 255
MIN_BUDGET = 64  # rows per image


class Plan:
    """The repeats of a method with ``rows`` forward rows per image. draws, noise: numbers of repeats. precise: float64 or fp32 too."""

    def __init__(self, level: StabilityLevel, rows: int, *, has_draws: bool) -> None:
        self.draws = self.noise = 0
        self.rounding = self.precise = False
        self.spent = 0
        self.budget = max(MIN_BUDGET, rows + 1) if level == "quick" else 10 * rows + REPEATS + 1
        self._rows = rows
        self._has_draws = has_draws
        self._fill()

    def _fill(self) -> None:
        """Spend the budget in a fixed order: noise, draws and rounding once each, then more noise, float64 and more draws."""
        self._add_noise()
        if not self._has_draws:
            self.draws = REPEATS
        self._add_draws()
        self.rounding = self._afford(self._rows)
        while self.noise < REPEATS and self._add_noise():
            pass
        self.precise = self.rounding and self._afford(self._rows)
        while self.draws < REPEATS and self._add_draws():
            pass

    def _add_noise(self) -> bool:
        self.noise += (affordable := self._afford(self._rows + 1))
        return affordable

    def _add_draws(self) -> bool:
        if self.draws == REPEATS or not self._afford(self._rows):
            return False
        self.draws += 1
        return True

    def _afford(self, rows: int) -> bool:
        """Spend the rows and return True if the budget allows it."""
        if self.spent + rows > self.budget:
            return False
        self.spent += rows
        return True


def check_level(level: object) -> StabilityLevel:
    """Return the level. Raises UsageError unless it is off, quick or full."""
    for known in LEVELS:
        if level == known:
            return known
    raise UsageError(f"unknown value {level!r} for stability", f"choose from {', '.join(LEVELS)}")


def count_stability_rows(level: StabilityLevel, method: MethodRun) -> int:
    """Return the maximum number of forward rows per image that the repeats take."""
    if level == "off":
        return 0
    has_draws = "rng" in method.spec.needs
    return Plan(level, method.rows_per_image, has_draws=has_draws).spent


def with_stability(
    method: MethodRun,
    classifier: Classifier,
    images: Tensor,
    attribution: Attribution,
    compute: ComputeOptions,
    level: StabilityLevel,
    *,
    logits: Tensor,
    contrasts: Tensor | None = None,
    content: Tensor | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Attribution:
    """Repeat a method on images (B, C, H, W), and return its attribution with the stability of the maps; unchanged if ``level`` is off.

    ``full`` runs four repeats with other draws, two in other arithmetic and four on noisy images. ``quick`` runs as many as fit into
    max(64, c + 1) rows for a method of c rows. Where no draws fit, they are estimated from two halves of the samples, for methods that
    return them.
    logits: (B, classes) of the images. content: the images on the CPU, if they are there.
    contrasts, on_rows: as in ``MethodRun.attribute``.
    """
    if level == "off" or not len(images):
        return attribution
    assert attribution.target is not None
    counted: list[int] = []

    def count_rows(rows: int) -> None:
        counted.append(rows)
        if on_rows is not None:
            on_rows(rows)

    has_draws = attribution.has_draws is not False
    plan = Plan(level, method.rows_per_image, has_draws=has_draws)
    oracle = make_metric_oracle(classifier, compute, count_rows)
    values = attribution.values.to(images.dtype)
    inputs = MetricInput(oracle, images, values, attribution.target)
    content = images if content is None else content
    explain = method.explainer(classifier, content, compute, contrasts=contrasts, on_rows=count_rows)
    sources: dict[str, SourceStability | str] = {"draws": FULL_HINT, "rounding": FULL_HINT, "noise": FULL_HINT}
    if not has_draws:
        sources["draws"] = without_draws(values, plan.draws)
    elif plan.draws:
        sources["draws"] = _add_halves(repeat_draws(inputs, explain, plan.draws), attribution, method)
    elif attribution.parts is not None:
        sources["draws"] = estimate_draws(values, attribution.parts, _count_samples(method))
    if plan.rounding:
        sources["rounding"] = repeat_rounding(inputs, explain, precise=plan.precise)
    if plan.noise:
        rng = Streams.of(content, compute.seed, "stability-noise", images.device)
        sources["noise"] = repeat_noise(inputs, explain, rng, radius=RADIUS, count=plan.noise, logits=logits)
    return replace(attribution, stability=Stability(level, sources, sum(counted) / len(images)))


def _add_halves(result: SourceStability, attribution: Attribution, method: MethodRun) -> SourceStability:
    """Return the result with the reliability of the halves of the samples, if the method has them."""
    if attribution.parts is None:
        return result
    return replace(result, image_facts=describe_halves(attribution.parts, _count_samples(method)))


def _count_samples(method: MethodRun) -> int | None:
    """Return the number of independent samples that the method adds up; None if it differs between images or is unknown."""
    samples = method.settings.get("samples", method.settings.get("masks"))
    return samples if isinstance(samples, int) else None
