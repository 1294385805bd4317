"""The last attention of a model that reads a class token: queries, keys and values, and the score's gradient at its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.models.layouts import Layout
from xplain.oracle.attention import Tokens, count_tokens, find_tokens
from xplain.oracle.attention_recorder import join_heads, record_attention
from xplain.oracle.scores import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

ALTERNATIVES = "use attention-relevance or legrad"


class LastAttention(NamedTuple):
    """The last attention, with the heads one after the other.

    layout: of the N tokens.
    gradient: (B, D) of the score at the attention's output for the class token, before its projection. output: (B, D), that output.
    values: (B, N, D). weights: (B, heads, N) of the class token. query: (B, K) of the class token, and keys: (B, N, K), both after the
    projection of the output.
    """

    layout: Layout
    gradient: Tensor
    output: Tensor
    values: Tensor
    weights: Tensor
    query: Tensor
    keys: Tensor


def probe_last_attention(oracle: Oracle, x: Tensor, y: Tensor, method: str, *, layout: str = "auto") -> LastAttention:
    """Return the last attention for the class token and the gradient of the score there, from one forward pass.

    The backward pass runs through the layers after the last attention only.
    x: (B, C, H, W) images. y: (B,) target classes. method: its name, for errors.
    layout: the layout of the tokens, see ``read_layout``; ``auto``: decided by evidence.
    Raises UsageError if the attention is unsuitable, if the logits do not read exactly one class token, or if the last attention is
    not computed by torch's attention and a linear layer.
    """
    oracle.classifier.checks.require_independent_rows(method)
    model = oracle.inference_copy(fold=oracle.fold, access="gradients")
    tokens = find_tokens(oracle, model, x[:1], method, layout)
    position = _find_class_token(tokens, method)

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
        last = tokens.layers - 1
        with torch.enable_grad(), record_attention(model.model, parts_of=last) as attentions:
            logits = oracle.forward(model, x.detach())
            count_tokens(method, attentions, len(x))
            if not attentions.parts or attentions.parts[0].projection is None:
                raise UsageError(
                    f"{method} requires the queries, keys and values of the last attention, but that of "
                    f"{attentions.recorded[last].module or 'the model'} is not torch's attention followed by a linear layer",
                    ALTERNATIVES,
                )
            parts = attentions.parts[0]
            scores = compute_scores(logits, y, oracle.score, contrasts, oracle.output)
            (gradient,) = torch.autograd.grad(scores.sum(), parts.output)
        oracle.count_rows(forwards=len(x), backwards=len(x))
        with torch.no_grad():
            return (
                join_heads(gradient)[:, position],
                join_heads(parts.output.detach())[:, position],
                join_heads(parts.value),
                attentions.recorded[last].weights[:, :, position],
                parts.project(join_heads(parts.query)[:, position]),
                parts.project(join_heads(parts.key)),
            )

    oracle.count_image_rows(len(x), None, backwards=1)
    return LastAttention(tokens.layout, *oracle.run_in_batches(run, x, y, oracle.against))


def _find_class_token(tokens: Tokens, method: str) -> int:
    """Return the index of the only token that the logits depend on. Raises UsageError if there are several, or if it is a patch."""
    read = tokens.readout.nonzero().flatten().tolist()
    patches = tokens.layout.patches
    if tokens.is_pooled:
        what = "all tokens by an attention with one query"
    elif len(read) != 1:
        what = f"{len(read)} of {tokens.layout.tokens} tokens"
    elif patches.start <= read[0] < patches.stop:
        what = "a patch"
    else:
        return int(read[0])
    raise UsageError(f"{method} requires a model whose logits read one class token, but they read {what}", ALTERNATIVES)
