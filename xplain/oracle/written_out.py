"""Composite operations, written out as operations that have propagation rules: attention, group norm, variance, normalization.

The sums of squares, softmaxes and products inside a composite operation are then operations of their own. Each function takes the
arguments of the operation that it replaces.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HEAD_ARGUMENTS = tuple(inspect.signature(F.multi_head_attention_forward).parameters)


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(q kᵀ / √d + mask) for queries and keys (..., tokens, d)."""
    products = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        products = products.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        products = products + attn_mask
    return products.softmax(dim=-1)


def repeat_key_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values (..., heads, tokens, d) with as many heads as the queries: each is shared by a group of queries."""
    heads = query.shape[-3]
    return (
        key.repeat_interleave(heads // key.shape[-3], dim=-3),
        value.repeat_interleave(heads // value.shape[-3], dim=-3),
    )


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    record: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return softmax(q kᵀ / √d + mask) v for (..., tokens, d), as torch does; dropout is off in evaluation mode.

    record: function that receives the weights softmax(...) and returns the weights to use.
    """
    if enable_gqa:
        key, value = repeat_key_heads(query, key, value)
    weights = attention_weights(query, key, attn_mask, is_causal=is_causal, scale=scale)
    return (weights if record is None else record(weights)) @ value


def multi_head_attention_forward(*args: Any, **kwargs: Any) -> Any:
    """Return the output (N, rows, K) of ``nn.MultiheadAttention`` and its mean weights, or NotImplemented for extra keys."""
    arguments = head_arguments(args, kwargs)
    query, key, value = arguments["query"], arguments["key"], arguments["value"]
    extra_keys = [arguments.get(name) for name in ("bias_k", "bias_v", "static_k", "static_v")]
    if query.ndim != 3 or arguments.get("add_zero_attn") or any(extra is not None for extra in extra_keys):
        return NotImplemented
    heads = arguments["num_heads"]
    queries, keys, values = (
        split_heads(tokens, heads) for tokens in project_heads(arguments, query, key, value, batch_first=True)
    )
    weights = attention_weights(queries, keys, _merge_masks(arguments, len(queries), heads))
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    output = F.linear(mixed, arguments["out_proj_weight"], arguments["out_proj_bias"]).transpose(0, 1)
    if not arguments.get("need_weights", True):
        return output, None
    return output, weights.mean(dim=1) if arguments.get("average_attn_weights", True) else weights


def head_arguments(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``F.multi_head_attention_forward`` by name."""
    return dict(zip(HEAD_ARGUMENTS, args, strict=False)) | kwargs


def project_heads(
    arguments: dict[str, Any], query: Tensor, key: Tensor, value: Tensor, *, batch_first: bool = False
) -> list[Tensor]:
    """Return the projected queries, keys and values of tokens (N, rows, K); batch_first: as (rows, N, K)."""
    size = query.shape[-1]
    weight, bias = arguments["in_proj_weight"], arguments["in_proj_bias"]
    if weight is None:
        weights = [arguments[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = [weight[:size], weight[size : 2 * size], weight[2 * size :]]
    biases = [None, None, None] if bias is None else [bias[:size], bias[size : 2 * size], bias[2 * size :]]
    tokens = [query, key, value]
    if batch_first:
        tokens = [tensor.transpose(0, 1) for tensor in tokens]
    return [F.linear(*inputs) for inputs in zip(tokens, weights, biases, strict=True)]


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Return tokens (rows, N, K) as (rows, heads, N, K / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _merge_masks(arguments: dict[str, Any], rows: int, heads: int) -> Tensor | None:
    """Return the mask that is added to the products, of the masks whose true entries are ignored, or None without masks."""
    merged = None
    mask, padding = arguments.get("attn_mask"), arguments.get("key_padding_mask")
    if padding is not None:
        merged = _additive(padding)[:, None, None]
    if mask is not None:
        mask = _additive(mask)
        if mask.ndim == 3:
            mask = mask.view(rows, heads, *mask.shape[1:])
        merged = mask if merged is None else merged + mask
    return merged


def _additive(mask: Tensor) -> Tensor:
    """Return a mask with zero for entries that are attended to; boolean masks are true for the others."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, -torch.inf)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """Return the input divided by its norm along an axis."""
    norm = torch.linalg.vector_norm(input, p, dim, keepdim=True)
    return input / norm.clamp_min(eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return the layer norm of each group of channels, scaled and shifted per channel."""
    groups = input.unflatten(1, (num_groups, -1)).flatten(2)
    output = F.layer_norm(groups, groups.shape[-1:], eps=eps).reshape(input.shape)
    per_channel = (-1, *[1] * (input.ndim - 2))
    if weight is not None:
        output = output * weight.view(per_channel)
    if bias is not None:
        output = output + bias.view(per_channel)
    return output


def variance(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the mean of the squared deviations along axes, or NotImplemented for the whole tensor."""
    arguments = dict(zip(("dim", "unbiased", "keepdim"), args, strict=False)) | kwargs
    dim = arguments.get("dim")
    if dim is None or isinstance(dim, bool):
        return NotImplemented
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    correction = arguments.get("correction")
    if correction is None:
        correction = int(arguments.get("unbiased", True))
    count = 1
    for axis in dims:
        count *= input.shape[axis]
    deviations = input - input.mean(dim=dims, keepdim=True)
    squares = (deviations * deviations).mean(dim=dims, keepdim=bool(arguments.get("keepdim", False)))
    return squares * (count / (count - correction)) if correction else squares


def deviation(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the root of the variance."""
    squares = variance(input, *args, **kwargs)
    return NotImplemented if squares is NotImplemented else squares.sqrt()


def variance_and_mean(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the variance and the mean along axes."""
    squares = variance(input, *args, **kwargs)
    if squares is NotImplemented:
        return NotImplemented
    dim = args[0] if args else kwargs["dim"]
    keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    return squares, input.mean(dim=dim, keepdim=keepdim)


def divide_constant(input: Tensor, other: Any) -> Tensor:
    """Return other / input."""
    return input.reciprocal() * other


def divide(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Return the quotient of a constant and a tensor, or NotImplemented if the dividend depends on the image."""
    if rounding_mode is not None or (isinstance(input, Tensor) and input.requires_grad):
        return NotImplemented
    return other.reciprocal() * input


def raise_constant(input: Tensor, other: Any) -> Tensor:
    """Return other to the power of input."""
    return torch.pow(other, input)


def multiply_constant(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product other @ input."""
    return torch.matmul(other, input)


def add_product(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Return input + value · tensor1 · tensor2."""
    return input + tensor1 * tensor2 * value


def add_matrix_product(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Return beta · input + alpha · mat1 @ mat2."""
    return input * beta + torch.matmul(mat1, mat2) * alpha


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "multi_head_attention_forward": multi_head_attention_forward,
    "normalize": normalize,
    "group_norm": group_norm,
    "var": variance,
    "std": deviation,
    "var_mean": variance_and_mean,
    "addcmul": add_product,
    "addmm": add_matrix_product,
    "baddbmm": add_matrix_product,
    "__rdiv__": divide_constant,
    "__rtruediv__": divide_constant,
    "div": divide,
    "true_divide": divide,
    "divide": divide,
    "__rpow__": raise_constant,
    "__rmatmul__": multiply_constant,
}
