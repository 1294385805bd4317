"""Load TorchScript programs (``script:FILE``) and torch.export programs (``export:FILE``) as models.

Such files contain code that PyTorch executes. They are therefore loaded only as models, like ``python:`` factories, and never as
weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, device_error, first_line
from xplain.models.channels import SHAPE_ERRORS, list_candidates, make_noise
from xplain.models.classifier import Classifier
from xplain.models.logits import find_logits


class Program(nn.Module):
    """A loaded program. An exported program keeps the mode in which it was saved.

    size: input height and width in pixels, if the file contains it. channels: number of input channels, likewise.
    """

    def __init__(self, inner: nn.Module, size: tuple[int, int] | None = None, channels: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.channels = channels
        if size is not None:
            self.size = size

    def forward(self, x: Tensor) -> object:
        """Return the program's output."""
        return self.inner(x)

    def train(self, mode: bool = True) -> Program:
        """Set the mode of a TorchScript program; an exported program has none."""
        self.training = mode
        if isinstance(self.inner, torch.jit.ScriptModule):
            self.inner.train(mode)
        return self


def load_program(name: str) -> Program:
    """Load the program called ``script:FILE`` or ``export:FILE``. Raises InputError if the file cannot be read."""
    kind, _, file = name.partition(":")
    if not Path(file).is_file():
        raise InputError(f"no such file: {file!r}", "check --model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but such files exist
            return _load_script(file) if kind == "script" else _load_export(file)
    except Exception as error:  # corrupted files raise many types
        raise InputError(
            f"cannot load the exported program {file!r}: {first_line(error)}",
            f"check that the prefix {kind}: matches the file",
        ) from None


def _load_script(file: str) -> Program:
    return Program(torch.jit.load(file, map_location="cpu"))


def _load_export(file: str) -> Program:
    exported = torch.export.load(file)
    inputs = exported.example_inputs[0] if exported.example_inputs else ()
    shapes = [value.shape for value in inputs if isinstance(value, Tensor)]
    size = channels = None
    if shapes and len(shapes[0]) == 4:
        size, channels = (int(shapes[0][-2]), int(shapes[0][-1])), int(shapes[0][1])
    return Program(exported.module(), size, channels)


def check_program(classifier: Classifier) -> None:
    """Set ``channels`` and check the program. Raise InputError if it has a fixed batch size or does not support gradients.

    If the program rejects every batch, return without an error, because ``inspect_model`` reports the image size.
    """
    for channels in list_candidates(classifier, {}):
        classifier.set_channels(channels)
        noise = make_noise(classifier, 3)
        failures = [_try_batch(classifier, noise[:rows]) for rows in (1, 2, 3)]
        if not all(failures):
            break
    else:
        classifier.set_channels(3)
        return
    if any(failures):
        reason = next(filter(None, failures))
        raise InputError(
            f"the exported program has a fixed batch size ({reason})",
            "export it with a dynamic batch dimension: dynamic_shapes=({0: torch.export.Dim('batch')},)",
        )
    if not _is_differentiable(classifier, noise):
        raise InputError(
            "the exported program does not support gradients", "export it without torch.no_grad and quantization"
        )


@torch.no_grad()
def _try_batch(classifier: Classifier, images: Tensor) -> str:
    """Return why the images cannot be classified, or ``""`` if they can."""
    try:
        find_logits(classifier.run_network(images), len(images), None, classifier.reader.entry or "")
    except SHAPE_ERRORS as error:
        if device_error(error):
            raise
        return first_line(error)
    except InputError as error:
        return error.message
    return ""


def _is_differentiable(classifier: Classifier, images: Tensor) -> bool:
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits, _ = find_logits(classifier.run_network(images), len(images), None, classifier.reader.entry or "")
    if not logits.requires_grad:
        return False
    weights = torch.linspace(1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), images, allow_unused=True)
    return gradient is not None
