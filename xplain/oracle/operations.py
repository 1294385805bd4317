"""The operations of a forward pass: their kinds, and how to repeat them with other inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal[
    "route",
    "sum",
    "shift",
    "scale",
    "linear",
    "norm",
    "rectifier",
    "activation",
    "max",
    "product",
    "bilinear",
    "division",
    "power",
    "length",
    "layer-norm",
    "softmax",
]

_NAMES: dict[Kind, str] = {
    # copy, move or drop entries, or pad with zeros
    "route": "view reshape flatten unflatten permute transpose movedim t squeeze unsqueeze contiguous clone expand "
    "expand_as view_as reshape_as type_as repeat tile roll flip __getitem__ select narrow index_select cat concat stack "
    "chunk split tensor_split unbind pad dropout dropout2d dropout3d alpha_dropout feature_alpha_dropout to float double "
    "pixel_shuffle pixel_unshuffle channel_shuffle T mT H mH swapaxes swapdims moveaxis unflatten repeat_interleave "
    "masked_fill where",
    # linear with fixed weights and without a bias
    "sum": "add sub mean sum avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d interpolate",
    "scale": "mul div true_divide neg",
    "linear": "conv1d conv2d conv3d conv_transpose2d linear matmul mm einsum",
    "norm": "batch_norm",
    "rectifier": "relu relu6",
    # elementwise functions
    "activation": "hardtanh clamp clamp_min leaky_relu prelu elu selu celu silu mish gelu hardswish softplus sigmoid "
    "hardsigmoid tanh logsigmoid",
    "max": "max_pool2d adaptive_max_pool2d",
    # elementwise functions of normalizations that a model writes out
    "power": "pow square sqrt rsqrt reciprocal",
    "length": "norm linalg_norm linalg_vector_norm",  # the Euclidean norm over some axes
    "layer-norm": "layer_norm rms_norm",
    "softmax": "softmax",
}
KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
# Operations that take only the shape, type and device of their tensors after the first.
SHAPE_ARGUMENTS = {"view_as", "expand_as", "reshape_as", "type_as", "to"}
# Operations that convert a tensor to Python or NumPy values.
PYTHON_VALUES = {
    "item",
    "tolist",
    "numpy",
    "__array__",
    "__float__",
    "__int__",
    "__index__",
    "__complex__",
    "__dlpack__",
}
# Operators whose function has another name.
_OPERATORS = {"truediv": "div", "div": "div", "rsub": "rsub", "neg": "neg"}
NO_WEIGHT = -1e4  # exp(NO_WEIGHT) is zero
BILINEAR = {"matmul", "mm", "bmm", "einsum"}
_IN_PLACE = re.compile(r"__setitem__|__i(add|sub|mul|pow|mod|and|x?or|truediv|floordiv|matmul)__|[a-z]\w*_")


@dataclass(eq=False)
class Operation:
    """One operation of a forward pass.

    module: the name of the module that runs it.
    inputs: the tensors that depend on the image, in the order of the arguments. constants: the other tensors.
    rows: the number of rows that entered the model.
    sums: totals that rules add up, by name; see ``add_to_sum``.
    row_axis: the axis of the rows in the inputs.
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
    row_axis: int = 0

    def run(self, *inputs: Tensor, constants: Sequence[Tensor] | None = None, **options: Any) -> Any:
        """Run the operation, by default as the model does, and return its output.

        inputs, constants: tensors in place of the operation's own. options: keyword arguments to override.
        """
        next_input = iter(inputs or self.inputs)
        next_constant = iter(self.constants if constants is None else constants)

        def rebuild(value: Any) -> Any:
            if isinstance(value, Tensor):
                return next(next_input if value.requires_grad else next_constant)
            if isinstance(value, (list, tuple)) and any(True for _ in find_tensors(value)):
                return type(value)(map(rebuild, value))
            return value

        args = rebuild(self.args)
        kwargs = {name: rebuild(value) for name, value in self.kwargs.items()}
        return self.function(*args, **kwargs | options)

    @property
    def has_all_rows(self) -> bool:
        """Whether the first input still has all rows that entered the model."""
        return len(self.inputs[0]) == self.rows

    def argument(self, position: int, name: str, default: Any) -> Any:
        """Return an argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def add_to_sum(self, name: str, value: Tensor) -> None:
        """Add ``value`` (rows, ...) to a total that ``propagate`` returns."""
        self.sums[name] = self.sums[name] + value if name in self.sums else value


def norm_epsilon(operation: Operation) -> float:
    """Return the number that a layer norm or RMS norm adds to the mean square."""
    if operation.name == "rms_norm":
        eps = operation.argument(3, "eps", None)
        return float(torch.finfo(operation.inputs[0].dtype).eps if eps is None else eps)
    return float(operation.argument(4, "eps", 1e-5))


def find_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_tensors(item)
    elif isinstance(value, dict):
        yield from find_tensors(tuple(value.values()))


def is_in_place(function: Callable[..., Any]) -> bool:
    """Return whether an operation writes into one of its arguments."""
    return _IN_PLACE.fullmatch(function.__name__) is not None


def make_out_of_place(
    function: Callable[..., Any], kwargs: dict[str, Any]
) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """Return the name, function and keyword arguments of the operation that does not write into its arguments.

    Operators become functions: ``__iadd__`` is ``add``.
    """
    name: str = getattr(function, "__name__", str(function))
    if name == "__get__":  # a property, such as x.mT
        owner = getattr(function, "__self__", None)
        name = getattr(owner, "__name__", name)
        return name, function, kwargs
    if kwargs.get("inplace"):
        kwargs = kwargs | {"inplace": False}
    base = _base_name(name)
    if base == name:
        if KINDS.get(name) == "max":  # torch's own takes no return_indices
            return name, getattr(F, name), kwargs
        return name, function, kwargs
    base_function = getattr(torch, base, None) or getattr(F, base, None)
    if base_function and (base in KINDS or base == "rsub"):
        return base, base_function, kwargs
    return base, function, kwargs


def _base_name(name: str) -> str:
    """Return the name of the function behind an operator (``__radd__``: add) or an in-place variant (``relu_``: relu)."""
    bare = name.strip("_")
    if name.startswith("__") and name not in KINDS:
        if bare not in _OPERATORS and bare[:1] in ("i", "r") and bare[1:] in KINDS:
            bare = bare[1:]
        return _OPERATORS.get(bare, bare)
    if name.endswith("_") and bare in KINDS:
        return bare
    return name


def classify(operation: Operation) -> Kind | None:
    """Return the kind of an operation with its arguments, or None if it has no known kind."""
    name = operation.name
    kind = KINDS.get(name)
    has_several_inputs = len(operation.inputs) > 1
    if name in ("add", "sub"):
        return "sum" if has_several_inputs else "shift"
    if name == "rsub":
        return None if has_several_inputs else "shift"
    if name == "mul" and has_several_inputs:
        return "product"
    if name in BILINEAR and len(operation.inputs) == 2:
        return "bilinear"
    if name in ("div", "true_divide") and (has_several_inputs or not _is_linear(operation, "scale")):
        return "division" if operation.argument(2, "rounding_mode", None) is None else None
    if kind in ("power", "length", "layer-norm", "softmax"):
        return kind if not has_several_inputs and _has_row_values(operation, kind) else None
    if name in ("masked_fill", "where"):
        return kind if not has_several_inputs and _is_filled_without_effect(operation) else None
    if kind in ("linear", "scale", "norm"):
        return kind if not has_several_inputs and _is_linear(operation, kind) else None
    if name in ("hardtanh", "clamp", "clamp_min"):
        return "rectifier" if _has_lower_bound_zero(operation) else kind
    if "dropout" in name and operation.argument(2, "training", True):
        return None
    if name == "pad" and operation.argument(3, "value", None):
        return None
    return kind


def _is_linear(operation: Operation, kind: Kind) -> bool:
    """Return whether an operation is affine in its input: not a constant divided by it, nor a batch norm that trains."""
    if kind == "norm" and operation.argument(5, "training", False):
        return False
    if operation.name in ("matmul", "mm", "einsum", "mul", "neg"):
        return True
    return operation.argument(0, "input", None) is operation.inputs[0]


def _has_row_values(operation: Operation, kind: Kind) -> bool:
    """Return whether an operation treats each row on its own, and is the Euclidean norm if it is a norm."""
    if kind == "softmax":
        return operation.argument(1, "dim", None) not in (None, 0, -operation.inputs[0].ndim)
    if kind != "length":
        return True
    order = operation.argument(1, "ord" if operation.name.startswith("linalg") else "p", 2)
    dim = operation.argument(2, "dim", None)
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    if operation.name == "linalg_norm" and len(dims) > 1:
        return False  # a norm of matrices
    return order in (None, "fro", 2) and not {None, 0, -operation.inputs[0].ndim}.intersection(dims)


def _is_filled_without_effect(operation: Operation) -> bool:
    """Return whether a fixed mask fills entries with zero, or with a number so low that a softmax gives them no weight."""
    values = [value for value in (*operation.args, *operation.kwargs.values()) if value is not operation.inputs[0]]
    fills = [value for value in values if not (isinstance(value, Tensor) and value.dtype == torch.bool)]
    return len(fills) == 1 and all(value == 0 or value <= NO_WEIGHT for value in _numbers(fills[0]))


def _numbers(value: Any) -> list[float]:
    """Return the numbers of a number or tensor."""
    return list(value.unique().tolist()) if isinstance(value, Tensor) else [value]


def _has_lower_bound_zero(operation: Operation) -> bool:
    """Return whether an operation of the clamp family cuts at zero, as a ReLU does."""
    low = operation.argument(1, "min_val" if operation.name == "hardtanh" else "min", None)
    return isinstance(low, (int, float)) and low == 0
