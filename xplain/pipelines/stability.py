"""Stability of attributions: repeat the method within a budget of rows, and compare the maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.options import ComputeOptions
from xplain.core.rng import Streams
from xplain.core.stability import FULL_HINT, SIGNED_SUM, Look, SourceStability, Stability, StabilityLevel
from xplain.core.types import Attribution
from xplain.metrics.inputs import MetricInput
from xplain.metrics.repeats import find_highest, repeat_draws, repeat_noise, repeat_rounding, without_draws
from xplain.metrics.split_half import describe_halves, estimate_draws
from xplain.models import Classifier
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import make_metric_oracle

LEVELS: tuple[StabilityLevel, ...] = ("off", "quick", "full")
REPEATS = 4  # of draws and of noise, at most
RADIUS = 1 / 255


class Plan:
    """The repeats of a method of ``rows`` forward rows per image. draws, noise: numbers of repeats. precise: float64 or fp32 too.

    full: four repeats with other draws, two in other arithmetic and four on noisy images.
    quick: as many as fit into rows + 1, those of the explanation and of its prediction. The first one has other draws, if the method
    draws random numbers and no halves of its samples estimate their effect, and else noise.
    """

    def __init__(self, level: StabilityLevel, rows: int, *, has_draws: bool, has_halves: bool = False) -> None:
        self.draws = self.noise = 0
        self.rounding = self.precise = False
        self.spent = 0
        self.budget = rows + 1 if level == "quick" else 10 * rows + REPEATS
        self._rows = rows
        if not has_draws:
            self.draws = REPEATS
        elif level == "quick" and not has_halves:
            self._add_draws()
        self._fill(adds_draws=level == "full" or not has_halves)

    def _fill(self, *, adds_draws: bool) -> None:
        """Spend the budget in a fixed order: noise, draws and rounding once each, then more noise, float64 and more draws."""
        self._add_noise()
        if adds_draws and self.draws == 0:
            self._add_draws()
        self.rounding = self._afford(self._rows)
        while self.noise < REPEATS and self._add_noise():
            pass
        self.precise = self.rounding and self._afford(self._rows)
        while adds_draws and self.draws < REPEATS and self._add_draws():
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
    plans = [Plan(level, method.rows_per_image, has_draws=True, has_halves=has_halves) for has_halves in (True, False)]
    return max(plan.spent for plan in plans)


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
    look: Look = SIGNED_SUM,
) -> Attribution:
    """Repeat a method on images (B, C, H, W), and return its attribution with the stability of the maps; unchanged if ``level`` is off.

    The repeats are those of ``Plan``. Without repeats of the draws, their effect is estimated from two halves of the samples, for methods
    that return them.
    logits: (B, classes) of the images. content: the images on the CPU, if they are there. look: what of the maps is compared.
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
    parts = attribution.parts if look.is_linear else None
    plan = Plan(level, method.rows_per_image, has_draws=has_draws, has_halves=parts is not None)
    oracle = make_metric_oracle(classifier, compute, count_rows)
    values = attribution.values.to(images.dtype)
    inputs = MetricInput(oracle, images, values, attribution.target)
    content = images if content is None else content
    explain = method.explainer(classifier, content, compute, contrasts=contrasts, on_rows=count_rows)
    sources: dict[str, SourceStability | str] = {"draws": FULL_HINT, "rounding": FULL_HINT, "noise": FULL_HINT}
    if not has_draws:
        sources["draws"] = without_draws(values, plan.draws, look)
    elif plan.draws:
        sources["draws"] = _add_halves(repeat_draws(inputs, explain, plan.draws, look), parts, method)
    elif parts is not None:
        sources["draws"] = estimate_draws(values, parts, _count_samples(method), look)
    if plan.rounding:
        sources["rounding"] = repeat_rounding(inputs, explain, precise=plan.precise, look=look)
    if plan.noise:
        rng = Streams.of(content, compute.seed, "stability-noise", images.device)
        sources["noise"] = repeat_noise(inputs, explain, rng, radius=RADIUS, count=plan.noise, logits=logits, look=look)
    highest = find_highest(look.apply(values))
    stability = Stability(level, sources, sum(counted) / len(images), look, highest)
    return replace(attribution, stability=stability)


def _add_halves(result: SourceStability, parts: Tensor | None, method: MethodRun) -> SourceStability:
    """Return the result with the reliability of the halves of the samples, if there are any."""
    if parts is None:
        return result
    return replace(result, image_facts=describe_halves(parts, _count_samples(method)))


def _count_samples(method: MethodRun) -> int | None:
    """Return the number of independent samples that the method adds up; None if it differs between images or is unknown."""
    samples = method.settings.get("samples", method.settings.get("masks"))
    return samples if isinstance(samples, int) else None
