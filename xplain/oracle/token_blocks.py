"""Transformer blocks: find them, and run the head of a model on the tokens that each of them returns.

A head that is called on other tokens than those of the last block runs in the same forward pass: a hook replaces the output of the
last block by the tokens of all blocks, as more rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xplain.core.errors import MODEL_ERRORS, UsageError, device_error, first_line
from xplain.models import Classifier
from xplain.models.layouts import Size
from xplain.oracle.attention import Tokens, find_tokens
from xplain.oracle.attention_recorder import record_attention
from xplain.oracle.same_logits import has_same_logits

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

Pool = Literal["mean", "own"]
ALTERNATIVES = "use attention-relevance, attention-rollout or grad-cam"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a transformer.

    names: of their modules, in execution order. tokens: those that every block returns. row_axis: the axis of the rows in these tokens:
    0 for (rows, N, K), 1 for (N, rows, K).
    """

    names: tuple[str, ...]
    tokens: Tokens
    row_axis: int = 0


# The blocks of an inference copy, by image size, stated layout and pool.
_blocks: WeakKeyDictionary[Classifier, dict[tuple[Size, str, Pool], Blocks]] = WeakKeyDictionary()


@torch.no_grad()
def find_blocks(oracle: Oracle, model: Classifier, x: Tensor, method: str, layout: str, pool: Pool) -> Blocks:
    """Return the transformer blocks of an inference copy for images with the shape of x (1, C, H, W).

    layout: as in ``probe_attention``. pool: as in ``run_head_on_all_blocks``.
    Raises UsageError if the attention is unsuitable, if there is no module for each block that returns its tokens, or if the head
    cannot be run on tokens alone.
    """
    key = ((x.shape[-2], x.shape[-1]), layout, pool)
    known = _blocks.setdefault(model, {})
    if key not in known:
        tokens = find_tokens(oracle, model, x, method, layout)
        blocks = _find_modules(oracle, model, x, method, tokens)
        _check_head(oracle, model, x, method, blocks, "own" if tokens.is_pooled else pool)
        known[key] = blocks
    return known[key]


@contextmanager
def run_head_on_all_blocks(model: nn.Module, blocks: Blocks, pool: Pool) -> Iterator[None]:
    """Run each block on a constant, and the head on the tokens of all blocks, one block after the other along the rows.

    No gradient passes from one block to another: the input of each block is detached, so that a score of the tokens of a block reaches
    the attention weights of that block only. model: the network. blocks: consecutive ones, up to the last of the network.
    pool: ``mean`` replaces every token by the mean of all tokens, so that any head reads their mean; ``own`` keeps the tokens.
    """
    outputs: list[Tensor] = []

    def detach(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _detach(args), _detach(kwargs)

    def keep(_: nn.Module, __: object, output: object) -> None:
        outputs.append(_first(output))

    def join(_: nn.Module, __: object, output: object) -> object:
        rows = torch.cat([*outputs, _first(output)], dim=blocks.row_axis)
        outputs.clear()
        if pool == "mean":
            rows = rows.mean(dim=1 - blocks.row_axis, keepdim=True).expand_as(rows)
        return _with_first(output, rows)

    with ExitStack() as stack:
        for name in blocks.names:
            module = model.get_submodule(name)
            hook = join if name == blocks.names[-1] else keep
            stack.callback(module.register_forward_pre_hook(detach, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def _find_modules(oracle: Oracle, model: Classifier, x: Tensor, method: str, tokens: Tokens) -> Blocks:
    """Return the blocks: the outermost modules with one attention each that take tokens and return tokens."""
    with record_attention(model.model) as attentions, _record_shapes(model.model) as shapes:
        oracle.forward(model, x)
    oracle.count_rows(checks=1)
    attended = [attention.module for attention in attentions.recorded]
    names = []
    for position, name in enumerate(attended[: tokens.layers]):
        others = attended[:position] + attended[position + 1 :]
        parts = name.split(".") if name else []
        ancestors = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        candidates = [
            ancestor
            for ancestor in ancestors
            if not any(f"{other}.".startswith(f"{ancestor}.") for other in others)
            and sorted(shapes.get(ancestor, ())[:2]) == [1, tokens.layout.tokens]
        ]
        if tokens.layers == 1:  # modules around the block have one attention, too
            candidates = [entry for entry in candidates if _is_in_container(model.model, entry)] or candidates
        if not candidates:
            raise UsageError(
                f"{method} requires a module for each transformer block that takes tokens and returns them, but there is none around "
                f"the attention of {name or 'the model'}",
                ALTERNATIVES,
            )
        names.append(candidates[0])
    if len({shapes[name] for name in names}) > 1:
        raise UsageError(f"{method} requires blocks whose tokens have the same shape", ALTERNATIVES)
    return Blocks(tuple(names), tokens, row_axis=shapes[names[0]].index(1))


def _is_in_container(model: nn.Module, name: str) -> bool:
    """Return whether a module is an entry of a list of modules."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), CONTAINERS)


@contextmanager
def _record_shapes(model: nn.Module) -> Iterator[dict[str, tuple[int, ...]]]:
    """Record the shapes of the outputs of modules, by name, if their first input has the same shape. Each may run once only."""
    shapes: dict[str, tuple[int, ...]] = {}
    runs: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            source, tokens = _first((*args, *kwargs.values())), _first(output)
            if name in runs:
                shapes.pop(name, None)
            elif source is not None and tokens is not None and source.shape == tokens.shape and tokens.ndim == 3:
                shapes[name] = tuple(tokens.shape)
            runs.add(name)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(note(name), with_kwargs=True).remove)
        yield shapes


def _check_head(oracle: Oracle, model: Classifier, x: Tensor, method: str, blocks: Blocks, pool: Pool) -> None:
    """Raise UsageError unless the logits are a function of the tokens of the last block, that ignores the order of patches for ``mean``.

    The network is run on another image, while the last block returns the tokens of x.
    """
    last = model.model.get_submodule(blocks.names[-1])
    kept: list[Tensor] = []
    handle = last.register_forward_hook(lambda _, __, output: kept.append(_first(output)))
    try:
        expected = oracle.forward(model, x)
    finally:
        handle.remove()
    rows = torch.cat([kept[0]] * 3, dim=blocks.row_axis)
    third = rows.select(blocks.row_axis, 2)
    patches = blocks.tokens.layout.patches
    third[patches] = third[patches].flip(0)
    handle = last.register_forward_hook(lambda _, __, output: _with_first(output, rows))
    try:
        actual = oracle.forward(model, torch.where(x > 0.5, 0.0, 1.0).to(x.dtype))
    except MODEL_ERRORS as error:
        if device_error(error):
            raise
        message = f"{method} cannot call the head of the model on the tokens of {blocks.names[-1]}: {first_line(error)}"
        raise UsageError(message, ALTERNATIVES) from None
    finally:
        handle.remove()
    oracle.count_rows(checks=2)
    loose = oracle.precision != "fp32"
    if actual.shape[:1] != (3,) or not has_same_logits(actual[:2], expected.expand(2, -1), loose=loose):
        raise UsageError(
            f"{method} requires a head that reads the tokens of the last block only, but the logits do not depend on those of "
            f"{blocks.names[-1]} alone",
            ALTERNATIVES,
        )
    if pool == "mean" and not has_same_logits(actual[2:], expected, loose=loose):
        raise UsageError(
            f"{method} with pool=mean requires a head that pools the tokens, but the logits depend on the order of the patches after "
            f"{blocks.names[-1]}",
            f"use pool=own, or {ALTERNATIVES.removeprefix('use ')}",
        )


def _first(value: Any) -> Any:
    """Return a tensor, or the first tensor of a sequence; None if there is none."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((item for item in value if isinstance(item, Tensor)), None)
    return None


def _with_first(value: Any, tokens: Tensor) -> Any:
    """Return the value with ``tokens`` in place of its first tensor."""
    if isinstance(value, Tensor):
        return tokens
    position = next(index for index, item in enumerate(value) if isinstance(item, Tensor))
    return type(value)([*value[:position], tokens, *value[position + 1 :]])


def _detach(value: Any) -> Any:
    """Return nested arguments with leaf tensors, of which those of floating-point numbers require a gradient."""
    if isinstance(value, Tensor):
        is_real = value.is_floating_point() and torch.is_grad_enabled()
        return value.detach().requires_grad_(is_real)
    if isinstance(value, dict):
        return {key: _detach(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_detach(item) for item in value)
    return value
