"""Record the attention weights of a forward pass.

A torch function mode writes each attention out as a softmax and records its weights: the fused function, the function behind
``nn.MultiheadAttention``, and softmaxes of the model's own code. The caller checks that the logits do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xplain.oracle.written_out import head_arguments, repeat_key_heads, scaled_dot_product_attention

SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)
UNSUPPORTED_ARGUMENTS = ("bias_k", "bias_v", "key_padding_mask", "attn_mask")


class AttentionWeights(NamedTuple):
    """The weights (rows, heads, queries, keys) of one attention, each row of which sums to 1, and its module's name."""

    weights: Tensor
    module: str


@dataclass(eq=False)
class AttentionParts:
    """What one attention computes, beside its weights.

    query, key, value: (rows, heads, N, d). output: weights @ value, a leaf tensor that requires a gradient.
    projection: weight and bias of the linear layer that takes the heads of the output, one after the other; None if none does.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    projection: tuple[Tensor, Tensor | None] | None = None

    def project(self, tokens: Tensor) -> Tensor:
        """Return tokens (..., heads * d) after the projection, whose weights are not those of autocast."""
        assert self.projection is not None
        weight, bias = self.projection
        return F.linear(tokens.to(weight.dtype), weight, bias)


class AttentionRecord(NamedTuple):
    """The attentions of forward passes, in execution order.

    recorded: those whose weights are recorded. unsupported: the names of the modules of all others.
    parts: those of the requested attention; empty if it is computed by operations other than torch's attention.
    """

    recorded: list[AttentionWeights]
    unsupported: list[str]
    parts: list[AttentionParts]


class NaNProbe(NamedTuple):
    """Tokens (rows, N) whose weights at an attention become NaN, and with them all that is computed from them."""

    attention: int
    tokens: Tensor


@contextmanager
def record_attention(
    model: nn.Module, nan_probe: NaNProbe | None = None, *, parts_of: int | None = None
) -> Iterator[AttentionRecord]:
    """Record the attention weights of forward passes of ``model`` in this context, in execution order.

    parts_of: the index of an attention whose parts are recorded, too. It cuts the graph of gradients: they start at its output.

    All softmaxes over the last dimension of four-dimensional tensors count as attention, whatever they attend to. Attention whose
    weights cannot be recorded is listed by name: that with masks, with other keys, and in three-dimensional tensors.
    """
    mode = _AttentionRecorder(nan_probe, parts_of)

    def push(name: str) -> Callable[..., None]:
        return lambda *_: mode.modules.append(name)

    def pop(*_: object) -> None:
        mode.modules.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; its attention is not recorded
            stack.callback(module.register_forward_pre_hook(push(name)).remove)
            stack.callback(module.register_forward_hook(pop).remove)
        with mode:
            yield AttentionRecord(mode.recorded, mode.unsupported, mode.parts)


class _AttentionRecorder(TorchFunctionMode):
    """Write attention out as a softmax and record its weights."""

    def __init__(self, nan_probe: NaNProbe | None, parts_of: int | None) -> None:
        super().__init__()
        self.nan_probe = nan_probe
        self.parts_of = parts_of
        self.parts: list[AttentionParts] = []
        self.recorded: list[AttentionWeights] = []
        self.unsupported: list[str] = []
        self.modules = [""]  # names of the modules whose forward pass is running, outermost first

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self.multi_head_attention(func, args, kwargs)
        if func is F.linear and self.parts:
            _find_projection(self.parts[0], *args, **kwargs)
        output = func(*args, **kwargs)
        if func not in SOFTMAXES or output.shape[-1:] == (1,):
            return output
        dimension = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dimension not in (-1, output.ndim - 1):
            return output
        if output.ndim == 4:
            return self.record(output)
        if output.ndim == 3 and output.shape[1] == output.shape[2]:
            self.unsupported.append(self.modules[-1])
        return output

    def record(self, weights: Tensor) -> Tensor:
        """Record the weights and return them, with the NaN of the probe if it belongs here."""
        if self.nan_probe is not None and len(self.recorded) == self.nan_probe.attention:
            weights = weights.masked_fill(self.nan_probe.tokens[:, None, :, None], torch.nan)
        self.recorded.append(AttentionWeights(weights, self.modules[-1]))
        return weights

    def attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the output of the attention, with the arguments of ``F.scaled_dot_product_attention``."""
        output = scaled_dot_product_attention(query, key, value, *args, **kwargs, record=self.record)
        if self.parts_of != len(self.recorded) - 1:
            return output
        if key.shape[-3] != query.shape[-3]:
            key, value = repeat_key_heads(query, key, value)
        self.parts.append(AttentionParts(query, key, value, output.detach().requires_grad_(torch.is_grad_enabled())))
        return self.parts[0].output

    def multi_head_attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``nn.MultiheadAttention``; record it if it attends to tokens (N, rows, K) without masks and extra keys."""
        arguments = head_arguments(args, kwargs)
        if not _is_plain_attention(arguments):
            self.unsupported.append(self.modules[-1])
            return func(*args, **kwargs)
        queries, keys, values = (_split_heads(tokens, arguments["num_heads"]) for tokens in _project(arguments))
        mixed = self.attention(queries, keys, values)
        mixed = mixed.permute(2, 0, 1, 3).flatten(2)
        weight, bias = arguments["out_proj_weight"], arguments["out_proj_bias"]
        if self.parts_of == len(self.recorded) - 1:
            self.parts[0].projection = weight, bias
        output = F.linear(mixed, weight, bias)
        return output, self.recorded[-1].weights.mean(dim=1)


def _find_projection(parts: AttentionParts, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """Note the weight and bias of a linear layer, if its input is the output of the attention with its heads one after the other."""
    if parts.projection is None and torch.equal(input, join_heads(parts.output)):
        parts.projection = weight, bias


def join_heads(tokens: Tensor) -> Tensor:
    """Return tokens (rows, heads, N, d) as (rows, N, heads * d)."""
    return tokens.transpose(1, 2).flatten(2)


def _is_plain_attention(arguments: dict[str, Any]) -> bool:
    """Return whether queries (Q, rows, K) attend to tokens (N, rows, K), without masks and extra keys."""
    is_of_tokens = arguments["key"] is arguments["value"] and arguments["query"].ndim == 3
    has_joint_weights = arguments["in_proj_weight"] is not None
    is_unsupported = arguments.get("add_zero_attn") or any(
        arguments.get(name) is not None for name in UNSUPPORTED_ARGUMENTS
    )
    return is_of_tokens and has_joint_weights and not is_unsupported


def _project(arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return queries, keys and values (tokens, rows, K)."""
    query, tokens = arguments["query"], arguments["key"]
    weight, bias = arguments["in_proj_weight"], arguments["in_proj_bias"]
    if query is tokens:
        return F.linear(query, weight, bias).chunk(3, dim=-1)
    size = query.shape[-1]
    bias_parts = (None, None) if bias is None else (bias[:size], bias[size:])
    keys, values = F.linear(tokens, weight[size:], bias_parts[1]).chunk(2, dim=-1)
    return F.linear(query, weight[:size], bias_parts[0]), keys, values


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Return tokens (N, rows, K) as (rows, heads, N, K / heads)."""
    return tokens.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)
