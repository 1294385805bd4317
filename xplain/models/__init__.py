"""Image classifiers: load one by name, or wrap a module."""

from xplain.models.classifier import Classifier
from xplain.models.load import load_classifier
from xplain.models.scalar_outputs import ScalarFunction, similarity

__all__ = ["Classifier", "ScalarFunction", "load_classifier", "similarity"]
