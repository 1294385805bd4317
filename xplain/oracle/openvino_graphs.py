"""Convert a prepared classifier to OpenVINO graphs: the logits of one image, or its logits and a gradient."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xplain.models import Classifier
from xplain.models.wrappers import copy_module
from xplain.oracle.linear_scores import Transform
from xplain.oracle.openvino_gradients import gradient_decompositions

TELEMETRY = "openvino_telemetry"  # sends usage data on import and conversion, unless it is missing


def load_openvino() -> Any:
    """Import and return OpenVINO without its telemetry. Raises ImportError if it is not installed."""
    with _without_telemetry():
        import openvino
        import openvino.tools.ovc

    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package that sends usage data, unless the program has imported it already."""
    if TELEMETRY in sys.modules:
        yield
        return
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]


def convert_forward(model: Classifier, image: Tensor) -> Any:
    """Return the OpenVINO graph from an image (1, C, H, W) to logits (1, classes). Raises any error of a network that does not convert."""
    return _convert(model, (image,))


def convert_gradient(model: Classifier, image: Tensor, transforms: Sequence[Transform], classes: int) -> Any:
    """Return the OpenVINO graph from an image (1, C, H, W) and weights (1, T, classes) to logits and a gradient (1, C, H, W).

    transforms: T functions of logits (1, classes). The gradient is that of the sum of their values, multiplied by the weights.
    Raises any error of a network that does not convert.
    """
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    plain = _to_contiguous(model)

    def differentiate(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), _KnownOperations():
            logits = plain(x)
            values = torch.stack([transform(logits) for transform in transforms], dim=1)
            (gradient,) = torch.autograd.grad((values * weights).sum(), x)
        return logits.detach(), gradient

    weights = torch.ones(1, len(transforms), classes)
    with sdpa_kernel(SDPBackend.MATH):
        graph = make_fx(differentiate, decomposition_table=gradient_decompositions())(image, weights)
    return _convert(_Module(graph), (image, weights))


def _to_contiguous(model: Classifier) -> Classifier:
    """Return a copy whose weights and activations are contiguous: channels last adds operations that OpenVINO does not know."""
    copied = copy_module(model).to(memory_format=torch.contiguous_format)
    copied.memory_format = torch.contiguous_format
    return copied


class _Module(nn.Module):
    """A module that calls a traced graph, as ``torch.export`` requires."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.traced = graph

    def forward(self, image: Tensor, weights: Tensor) -> Any:
        """Return the outputs of the graph."""
        return self.traced(image, weights)


class _KnownOperations(TorchFunctionMode):
    """Compute what OpenVINO does not know by operations that it knows.

    ``x += y`` and its like become out of place; a check of the values finds networks that use the other name of x later.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = REPLACEMENTS.get(func, func)
        return replacement(*args, **(kwargs or {}))


def _average_contiguous(x: Tensor, output_size: Any) -> Tensor:
    """Return an adaptive average-pooling. That of another memory layout sets the strides of its result."""
    return nn.functional.adaptive_avg_pool2d(x.contiguous(), output_size)


REPLACEMENTS: dict[Any, Any] = {
    nn.functional.adaptive_avg_pool2d: _average_contiguous,
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}


def _convert(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Export a module with these inputs of one row, and return it as an OpenVINO graph with fixed shapes."""
    openvino = load_openvino()
    with warnings.catch_warnings(), torch.no_grad(), _without_telemetry():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, inputs)
        graph = openvino.convert_model(program)
    graph.reshape({index: list(tensor.shape) for index, tensor in enumerate(inputs)})
    return graph
