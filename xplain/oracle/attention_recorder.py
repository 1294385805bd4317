"""Record the attention weights of a forward pass.

A torch function mode writes each attention out as a softmax and records its weights: the fused function, the function behind
``nn.MultiheadAttention``, and softmaxes of the model's own code. The caller checks that the logits do not change.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)
HEAD_ARGUMENTS = tuple(inspect.signature(F.multi_head_attention_forward).parameters)
UNSUPPORTED_ARGUMENTS = ("bias_k", "bias_v", "key_padding_mask", "attn_mask")


class AttentionWeights(NamedTuple):
    """The weights (rows, heads, queries, keys) of one attention, each row of which sums to 1, and its module's name."""

    weights: Tensor
    module: str


class NaNProbe(NamedTuple):
    """Tokens (rows, N) whose weights at an attention become NaN, and with them all that is computed from them."""

    attention: int
    tokens: Tensor


@contextmanager
def record_attention(model: nn.Module, nan_probe: NaNProbe | None = None) -> Iterator[list[AttentionWeights]]:
    """Record the attention weights of forward passes of ``model`` in this context, in execution order."""
    mode = _AttentionRecorder(nan_probe)

    def push(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[object, ...]) -> None:
            mode.enter(name, inputs)

        return hook

    def pop(*_: object) -> None:
        mode.modules.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks; its attention is not recorded
            stack.callback(module.register_forward_pre_hook(push(name)).remove)
            stack.callback(module.register_forward_hook(pop).remove)
        with mode:
            yield mode.recorded


class _RunningModule(NamedTuple):
    """A module whose forward pass is running and the first two dimensions of its tokens."""

    name: str
    tokens: tuple[int, ...]


class _AttentionRecorder(TorchFunctionMode):
    """Write attention out as a softmax and record its weights."""

    def __init__(self, nan_probe: NaNProbe | None) -> None:
        super().__init__()
        self.nan_probe = nan_probe
        self.recorded: list[AttentionWeights] = []
        self.modules = [_RunningModule("", ())]  # outermost first

    def enter(self, name: str, inputs: tuple[object, ...]) -> None:
        """Note that a module starts; without tokens of its own, it works on those of its caller."""
        first = inputs[0] if inputs else None
        tokens = self.modules[-1].tokens
        if isinstance(first, Tensor) and first.ndim == 3:
            tokens = tuple(first.shape[:2])
        self.modules.append(_RunningModule(name, tokens))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self.multi_head_attention(func, args, kwargs)
        output = func(*args, **kwargs)
        if func in SOFTMAXES and output.ndim == 4 and output.shape[-1] in self.modules[-1].tokens:
            return self.record(output)
        return output

    def record(self, weights: Tensor) -> Tensor:
        """Record the weights and return them, with the NaN of the probe if it belongs here."""
        if self.nan_probe is not None and len(self.recorded) == self.nan_probe.attention:
            weights = weights.masked_fill(self.nan_probe.tokens[:, None, :, None], torch.nan)
        self.recorded.append(AttentionWeights(weights, self.modules[-1].name))
        return weights

    def attention(
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
        """Return softmax(q kᵀ / √d + mask) v for (..., tokens, d), as torch does; dropout is off in evaluation mode."""
        if enable_gqa:
            heads = query.shape[-3]
            key = key.repeat_interleave(heads // key.shape[-3], dim=-3)
            value = value.repeat_interleave(heads // value.shape[-3], dim=-3)
        products = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            products = products.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            products = products + attn_mask
        return self.record(products.softmax(dim=-1)) @ value

    def multi_head_attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``nn.MultiheadAttention``; record it if it is plain self-attention of tokens (N, rows, K)."""
        arguments = dict(zip(HEAD_ARGUMENTS, args, strict=False)) | kwargs
        if not _is_plain_self_attention(arguments):
            return func(*args, **kwargs)
        projected = F.linear(arguments["query"], arguments["in_proj_weight"], arguments["in_proj_bias"])
        queries, keys, values = projected.chunk(3, dim=-1)
        heads = arguments["num_heads"]
        mixed = self.attention(_split_heads(queries, heads), _split_heads(keys, heads), _split_heads(values, heads))
        mixed = mixed.permute(2, 0, 1, 3).flatten(2)
        output = F.linear(mixed, arguments["out_proj_weight"], arguments["out_proj_bias"])
        return output, self.recorded[-1].weights.mean(dim=1)


def _is_plain_self_attention(arguments: dict[str, Any]) -> bool:
    """Return whether tokens (N, rows, K) attend to themselves, without masks and extra keys."""
    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    is_self_attention = key is query and value is query and query.ndim == 3
    has_joint_weights = arguments["in_proj_weight"] is not None
    is_unsupported = arguments.get("add_zero_attn") or any(
        arguments.get(name) is not None for name in UNSUPPORTED_ARGUMENTS
    )
    return is_self_attention and has_joint_weights and not is_unsupported


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Return tokens (N, rows, K) as (rows, heads, N, K / heads)."""
    return tokens.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)
