"""Classifiers by name: ``load_classifier`` and what it gives back."""

from xplain.models.classifier import Classifier
from xplain.models.load import load_classifier

__all__ = ["Classifier", "load_classifier"]
