"""xplain: explain image classifiers and evaluate the explanations.

    xplain.explain("efficientnet-lite0", "cat.jpg", "ig").save("cat.png")
    print(xplain.evaluate("efficientnet-lite0", "photos", ["ig", "neflag"], ["insertion", "deletion"]))

Or step by step, on tensors:

    clf = xplain.load_classifier("efficientnet-lite0")
    x = xplain.read_image("cat.jpg", preprocessing=clf.preprocessing)[None]
    att = xplain.attribute(clf, x, "agi")
    score = xplain.measure(clf, x, att.values, "deletion", target=att.target)

Public names are imported on first use, so ``import xplain`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Attribution",
    "Classifier",
    "Evaluation",
    "Explanation",
    "Explanations",
    "Score",
    "XplainError",
    "attribute",
    "evaluate",
    "explain",
    "load_classifier",
    "measure",
    "methods",
    "metrics",
    "parse_methods",
    "read_image",
    "similarity",
]

if TYPE_CHECKING:
    from xplain.core.errors import XplainError
    from xplain.core.reference import list_methods as methods
    from xplain.core.reference import list_metrics as metrics
    from xplain.core.sweeps import parse_methods
    from xplain.core.types import Attribution, Score
    from xplain.data.images import read_image
    from xplain.models import Classifier, load_classifier, similarity
    from xplain.pipelines.attribution import attribute
    from xplain.pipelines.evaluate_images import evaluate
    from xplain.pipelines.explain_images import explain
    from xplain.pipelines.measurement import measure
    from xplain.reports.evaluation import Evaluation
    from xplain.reports.explanation import Explanation, Explanations
else:  # hidden from type checkers, which would otherwise accept any name

    def __getattr__(name: str) -> Any:
        if name in _CALLABLE_PACKAGES:
            return import_module(f"xplain.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module 'xplain' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


_CALLABLE_PACKAGES = ("methods", "metrics")  # xplain.methods() calls the package itself
_MODULES = {
    "Attribution": "xplain.core.types",
    "Classifier": "xplain.models",
    "Evaluation": "xplain.reports.evaluation",
    "Explanation": "xplain.reports.explanation",
    "Explanations": "xplain.reports.explanation",
    "Score": "xplain.core.types",
    "XplainError": "xplain.core.errors",
    "attribute": "xplain.pipelines.attribution",
    "evaluate": "xplain.pipelines.evaluate_images",
    "explain": "xplain.pipelines.explain_images",
    "load_classifier": "xplain.models",
    "measure": "xplain.pipelines.measurement",
    "parse_methods": "xplain.core.sweeps",
    "read_image": "xplain.data.images",
    "similarity": "xplain.models",
}


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
