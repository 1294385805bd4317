"""The activation at the end of a network: find it, and run the network without it to get the logits.

A torch function mode sees the calls of softmax, log_softmax, sigmoid and logsigmoid, as functions, tensor methods and modules.
The last call is skipped by returning its input: the logits are then exact, and propagation rules do not have to handle the
activation. In code that does not dispatch torch functions, such as TorchScript, the activation is inverted instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Function = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"]

FUNCTIONS: dict[str, Function] = {
    "softmax": "softmax",
    "softmin": "softmax",
    "_softmax": "softmax",
    "special_softmax": "softmax",
    "log_softmax": "log_softmax",
    "_log_softmax": "log_softmax",
    "special_log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "special_expit": "sigmoid",
    "expit": "sigmoid",
    "log_sigmoid": "log_sigmoid",
    "logsigmoid": "log_sigmoid",
}


@dataclass(frozen=True)
class FinalCall:
    """A call of an activation function that ends the forward pass.

    function: the activation. number: its position among the ``total`` calls of activation functions in a forward pass.
    is_selected: the network returns one probability of the softmax, which is replaced by the logit of that probability.
    """

    function: Function
    number: int
    total: int
    is_selected: bool = False


@dataclass(frozen=True, eq=False)
class ActivationCall:
    """A call in a forward pass: its function, number and output."""

    function: Function
    number: int
    output: Tensor


class ActivationMode(TorchFunctionMode):
    """Number the calls of activation functions, and skip one of them.

    skipped: the call that is not run. keep: whether to remember the outputs of the calls.
    """

    def __init__(self, skipped: FinalCall | None = None, *, keep: bool = False) -> None:
        super().__init__()
        self.skipped = skipped
        self.keep = keep
        self.calls: list[ActivationCall] = []
        self.total = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]
        function = FUNCTIONS.get(name)
        if function is None:
            return func(*args, **kwargs)
        number = self.total
        self.total += 1
        if self.skipped is not None and number == self.skipped.number:
            return _replace_call(self.skipped, name, args, kwargs)
        output = func(*args, **kwargs)
        if self.keep and isinstance(output, Tensor):
            self.calls.append(ActivationCall(function, number, output))
        return output


def _replace_call(call: FinalCall, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the tensor that replaces the output of a skipped call: its input, or the logit of each probability if one is selected."""
    logits: Tensor = args[0] if args else kwargs["input" if "input" in kwargs else "self"]
    if kwargs.get("dtype") is not None:
        logits = logits.to(kwargs["dtype"])
    if name == "softmin":
        logits = -logits
    return _one_against_rest(logits) if call.is_selected else logits


def _one_against_rest(logits: Tensor) -> Tensor:
    """Return z_k - logsumexp of the other logits, for logits (B, classes): the logit of each softmax probability."""
    if logits.shape[1] == 2:
        return logits - logits.flip(1)
    others = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    rivals = logits[:, None, :].masked_fill(others, -torch.inf)
    return logits - rivals.logsumexp(dim=2)


def compute_activation(function: Function, logits: Tensor) -> Tensor:
    """Return an activation of logits (B, classes)."""
    match function:
        case "softmax":
            return logits.softmax(dim=1)
        case "log_softmax":
            return logits.log_softmax(dim=1)
        case "sigmoid":
            return logits.sigmoid()
        case "log_sigmoid":
            return F.logsigmoid(logits)


def invert_activation(function: Function, output: Tensor) -> Tensor:
    """Return logits with the given activation. Probabilities that are rounded to 0 or 1 give finite logits of slope 0."""
    limits = torch.finfo(output.dtype)
    match function:
        case "softmax":
            return output.clamp(min=limits.tiny).log()
        case "log_softmax":
            return output
        case "sigmoid":
            inner = output.clamp(limits.tiny, 1 - limits.eps / 2)
            return inner.log() - torch.log1p(-inner)
        case "log_sigmoid":
            inner = output.clamp(max=-limits.tiny)
            return inner - torch.log(-torch.expm1(inner))
