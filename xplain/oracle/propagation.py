"""Propagation rules: one forward of the model in which every operation may be given another backward pass.

A torch function mode sees each operation that depends on the image, whether a module, a function or an operator calls
it, in place or not, once or many times. A method says, for each kind of operation, what takes its place: an
expression with the same value whose ordinary gradient is the method's rule. An operation without a rule is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xplain.core.errors import UsageError
from xplain.core.types import ScoreKind

Kind = Literal["route", "sum", "shift", "scale", "linear", "norm", "rectifier", "activation", "max", "product"]
ANY_MODEL = "saliency, integrated-gradients and uniform-fullgrad fit any model"
FOLLOWED = "_xplain_followed"  # marks the tensors that a forward has followed from the image

_NAMES: dict[Kind, str] = {
    # entries are copied, moved, left out or padded with zeros
    "route": "view reshape flatten unflatten permute transpose movedim t squeeze unsqueeze contiguous clone expand "
    "expand_as view_as reshape_as type_as repeat tile roll flip __getitem__ select narrow index_select cat concat stack "
    "chunk split tensor_split unbind pad dropout dropout2d dropout3d alpha_dropout feature_alpha_dropout to float double "
    "pixel_shuffle pixel_unshuffle channel_shuffle",
    # weights that are not learnt, no bias
    "sum": "add sub mean sum avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d interpolate",
    "scale": "mul div true_divide neg",
    "linear": "conv1d conv2d conv3d conv_transpose2d linear matmul mm einsum",
    "norm": "batch_norm",
    "rectifier": "relu relu6",
    # functions of one number
    "activation": "hardtanh clamp clamp_min leaky_relu prelu elu selu celu silu mish gelu hardswish softplus sigmoid "
    "hardsigmoid tanh logsigmoid",
    "max": "max_pool2d adaptive_max_pool2d",
}
KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_OPERATORS = {"truediv": "div", "div": "div", "rsub": "rsub", "neg": "neg"}  # where dunder and function differ


@dataclass(eq=False)
class Call:
    """One operation of the forward.

    inputs: the tensors that depend on the image, in the order of the arguments. constants: the other tensors.
    module: the name of the module that runs it. input_rows: no operation has yet changed the number of rows.
    """

    name: str
    kind: Kind | None
    module: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    constants: list[Tensor]
    rows: int
    sums: dict[str, Tensor]

    def __call__(self, *inputs: Tensor, constants: Sequence[Tensor] | None = None, **options: Any) -> Any:
        """The operation on other inputs, with other constants and options."""
        new = iter(inputs or self.inputs)
        fixed = iter(self.constants if constants is None else constants)

        def rebuild(value: Any) -> Any:
            if isinstance(value, Tensor):
                return next(new if value.requires_grad else fixed)
            if isinstance(value, (list, tuple)) and any(True for _ in _tensors(value)):
                return type(value)(map(rebuild, value))
            return value

        args = rebuild(self.args)
        return self.function(*args, **{key: rebuild(value) for key, value in self.kwargs.items()} | options)

    @property
    def sees_all_rows(self) -> bool:
        """The first input still has every row that was handed to the model."""
        return len(self.inputs[0]) == self.rows

    def argument(self, place: int, name: str, default: Any) -> Any:
        """An argument by its place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def add(self, name: str, value: Tensor) -> None:
        """Add ``value`` (rows, ...) to the sum of that name, which the oracle hands back."""
        self.sums[name] = self.sums[name] + value if name in self.sums else value


Rule = Callable[[Call], Any]


def gradient(call: Call) -> Any:
    """The operation itself, with its own gradient."""
    return call()


def keep(*kinds: Kind) -> dict[Kind, Rule]:
    """A table in which these kinds of operation keep their own gradient."""
    return dict.fromkeys(kinds, gradient)


@dataclass(frozen=True)
class Rules:
    """A propagation method: a rule for each kind of operation; what is not in the table is refused.

    instead: the methods that fit where this one does not. scores: the kinds of score it is defined for.
    seed: what is done with the logits (B, classes) before the score is read from them.
    """

    method: str
    table: Mapping[Kind, Rule]
    instead: str
    scores: frozenset[ScoreKind] = frozenset({"logit", "prob", "log-prob", "margin"})
    seed: Callable[[Tensor], Tensor] = field(default=lambda logits: logits)

    def admit(self, score: ScoreKind) -> None:
        """Raise UsageError for a score that the method is not defined for."""
        if score not in self.scores:
            raise UsageError(
                f"{self.method} is not defined for score={score}", f"use {' or '.join(sorted(self.scores))}"
            )

    def __call__(self, call: Call) -> Any:
        """What takes the place of an operation. Raises UsageError where there is no rule."""
        if call.kind is None or call.kind not in self.table:
            where = f"{call.name} in {call.module or 'the model'}"
            raise UsageError(f"{self.method} has no rule for {where}", self.instead if call.kind else ANY_MODEL)
        return self.table[call.kind](call)


class _Graft(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[None, Tensor]:
        return None, signals[0]


def graft(value: Tensor, surrogate: Tensor) -> Tensor:
    """A tensor with the value of one and the gradient of the other, which has the same shape."""
    return _Graft.apply(value.detach(), surrogate)


def slope(call: Call, at: Tensor) -> Tensor:
    """The derivative of a function of one number at each entry of ``at``."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        (found,) = torch.autograd.grad(call(at).sum(), at)
    return found


# ------------------------------------------------------------------ the forward


class _Rewriting(TorchFunctionMode):
    """Hands every operation on what depends on the image to the rules."""

    def __init__(self, rules: Rules, rows: int) -> None:
        super().__init__()
        self.rules = rules
        self.rows = rows
        self.path: list[str] = [""]  # the modules that are running
        self.sums: dict[str, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, kwargs)))
        inputs = [each for each in tensors if each.requires_grad]
        if not inputs or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        constants = [each for each in tensors if not each.requires_grad]
        name, function, kwargs = _out_of_place(func, kwargs)
        call = Call(name, None, self.path[-1], function, args, kwargs, inputs, constants, self.rows, self.sums)
        call.kind = _kind(call)
        if call.kind is None and not _changes(func):
            output = func(*args, **kwargs)
            if not any(each.requires_grad for each in _tensors(output)):
                return output  # a shape, a comparison, a constant
        for each in inputs:
            self.check(each)
        output = self.rules(call)
        for each in _tensors(output):
            vars(each)[FOLLOWED] = True
        return output

    def check(self, tensor: Tensor) -> None:
        """Raise UsageError for a tensor that depends on the image by a way that the mode has not seen."""
        if FOLLOWED not in vars(tensor):
            where = self.path[-1] or "the model"
            raise UsageError(f"{self.rules.method} cannot see into compiled or custom code in {where}", ANY_MODEL)


@contextmanager
def rewritten(model: nn.Module, rules: Rules, rows: Tensor) -> Iterator[_Rewriting]:
    """Run ``model`` on ``rows``, a leaf that requires a gradient, by the rules. Yields the mode, with its ``sums``."""
    mode = _Rewriting(rules, len(rows))
    vars(rows)[FOLLOWED] = True
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; what it makes is refused
            entered = name.removeprefix("model.")
            stack.callback(module.register_forward_pre_hook(_enter(mode, entered)).remove)
            stack.callback(module.register_forward_hook(_leave(mode)).remove)
        with mode:
            yield mode


def check_same(method: str, actual: Tensor, expected: Tensor, *, loose: bool) -> None:
    """Raise UsageError unless the rewritten forward gave the model's own logits. loose: allow for reduced precision."""
    # deep networks move by 1e-3 in float32 with the number of rows alone; a step that was not followed moves them by far more
    tolerance = 5e-2 if loose else 1e-9 if expected.dtype == torch.float64 else 5e-3
    scale = expected.abs().max().clamp(min=1)
    if actual.shape != expected.shape or not bool((actual - expected).abs().max() <= tolerance * scale):
        raise UsageError(f"{method} cannot follow the model's forward: its logits change", ANY_MODEL)


def _enter(mode: _Rewriting, name: str) -> Callable[..., None]:
    return lambda *_: mode.path.append(name)


def _leave(mode: _Rewriting) -> Callable[..., None]:
    def leave(*_: object) -> None:
        mode.path.pop()

    return leave


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _changes(func: Callable[..., Any]) -> bool:
    """The operation writes into one of its arguments."""
    return (
        re.fullmatch(
            r"__setitem__|__i(add|sub|mul|pow|mod|and|x?or|truediv|floordiv|matmul)__|[a-z]\w*_", func.__name__
        )
        is not None
    )


def _out_of_place(func: Callable[..., Any], kwargs: dict[str, Any]) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """The operation's name, and the same operation without writing into its arguments."""
    name: str = getattr(func, "__name__", str(func))
    if kwargs.get("inplace"):
        kwargs = kwargs | {"inplace": False}
    bare = name.strip("_")
    if name.startswith("__") and name not in KINDS:
        plain = bare if bare in _OPERATORS else bare[1:] if bare[:1] in "ir" and bare[1:] in KINDS else bare
        name = _OPERATORS.get(plain, plain)
    elif name.endswith("_") and bare in KINDS:
        name = bare
    else:
        return name, getattr(F, name) if KINDS.get(name) == "max" else func, kwargs
    function = getattr(torch, name, None) or getattr(F, name, None)
    return (name, function, kwargs) if function and (name in KINDS or name == "rsub") else (name, func, kwargs)


def _kind(call: Call) -> Kind | None:
    """What kind of operation it is with these arguments; None: one that nothing is known about."""
    kind, several = KINDS.get(call.name), len(call.inputs) > 1
    if call.name in ("add", "sub", "rsub"):
        return "sum" if several and call.name != "rsub" else "shift" if not several else None
    if call.name == "mul" and several:
        return "product"
    if kind in ("linear", "scale", "norm"):
        first = call.name in ("matmul", "mm", "einsum", "mul", "neg") or call.args[0] is call.inputs[0]
        trained = bool(call.argument(5, "training", False)) if kind == "norm" else False
        return kind if not several and first and not trained else None
    if call.name in ("hardtanh", "clamp", "clamp_min"):
        low = call.argument(1, "min_val" if call.name == "hardtanh" else "min", None)
        return "rectifier" if isinstance(low, (int, float)) and low == 0 else kind
    if "dropout" in call.name and call.argument(2, "training", True):
        return None
    if call.name == "pad" and call.argument(3, "value", None):
        return None
    return kind
