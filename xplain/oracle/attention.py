"""Attention weights: one forward in which every attention is written out as a softmax, and its weights are kept.

A torch function mode sees the fused call, the function behind ``nn.MultiheadAttention`` and softmaxes written by hand, so one
mechanism serves any model. What it may change in the forward is checked by the caller: the logits must stay the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xplain.core.errors import UsageError
from xplain.models.layers import Layout

OTHERS = "grad-cam, integrated-gradients and rise fit"
SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


class Site(NamedTuple):
    """The weights of one attention, (rows, heads, queries, keys) with rows that sum to 1, and the module that ran it."""

    weights: Tensor
    module: str


@dataclass(frozen=True, eq=False)
class Tokens:
    """What the attention of a model runs over. layout: where the patches are. read: (N,) bool, those that the logits read."""

    layout: Layout
    read: Tensor


class NaNProbe(NamedTuple):
    """Tokens (rows, N) whose weights at a site are made not a number, and with them all that is computed from them."""

    site: int
    tokens: Tensor


class _Watching(TorchFunctionMode):
    """Writes attention out and keeps its weights."""

    def __init__(self, spoiled: NaNProbe | None) -> None:
        super().__init__()
        self.spoiled = spoiled
        self.sites: list[Site] = []
        self.running: list[tuple[str, tuple[int, ...]]] = [
            ("", ())
        ]  # modules, and the shape of the tokens they were given

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self.attend_heads(func, args, kwargs)
        output = func(*args, **kwargs)
        if func in SOFTMAXES and output.ndim == 4 and output.shape[-1] in self.running[-1][1]:
            return self.keep(output)
        return output

    def keep(self, weights: Tensor) -> Tensor:
        """Note the weights; hand them on, spoiled where it was asked for."""
        if self.spoiled is not None and len(self.sites) == self.spoiled.site:
            weights = weights.masked_fill(self.spoiled.tokens[:, None, :, None], torch.nan)
        self.sites.append(Site(weights, self.running[-1][0]))
        return weights

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(q kᵀ / √d + mask) v for (..., tokens, d), as torch defines it; dropout is off in evaluation."""
        if enable_gqa:
            key, value = (each.repeat_interleave(query.shape[-3] // each.shape[-3], dim=-3) for each in (key, value))
        products = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            products = products.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            products = products + attn_mask
        return self.keep(products.softmax(dim=-1)) @ value

    def attend_heads(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``nn.MultiheadAttention`` of tokens (N, rows, K) to themselves; others run as they are, unseen."""
        given = dict(zip(HEAD_ARGUMENTS, args, strict=False)) | kwargs
        query, weight, bias = given["query"], given["in_proj_weight"], given["in_proj_bias"]
        plain = given["key"] is query and given["value"] is query and query.ndim == 3 and weight is not None
        if not plain or given.get("add_zero_attn") or any(given.get(name) is not None for name in MASKS):
            return func(*args, **kwargs)
        heads = given["num_heads"]
        q, k, v = (
            each.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)
            for each in F.linear(query, weight, bias).chunk(3, dim=-1)
        )
        mixed = self.attend(q, k, v).permute(2, 0, 1, 3).flatten(2)
        return F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"]), self.sites[-1].weights.mean(dim=1)


HEAD_ARGUMENTS = tuple(inspect.signature(F.multi_head_attention_forward).parameters)
MASKS = ("bias_k", "bias_v", "key_padding_mask", "attn_mask")


@contextmanager
def record_attention(model: nn.Module, spoiled: NaNProbe | None = None) -> Iterator[list[Site]]:
    """The attention sites of a forward of ``model`` in this context, in order of execution."""
    mode = _Watching(spoiled)

    def enter(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[object, ...]) -> None:
            first = inputs[0] if inputs else None
            tokens = tuple(first.shape[:2]) if isinstance(first, Tensor) and first.ndim == 3 else mode.running[-1][1]
            mode.running.append((name, tokens))

        return hook

    def leave(*_: object) -> None:
        mode.running.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks; its attention is not seen
                stack.callback(module.register_forward_pre_hook(enter(name)).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        with mode:
            yield mode.sites


def check_global(method: str, sites: Sequence[Site], rows: int) -> int:
    """The number N of tokens that every attention runs over. Raises UsageError unless all are (rows, heads, N, N)."""
    if not sites:
        raise UsageError(
            f"{method} needs attention over one grid of tokens, and no such attention is seen in the model", OTHERS
        )
    for site in sites:
        shape = tuple(site.weights.shape)
        if len(shape) != 4 or shape[0] != rows or shape[2:] != (sites[0].weights.shape[-1],) * 2:
            where, size = site.module or "the model", " x ".join(map(str, shape))
            raise UsageError(
                f"{method} needs attention over one grid of tokens, and that of {where} is {size} for {rows} image"
                + "s" * (rows > 1),
                OTHERS,
            )
    return int(sites[0].weights.shape[-1])


def find_patches(method: str, count: int, layouts: Sequence[Layout]) -> Layout:
    """Where the patches are among ``count`` tokens. layouts: of the maps of the same forward. Raises UsageError."""
    for each in reversed(layouts):
        if each.kind == "tokens" and each.tokens == count:
            return each
    raise UsageError(f"{method} needs attention over one grid of tokens, and {count} tokens are none", OTHERS)


def token_groups(layout: Layout) -> Tensor:
    """(1 + prefix, N) bool: the patches, and each token before them: what the logits may be read from."""
    groups = torch.zeros(1 + layout.prefix, layout.tokens, dtype=torch.bool)
    groups[0, layout.prefix :] = True
    groups[1:, : layout.prefix] = torch.eye(layout.prefix, dtype=torch.bool)
    return groups


def read_map(flow: Tensor, tokens: Tokens) -> Tensor:
    """(B, 1, h, w) what the patches give to the tokens that are read, on average. flow: (B, N, N), to row from column."""
    rows = flow[:, tokens.read].mean(dim=1, keepdim=True)
    return tokens.layout.to_map(rows.mT)
