"""Image classifiers: load one by name, or wrap a module."""

from xplain.models.classifier import Classifier
from xplain.models.load import load_classifier

__all__ = ["Classifier", "load_classifier"]
