"""Count the model rows that a command will compute."""

from __future__ import annotations

from collections.abc import Sequence

from xplain.models import Classifier
from xplain.oracle.engine_choice import PlannedRows
from xplain.pipelines.external_maps import ExternalMaps
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricRun


def plan_rows(
    classifier: Classifier, sources: Sequence[MethodRun | ExternalMaps], metrics: Sequence[MetricRun]
) -> PlannedRows:
    """Return the maximum numbers of rows per image of all methods and metrics."""
    side = max(classifier.size)
    measured = sum(metric.spec.forwards(side=side, **metric.settings) for metric in metrics)
    rows = PlannedRows(measured * len(sources), 0)
    for source in sources:
        if isinstance(source, MethodRun):
            rows += source.planned_rows
    return rows
