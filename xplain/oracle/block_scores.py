"""The scores of the tokens after each transformer block, and their gradients at the attention weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.models.layouts import Layout
from xplain.oracle.attention import count_tokens
from xplain.oracle.attention_recorder import AttentionRecord, record_attention
from xplain.oracle.scores import compute_scores
from xplain.oracle.token_blocks import Pool, find_blocks, run_head_on_all_blocks

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle


class BlockGradients(NamedTuple):
    """Gradients of the score of each block's tokens at its attention weights, and the blocks.

    keys: (B, L, N) the mean over heads and queries of the positive part of the gradients, per block and key.
    layout: of the keys. blocks: the names of the L blocks.
    """

    keys: Tensor
    layout: Layout
    blocks: tuple[str, ...]


def differentiate_block_scores(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    method: str,
    *,
    last: int | None = None,
    pool: Pool = "mean",
    layout: str = "auto",
) -> BlockGradients:
    """Return the positive gradients of the scores of blocks, from one forward and one backward pass.

    The score of a block is that of the head for the tokens that the block returns. If an attention with one query of its own reads
    out the tokens, the gradients are those at its weights, and ``pool`` has no effect.

    x: (B, C, H, W) images. y: (B,) target classes. method: its name, for errors.
    last: the number of blocks, from the last one back; None: all. pool: see ``run_head_on_all_blocks``.
    layout: the layout of the tokens, see ``read_layout``; ``auto``: decided by evidence.
    Raises UsageError if the model has fewer blocks, if its attention is unsuitable, or if its head cannot be called on other tokens.
    """
    oracle.classifier.checks.require_independent_rows(method)
    model = oracle.inference_copy(fold=oracle.fold, access="gradients")
    found = find_blocks(oracle, model, x[:1], method, layout, pool)
    tokens = found.tokens
    if last is not None and last > len(found.names):
        count = f"{len(found.names)} block" + "s" * (len(found.names) > 1)
        raise UsageError(f"{method}: layers={last} is more than the {count} of the model", "use layers=all or fewer")
    blocks = found if last is None else replace(found, names=found.names[-last:])
    names = blocks.names

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor]:
        head = run_head_on_all_blocks(model.model, blocks, "own" if tokens.is_pooled else pool)
        with torch.enable_grad(), record_attention(model.model) as attentions, head:
            logits = oracle.forward(model, x.detach())
            count_tokens(method, AttentionRecord(attentions.recorded[: tokens.layers], [], []), len(x))
            weights = [attention.weights for attention in attentions.recorded[: tokens.layers][-len(names) :]]
            if tokens.is_pooled:
                weights = [attentions.recorded[-1].weights]
            rivals = None if contrasts is None else contrasts.repeat(len(names), 1)
            scores = compute_scores(logits, y.repeat(len(names)), oracle.score, rivals, oracle.output)
            gradients = torch.autograd.grad(scores.sum(), weights, materialize_grads=True)
        oracle.count_rows(forwards=len(x), backwards=len(x))
        positive = torch.cat([gradient.clamp(min=0).mean(dim=(1, 2)) for gradient in gradients])
        return (positive.unflatten(0, (len(names), len(x))).transpose(0, 1),)

    oracle.count_image_rows(len(x), None, backwards=1)
    (keys,) = oracle.run_in_batches(run, x, y, oracle.against)
    return BlockGradients(keys, tokens.layout, names)
