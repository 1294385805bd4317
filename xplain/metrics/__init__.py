"""The evaluation metrics.

A new metric needs one line here: its module, and the names that the module registers. The order is that of ``xplain list metrics``.
"""

import sys
from types import ModuleType

from xplain.core.reference import InfoList, MetricInfo, list_metrics
from xplain.core.registry import METRICS

METRICS.declare("xplain.metrics.perturbation", "deletion", "insertion", "difference", "morf", "lerf")
METRICS.declare("xplain.metrics.normalised_curves", "normalised-insertion", "normalised-deletion")
METRICS.declare("xplain.metrics.completeness", "completeness-gap", "error-rate")
METRICS.declare("xplain.metrics.sensitivity_n", "sensitivity-n")
METRICS.declare("xplain.metrics.information_curves", "aic", "sic")
METRICS.declare("xplain.metrics.diffid", "diffid")
METRICS.declare("xplain.metrics.effective_complexity", "effective-complexity")
METRICS.declare("xplain.metrics.concentration", "sparseness", "complexity")
METRICS.declare("xplain.metrics.sds", "sds")
METRICS.declare("xplain.metrics.saco", "saco")
METRICS.declare("xplain.metrics.average_drop", "average-drop", "average-gain", "increase-in-confidence")
METRICS.declare("xplain.metrics.road", "road", "road-morf", "road-lerf")
METRICS.declare("xplain.metrics.infidelity", "infidelity")
METRICS.declare("xplain.metrics.max_sensitivity", "max-sensitivity")
METRICS.declare("xplain.metrics.relative_stability", "ris", "ros")
METRICS.declare("xplain.metrics.stability", "stability-draws", "stability-rounding", "stability-noise")
METRICS.declare("xplain.metrics.parameter_randomisation", "parameter-randomisation")
METRICS.declare("xplain.metrics.smprt", "smprt")
METRICS.declare("xplain.metrics.emprt", "emprt")
METRICS.declare("xplain.metrics.label_randomisation", "label-randomisation")
METRICS.declare("xplain.metrics.relevance_mass", "relevance-mass", "concentration")
METRICS.declare("xplain.metrics.relevance_rank", "relevance-rank", "top-k-intersection")
METRICS.declare("xplain.metrics.relevance_auroc", "relevance-auroc", "relevance-ap")
METRICS.declare("xplain.metrics.ehr", "ehr")
METRICS.declare("xplain.metrics.pointing_game", "pointing-game")
METRICS.declare("xplain.metrics.roar", "roar")
METRICS.declare("xplain.metrics.idsds", "idsds")


class CallablePackage(ModuleType):
    """The type of this package, which ``xplain.metrics()`` calls."""

    def __call__(self) -> InfoList[MetricInfo]:
        """Return all metrics, with what they compute and their parameters."""
        return list_metrics()


sys.modules[__name__].__class__ = CallablePackage
