"""Look through wrappers around a user's module, and copy it so that xplain never changes the user's objects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.overrides import TorchFunctionMode

from xplain.core.errors import InputError, first_line

M = TypeVar("M", bound=nn.Module)

# Wrappers whose forward pass is that of the module inside, and the attribute that holds it.
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "OptimizedModule": "_orig_mod",
}
SHARDED = ("FullyShardedDataParallel", "FSDPModule", "DTensor")
# Tables of hooks, and of the options of the hooks with the same keys.
FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
FORWARD_HOOK_OPTIONS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")


def unwrap(model: nn.Module) -> list[nn.Module]:
    """Return the module and the modules inside its wrappers (DataParallel, torch.compile, averages), outermost first."""
    chain = [model]
    while (inner := _find_wrapped(chain[-1])) is not None:
        chain.append(inner)
    return chain


def _find_wrapped(model: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper, or None if the module is no wrapper."""
    for base in type(model).__mro__:
        inner = getattr(model, WRAPPERS.get(base.__name__, ""), None)
        if isinstance(inner, nn.Module):
            return inner
    return None


def check_usable(model: nn.Module, name: str) -> None:
    """Raise InputError if the parameters of a module are missing, sharded or on several devices."""
    tensors = [*model.parameters(), *model.buffers()]
    kinds = {base.__name__ for value in (*model.modules(), *tensors) for base in type(value).__mro__}
    if not kinds.isdisjoint(SHARDED):
        raise InputError(f"the parameters of {name} are sharded", "gather the model on one device first")
    if any(tensor.is_meta for tensor in tensors):
        raise InputError(f"the model {name} is on the meta device and has no weights", "create it on cpu or cuda")
    for path, module in model.named_modules():
        if any(
            torch.nn.parameter.is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())
        ):
            raise InputError(
                f"layer {path!r} of {name} is lazy and has no weights yet", "run the model once on an image before"
            )
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise InputError(f"the parameters of {name} are on {' and '.join(devices)}", "load the model on one device")


def working_copy(model: nn.Module, name: str, *, share: bool) -> nn.Module:
    """Return a copy of a user's module in evaluation mode, without wrappers inside it, compiled code and backward hooks.

    share: share the memory of parameters and buffers, so that the copy follows the training of the user's module.
    Raises InputError if the module cannot be copied.
    """
    try:
        copied = copy_module(model, share=share)
    except Exception as error:  # any object may be an attribute of a module
        raise InputError(
            f"the model {name} cannot be copied ({first_line(error)})",
            "remove the attribute that cannot be copied by copy.deepcopy",
        ) from error
    for module in _python_modules(copied):
        for child_name, child in list(module.named_children()):
            if _find_wrapped(child) is not None:
                setattr(module, child_name, unwrap(child)[-1])
    for module in _python_modules(copied):
        _keep_hooks(module, BACKWARD_HOOKS, set())
        for method in ("train", "eval"):  # exported programs replace them by functions that raise
            vars(module).pop(method, None)
    copied.train()  # some modules, such as LeViT's attention, drop cached values here
    return copied.eval()


def copy_module(model: M, *, share: bool = False) -> M:
    """Return a deep copy of a module.

    Computed tensors that a forward pass left in the module or in its containers are copied by value. A function that replaces a method of
    a module, such as a patched ``forward``, refers to the copy if it referred to the module.
    share: share the memory of parameters and buffers.
    """
    memo: dict[int, Any] = {}
    if share:
        memo.update(_share_tensors(model))
    with torch.no_grad(), _CopyComputedTensors():  # no_grad: otherwise copied parameters of TorchScript are not leaves
        copied: M = copy.deepcopy(model, memo)
        for module in _python_modules(model):
            for name, value in vars(module).items():
                if isinstance(value, FunctionType) and id(module) in memo:
                    vars(memo[id(module)])[name] = _rebind(value, memo)
    return copied


def _python_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are not TorchScript, whose attributes and hooks cannot be changed."""
    return [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]


def _share_tensors(model: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Yield the id of each plain parameter and buffer with another tensor on the same memory."""
    for module in _python_modules(model):
        for parameter in module._parameters.values():
            if type(parameter) is nn.Parameter:
                yield id(parameter), nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for buffer in module._buffers.values():
            if type(buffer) is Tensor:
                yield id(buffer), buffer.detach()


class _CopyComputedTensors(TorchFunctionMode):
    """Copy by value the tensors that ``copy.deepcopy`` refuses, because they were computed."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _rebind(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """Return a function whose closure and default arguments refer to copied modules instead of the originals."""
    compiled = getattr(function, "_torchdynamo_orig_callable", None)  # of torch.compile
    if isinstance(compiled, MethodType | FunctionType):
        rebound: FunctionType = _rebind_value(compiled, memo)
        return rebound
    cells, defaults = function.__closure__ or (), function.__defaults__ or ()
    keywords = function.__kwdefaults__ or {}
    new_cells = tuple(_rebind_cell(cell, memo) for cell in cells)
    new_defaults = tuple(_rebind_value(value, memo) for value in defaults)
    new_keywords = {name: _rebind_value(value, memo) for name, value in keywords.items()}
    pairs = zip(
        (*cells, *defaults, *keywords.values()), (*new_cells, *new_defaults, *new_keywords.values()), strict=True
    )
    if all(new is old for old, new in pairs):
        return function
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, new_defaults or None, new_cells)
    copied.__kwdefaults__ = new_keywords or None
    return copied


def _rebind_cell(cell: CellType, memo: dict[int, Any]) -> CellType:
    """Return a cell of a closure, or a new one if its value refers to a copied module."""
    try:
        value = cell.cell_contents
    except ValueError:  # an empty cell
        return cell
    rebound = _rebind_value(value, memo)
    return cell if rebound is value else CellType(rebound)


def _rebind_value(value: Any, memo: dict[int, Any]) -> Any:
    """Return the copy of a module, or a method or function that refers to the copy; other values unchanged."""
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    if isinstance(value, MethodType):
        owner = memo.get(id(value.__self__))
        return value if owner is None else MethodType(value.__func__, owner)
    return _rebind(value, memo) if isinstance(value, FunctionType) else value


def has_user_hooks(model: nn.Module) -> bool:
    """Return whether a module has forward hooks that do not belong to torch."""
    return any(
        not _belongs_to_torch(hook)
        for module in _python_modules(model)
        for table in FORWARD_HOOKS
        for hook in getattr(module, table).values()
    )


def remove_user_hooks(model: nn.Module) -> None:
    """Remove the forward hooks that do not belong to torch, in place."""
    for module in _python_modules(model):
        hooks = {key: hook for table in FORWARD_HOOKS for key, hook in getattr(module, table).items()}
        kept = {key for key, hook in hooks.items() if _belongs_to_torch(hook)}
        _keep_hooks(module, FORWARD_HOOKS + FORWARD_HOOK_OPTIONS, kept)


def _belongs_to_torch(hook: object) -> bool:
    """Return whether a hook is part of torch, such as those of weight norm, spectral norm and pruning."""
    owner = hook if isinstance(hook, FunctionType | MethodType) else type(hook)
    return isinstance(hook, BasePruningMethod) or str(owner.__module__).split(".")[0] == "torch"


def _keep_hooks(module: nn.Module, tables: tuple[str, ...], kept: set[int]) -> None:
    """Remove the entries of tables of hooks whose key is not in ``kept``."""
    for table in tables:
        values = getattr(module, table)
        setattr(module, table, type(values)((key, value) for key, value in values.items() if key in kept))
