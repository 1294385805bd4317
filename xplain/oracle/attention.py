"""Attention weights of transformers and the score's gradients there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.models import Classifier
from xplain.models.layers import Layout, trace_outputs
from xplain.oracle.attention_recorder import AttentionWeights, NaNProbe, record_attention
from xplain.oracle.propagation import check_same_logits
from xplain.oracle.targets import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

ALTERNATIVES = "use grad-cam, integrated-gradients or rise"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a model. layout: the position of the patches. readout: (N,) bool, the tokens that the logits depend on."""

    layout: Layout
    readout: Tensor


class AttentionResult(NamedTuple):
    """One matrix (B, N, N) per layer, in execution order, and the tokens that their rows and columns stand for."""

    matrices: list[Tensor]
    tokens: Tokens


# The tokens of an inference copy, by image size.
_tokens: WeakKeyDictionary[Classifier, dict[tuple[int, int], Tokens]] = WeakKeyDictionary()


def probe_attention(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    method: str,
    reduce: Callable[[Tensor, Tensor | None], Tensor],
    *,
    differentiate: bool,
) -> AttentionResult:
    """Return one matrix per layer, made from the attention weights and the gradients of the score there.

    x: (B, C, H, W) images. y: (B,) target classes. method: its name, for errors.
    reduce: a function of the weights (B, heads, N, N) and their gradients to (B, N, N).
    differentiate: if False, no backward pass runs, and ``reduce`` gets None for the gradients.
    Raises UsageError unless all attention runs over the same tokens, which contain one grid of patches, and if writing the
    attention out changes the logits.
    """
    model = oracle.inference_copy(fold=oracle.fold, access="gradients" if differentiate else "layers")
    tokens = _find_tokens(oracle, model, x[:1], method)

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(differentiate), record_attention(model.model) as attentions:
            logits = oracle.forward(model, x.detach().requires_grad_(differentiate))
            count_tokens(method, attentions, len(x))
            weights = [attention.weights for attention in attentions]
            gradients: Sequence[Tensor | None] = [None] * len(weights)
            if differentiate:
                scores = compute_scores(logits, y, oracle.score, contrasts)
                gradients = torch.autograd.grad(scores.sum(), weights, materialize_grads=True)
        oracle.count_rows(forwards=len(x), backwards=len(x) if differentiate else 0)
        with torch.no_grad():
            return tuple(reduce(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True))

    oracle.count_image_rows(len(x), None, backwards=int(differentiate))
    return AttentionResult(oracle.run_in_batches(run, x, y, oracle.against), tokens)


def patch_map(flow: Tensor, tokens: Tokens) -> Tensor:
    """Return the mean flow (B, 1, h, w) from each patch to the readout tokens. flow: (B, N, N), to row from column."""
    rows = flow[:, tokens.readout].mean(dim=1, keepdim=True)
    return tokens.layout.to_map(rows.mT)


@torch.no_grad()
def _find_tokens(oracle: Oracle, model: Classifier, x: Tensor, method: str) -> Tokens:
    """Return the tokens of the model for images with the shape of x (1, C, H, W). Raise UsageError if the attention is unsuitable."""
    size = (x.shape[-2], x.shape[-1])
    known = _tokens.setdefault(model, {})
    if size not in known:
        expected = oracle.forward(model, x)
        with record_attention(model.model) as attentions:
            logits, outputs = trace_outputs(model.model, lambda _: oracle.forward(model, x), size)
        check_same_logits(method, logits, expected, loose=oracle.precision != "fp32")
        count = count_tokens(method, attentions, rows=1)
        layout = find_patches(method, count, [output.layout for output in outputs])
        groups = token_groups(layout).to(x.device)
        with record_attention(model.model, NaNProbe(len(attentions) - 1, groups)):
            is_read = oracle.forward(model, x.expand(len(groups), -1, -1, -1)).isnan().any(dim=1)
        known[size] = Tokens(layout, groups[is_read].any(dim=0))
        oracle.count_rows(checks=2 + len(groups))
    return known[size]


def count_tokens(method: str, attentions: Sequence[AttentionWeights], rows: int) -> int:
    """Return the number N of tokens of every attention. Raises UsageError unless all weights are (rows, heads, N, N)."""
    if not attentions:
        raise UsageError(
            f"{method} requires attention over a single grid of tokens, but none was found in the model", ALTERNATIVES
        )
    count = attentions[0].weights.shape[-1]
    for weights, module in attentions:
        shape = tuple(weights.shape)
        if len(shape) != 4 or shape[0] != rows or shape[2:] != (count, count):
            size = " x ".join(map(str, shape))
            images = "1 image" if rows == 1 else f"{rows} images"
            raise UsageError(
                f"{method} requires attention over a single grid of tokens, but the attention weights of "
                f"{module or 'the model'} have shape {size} for {images}",
                ALTERNATIVES,
            )
    return int(count)


def find_patches(method: str, count: int, layouts: Sequence[Layout]) -> Layout:
    """Return the last of the layouts that has ``count`` tokens. Raises UsageError if there is none."""
    for layout in reversed(layouts):
        if layout.kind == "tokens" and layout.tokens == count:
            return layout
    raise UsageError(
        f"{method} requires attention over a single grid of tokens, but {count} tokens do not form a grid", ALTERNATIVES
    )


def token_groups(layout: Layout) -> Tensor:
    """Return (1 + prefix, N) bool: the group of all patches, and a group for each token before them."""
    groups = torch.zeros(1 + layout.prefix, layout.tokens, dtype=torch.bool)
    groups[0, layout.prefix :] = True
    groups[1:, : layout.prefix] = torch.eye(layout.prefix, dtype=torch.bool)
    return groups
