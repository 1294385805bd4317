"""Check that a model offers what a method or metric needs: calls, layers or gradients."""

from __future__ import annotations

from xplain.core.errors import UsageError
from xplain.core.registry import Access
from xplain.core.types import Precision
from xplain.models import Classifier

HINT = "use rise, occlusion, lime or kernel-shap, and metrics that need no gradient"


def check_access(classifier: Classifier, access: Access, name: str) -> None:
    """Raise UsageError if the model does not offer what a method or metric, called ``name``, needs."""
    if access == "gradients" and classifier.is_black_box:
        raise UsageError(f"{name} requires gradients, which {classifier.name} does not provide", HINT)
    if access == "gradients":
        classifier.checks.require_gradients(name)
    if access != "outputs" and classifier.is_black_box:
        raise UsageError(f"{name} requires the layers of a PyTorch model, which {classifier.name} does not have", HINT)


def check_precision(classifier: Classifier, precision: Precision) -> None:
    """Raise UsageError if the arithmetic of the model cannot be chosen, as for ONNX models and functions."""
    if precision != "fp32" and classifier.is_black_box:
        raise UsageError(
            f"the precision of {classifier.name} is fixed, because PyTorch does not run it", "use --precision fp32"
        )
