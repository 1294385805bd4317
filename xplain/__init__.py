"""xplain: explain image classifications, and measure how far the explanations can be trusted.

    clf = xplain.load_classifier("efficientnet-lite0")
    x = xplain.read_image("cat.jpg", preprocessing=clf.preprocessing)[None]
    att = xplain.attribute(clf, x, "agi")
    score = xplain.measure(clf, x, att.values, "deletion", target=att.target)

The public names below are loaded on first use, so that ``import xplain`` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Attribution", "Classifier", "Score", "XplainError", "attribute", "load_classifier", "measure", "read_image"]

if TYPE_CHECKING:
    from xplain.engine import attribute, measure
    from xplain.errors import XplainError
    from xplain.images import read_image
    from xplain.models import Classifier, load_classifier
    from xplain.types import Attribution, Score
else:  # a type checker knows the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'xplain' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


_HOMES = {
    "Attribution": "xplain.types",
    "Classifier": "xplain.models",
    "Score": "xplain.types",
    "XplainError": "xplain.errors",
    "attribute": "xplain.engine",
    "load_classifier": "xplain.models",
    "measure": "xplain.engine",
    "read_image": "xplain.images",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
