"""Attribute a batch of images for explain and compare, with the stability of the maps."""

from __future__ import annotations

from collections.abc import Callable

from xplain.core.options import ComputeOptions, RenderOptions
from xplain.core.stability import Look, StabilityLevel
from xplain.core.types import Attribution
from xplain.models import Classifier
from xplain.pipelines.batches import TargetedBatch
from xplain.pipelines.contrasts import CONTRASTS
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.stability import with_stability


def attribute_batch(
    method: MethodRun,
    classifier: Classifier,
    batch: TargetedBatch,
    compute: ComputeOptions,
    stability: StabilityLevel,
    render: RenderOptions,
    on_rows: Callable[[int], None],
) -> Attribution:
    """Return the attributions of a batch. The stability is that of the maps as ``render`` draws them.

    on_rows: receives the number of rows of each forward pass.
    Raises InputError or UsageError if the method does not support the model or the images.
    """
    result = method.attribute(
        classifier,
        batch.images,
        batch.targets,
        compute,
        contrasts=batch.contrasts,
        logits=batch.logits,
        on_rows=on_rows,
        drawn_for=batch.cpu_images,
        shared=batch.shared,
    )
    return with_stability(
        method,
        classifier,
        batch.images,
        result,
        compute,
        stability,
        logits=batch.logits,
        contrasts=result.details.get(CONTRASTS, batch.contrasts),
        content=batch.cpu_images,
        on_rows=on_rows,
        look=Look.of(render.reduce, render.sign),
    )
