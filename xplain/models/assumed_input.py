"""What is assumed about the input of a user's network that states neither its normalization nor its size."""

from __future__ import annotations

from torch import nn

from xplain.core.errors import emit_note
from xplain.models.classifier import Classifier

NORMALIZATION_NOTE = (
    "the model has no mean and std, so it receives pixels in [0, 1]; if it was trained on normalized images, set the attributes mean and "
    "std of the module, or load it with --mean M,M,M and --std S,S,S"
)
SIZE_NOTE = (
    "the model states no input size, so images are resized and cropped to {} x {} pixels; set the attribute size of the module, or load it "
    "with --image-size N, if it expects another size"
)


def normalizes_itself(network: nn.Module) -> bool:
    """Return whether a module inside the network seems to normalize images: by its class name, or by its mean and std."""
    return any(
        "normaliz" in type(module).__name__.lower() or (hasattr(module, "mean") and hasattr(module, "std"))
        for module in network.modules()
    )


def note_normalization(classifier: Classifier) -> None:
    """Emit a note if the normalization of the images is assumed."""
    if "normalization" in classifier.assumptions:
        emit_note(NORMALIZATION_NOTE)


def note_size(classifier: Classifier) -> None:
    """Emit a note if the size to which image files are resized is assumed."""
    if "size" in classifier.assumptions:
        emit_note(SIZE_NOTE.format(*classifier.size))
