"""Run a method again for metrics: on other images, with other settings, or on another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from xplain.core.options import ComputeOptions
from xplain.core.rng import seed_of
from xplain.core.types import Cost
from xplain.metrics.inputs import SAME_SETTINGS, Explain, Repeat
from xplain.models import Classifier
from xplain.oracle import Oracle
from xplain.pipelines.contrasts import NearestContrasts

if TYPE_CHECKING:
    from xplain.pipelines.method_run import MethodRun


def make_explainer(
    method: MethodRun,
    classifier: Classifier,
    content: Tensor,
    compute: ComputeOptions,
    oracle: Oracle | None,
    *,
    contrasts: Tensor | None,
    on_rows: Callable[[int], None] | None,
) -> Explain:
    """Return the function of ``MethodRun.explainer``."""
    default = classifier
    nearest = NearestContrasts(method.score, classifier, content, compute)

    def explain(
        images: Tensor,
        y: Tensor,
        classifier: Classifier | None = None,
        image: Tensor | None = None,
        repeat: Repeat = SAME_SETTINGS,
    ) -> Tensor:
        drawn_for = content if image is None else content[image.to(content.device)]
        if contrasts is None:
            chosen, cost = nearest.find(y, image)
        else:
            chosen, cost = contrasts if image is None else contrasts[image], Cost()
        rerun = without_folding(method) if repeat.plain else method
        if image is not None and method.baselines:
            chosen_baselines = {
                name: read if len(read) == 1 else read[image] for name, read in method.baselines.items()
            }
            rerun = replace(rerun, baselines=chosen_baselines)
        result = rerun.attribute(
            classifier or default,
            images,
            y,
            change_compute(compute, repeat),
            contrasts=chosen,
            drawn_for=drawn_for,
            flag_maps=False,
            on_rows=on_rows,
        )
        if oracle is not None:
            oracle.cost = oracle.cost + cost + result.cost
        return result.values

    return explain


def without_folding(method: MethodRun) -> MethodRun:
    """Return the method, and the one that it runs, on models without folded batch norms."""
    inner = None if method.inner is None else without_folding(method.inner)
    return replace(method, spec=replace(method.spec, plain=True), inner=inner)


def change_compute(compute: ComputeOptions, repeat: Repeat) -> ComputeOptions:
    """Return the options with the seed, precision and batch size of a repeat."""
    if repeat.draw is not None:
        compute = replace(compute, seed=seed_of(compute.seed, "stability", repeat.draw))
    if repeat.precision is not None:
        compute = replace(compute, precision=repeat.precision)
    return replace(compute, batch_size=1) if repeat.plain else compute
