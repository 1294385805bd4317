"""Find a layer by watching one forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor, nn

from xplain.errors import InputError

# They resample or pass on what another layer found; the map of interest is the one that goes into them.
PASSING = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)


def last_spatial_layer(model: nn.Module, run: Callable[[], object]) -> str:
    """The name of the last module to finish whose output is (B, K, h, w) with h, w > 1, made by no pooling layer.

    A container that hands on its last child's output counts as that output's layer, so ResNet gives ``layer4`` and VGG
    the last ReLU before the last pooling. Raises InputError when no module is spatial.
    """
    finished: list[tuple[str, Tensor, bool, bool]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
                made = not inputs or output is not inputs[0]  # an identity hands on another layer's output
                passing = isinstance(module, PASSING)
                finished.append((name, output, passing, passing and made))

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(note(name)).remove)
        run()
    passed = {id(output) for _, output, _, resampled in finished if resampled}
    layers = [name for name, output, passing, _ in finished if not passing and id(output) not in passed]
    if not layers:
        raise InputError("no layer of the model has an output with height and width", "name one with --layer")
    return layers[-1]
