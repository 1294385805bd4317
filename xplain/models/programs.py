"""Programs as models: TorchScript (``script:FILE``) and exported programs (``export:FILE``).

Such a file is code, which runs in torch's interpreter: it is loaded only where it is named as the model, as a ``python:`` factory is, and
never as weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, device_error, first_line
from xplain.models.classifier import Classifier


class Program(nn.Module):
    """A loaded program. It stays in the mode in which it was saved."""

    def __init__(self, inner: nn.Module, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.inner = inner
        if size is not None:
            self.size = size

    def forward(self, x: Tensor) -> object:
        """What the program returns."""
        return self.inner(x)

    def train(self, mode: bool = True) -> Program:
        """A scripted program is switched; an exported one has no modes."""
        self.training = mode
        if isinstance(self.inner, torch.jit.ScriptModule):
            self.inner.train(mode)
        return self


def load_program(name: str) -> nn.Module:
    """The program that ``script:FILE`` or ``export:FILE`` names. Raises InputError when it cannot be read."""
    kind, _, file = name.partition(":")
    if not Path(file).is_file():
        raise InputError(f"no program {file!r}", "check --model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated; the files are there
            if kind == "script":
                return Program(torch.jit.load(file, map_location="cpu"), None)
            exported = torch.export.load(file)
    except Exception as error:  # damaged files raise many kinds
        hint = f"give a file that fits {kind}:"
        raise InputError(f"cannot load the program {file!r}: {first_line(error)}", hint) from None
    shapes = [each.shape for each in (exported.example_inputs or ((),))[0] if isinstance(each, Tensor)]
    size = (int(shapes[0][-2]), int(shapes[0][-1])) if shapes and len(shapes[0]) == 4 else None
    return Program(exported.module(), size)


def check_program(classifier: Classifier) -> None:
    """Set the channels; raise InputError unless batches of one and of three images go through, and can be differentiated."""
    noise = torch.rand((3, 3, *classifier.size), generator=torch.Generator().manual_seed(0), dtype=classifier.dtype)
    noise = noise.to(classifier.device)
    for classifier.channels in (3, 1):
        failures = [_try(classifier, noise[:rows]) for rows in (1, 2, 3)]
        if not all(failures):
            break
    else:
        classifier.channels = 3
        return  # it is the size of the images, which is refused like any model's
    if any(failures):
        hint = "export it with a dynamic number of rows: dynamic_shapes=({0: torch.export.Dim('rows')},)"
        raise InputError(f"the program takes one number of images only ({next(filter(None, failures))})", hint)
    x = noise.requires_grad_()
    with torch.enable_grad():
        logits = classifier(x)
    weights = torch.linspace(1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
    if not logits.requires_grad or torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)[0] is None:
        raise InputError("the program cannot be differentiated", "save it without no_grad, and not quantised")


@torch.no_grad()
def _try(classifier: Classifier, rows: Tensor) -> str:
    """Why the rows do not go through, or nothing."""
    try:
        found = len(classifier(rows))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        if device_error(error):
            raise
        return first_line(error)
    return "" if found == len(rows) else f"{len(rows)} images gave {found} rows of logits"
