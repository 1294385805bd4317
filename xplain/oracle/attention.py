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
from xplain.models.layouts import Layout, Size, read_layout
from xplain.models.spatial_layers import LayoutFinder
from xplain.oracle.attention_recorder import AttentionRecord, NaNProbe, record_attention
from xplain.oracle.layers import make_layout_finder
from xplain.oracle.same_logits import has_same_logits, refuse_if_random
from xplain.oracle.scores import compute_scores

if TYPE_CHECKING:
    from xplain.oracle.oracle import Oracle

ALTERNATIVES = "use grad-cam, integrated-gradients or rise"
STATE_LAYOUT = f"{ALTERNATIVES}, or state the layout with --layout HxW+PREFIX"
EARLY_OUTPUTS, LATE_OUTPUTS = 4, 8  # outputs whose layouts are compared


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a model.

    layout: the position of the patches. readout: (N,) bool, the tokens that the logits depend on.
    layers: the number of attentions of the tokens to one another.
    is_pooled: an attention with one query of its own, after those, reads out the tokens.
    """

    layout: Layout
    readout: Tensor
    layers: int
    is_pooled: bool = False


class AttentionResult(NamedTuple):
    """One matrix (B, N, N) per layer, in execution order, and the tokens that their rows and columns stand for.

    pooling: (B, 1, N) the matrix of the attention that reads out the tokens with one query, or None.
    """

    matrices: list[Tensor]
    tokens: Tokens
    pooling: Tensor | None = None


# The tokens of an inference copy, by image size and stated layout.
_tokens: WeakKeyDictionary[Classifier, dict[tuple[Size, str], Tokens]] = WeakKeyDictionary()


def probe_attention(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    method: str,
    reduce: Callable[[Tensor, Tensor | None], Tensor],
    *,
    layout: str = "auto",
    differentiate: bool,
) -> AttentionResult:
    """Return one matrix per layer, made from the attention weights and the gradients of the score there.

    x: (B, C, H, W) images. y: (B,) target classes. method: its name, for errors.
    reduce: a function of the weights (B, heads, N, N) and their gradients to (B, N, N).
    layout: the layout of the tokens, see ``read_layout``; ``auto``: decided by evidence.
    differentiate: if False, no backward pass runs, and ``reduce`` gets None for the gradients.
    Raises UsageError unless all attention runs over the same tokens, which contain one grid of patches in a known order, and if
    writing the attention out changes the logits.
    """
    oracle.classifier.checks.require_independent_rows(method)
    model = oracle.inference_copy(fold=oracle.fold, access="gradients" if differentiate else "layers")
    tokens = find_tokens(oracle, model, x[:1], method, layout)

    def run(x: Tensor, y: Tensor, contrasts: Tensor | None) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(differentiate), record_attention(model.model) as attentions:
            logits = oracle.forward(model, x.detach().requires_grad_(differentiate))
            count_tokens(method, attentions, len(x))
            weights = [attention.weights for attention in attentions.recorded]
            gradients: Sequence[Tensor | None] = [None] * len(weights)
            if differentiate:
                scores = compute_scores(logits, y, oracle.score, contrasts, oracle.output)
                gradients = torch.autograd.grad(scores.sum(), weights, materialize_grads=True)
        oracle.count_rows(forwards=len(x), backwards=len(x) if differentiate else 0)
        with torch.no_grad():
            return tuple(reduce(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True))

    oracle.count_image_rows(len(x), None, backwards=int(differentiate))
    matrices = oracle.run_in_batches(run, x, y, oracle.against, kind="attention")
    return AttentionResult(matrices[: tokens.layers], tokens, matrices[-1] if tokens.is_pooled else None)


def patch_map(flow: Tensor, result: AttentionResult) -> Tensor:
    """Return the flow (B, 1, h, w) from each patch to the tokens that the logits depend on. flow: (B, N, N), from column to row.

    It is the mean over the readout tokens, or that weighted by the attention that pools the tokens.
    """
    layout = result.tokens.layout
    if result.pooling is not None:
        return layout.to_map((result.pooling @ flow).mT)
    rows = flow[:, result.tokens.readout].mean(dim=1, keepdim=True)
    return layout.to_map(rows.mT)


@torch.no_grad()
def find_tokens(oracle: Oracle, model: Classifier, x: Tensor, method: str, layout: str) -> Tokens:
    """Return the tokens of the model for images with the shape of x (1, C, H, W). Raise UsageError if the attention is unsuitable."""
    key = ((x.shape[-2], x.shape[-1]), layout)
    known = _tokens.setdefault(model, {})
    if key in known:
        return known[key]
    expected = oracle.forward(model, x)
    with record_attention(model.model) as attentions:
        logits = oracle.forward(model, x)
    oracle.count_rows(checks=2)
    if not has_same_logits(logits, expected, loose=oracle.precision != "fp32"):
        refuse_if_random(oracle, model, x, expected, method)
        message = f"{method} does not support the model: its logits change when its attention is computed as a softmax of products"
        raise UsageError(message, ALTERNATIVES)
    count, layers = count_tokens(method, attentions, rows=1)
    stated = read_layout(layout)
    if stated is None:
        found = find_patches(method, count, make_layout_finder(oracle, model, x))
    elif stated.kind == "tokens" and stated.tokens == count:
        found = stated
    else:
        raise UsageError(f"the attention of the model is over {count} tokens, not over {stated}", "use another layout")
    groups = token_groups(found).to(x.device)
    has_query = len(attentions.recorded) > layers
    if has_query and _is_read(oracle, model, x, layers, groups.new_ones(1, 1)).any():
        known[key] = Tokens(found, groups.any(dim=0), layers, is_pooled=True)
    else:
        is_read = _is_read(oracle, model, x, layers - 1, groups)
        known[key] = Tokens(found, groups[is_read].any(dim=0), layers)
    return known[key]


def _is_read(oracle: Oracle, model: Classifier, x: Tensor, attention: int, groups: Tensor) -> Tensor:
    """Return whether the logits depend on each group of tokens (groups, N) after an attention, given by its index."""
    with record_attention(model.model, NaNProbe(attention, groups)):
        logits = oracle.forward(model, x.expand(len(groups), -1, -1, -1))
    oracle.count_rows(checks=len(groups))
    return logits.isnan().any(dim=1)


def count_tokens(method: str, attentions: AttentionRecord, rows: int) -> tuple[int, int]:
    """Return the number N of tokens of every attention, and the number of attentions without one that pools the tokens.

    Raises UsageError unless all weights are (rows, heads, N, N), but for those of a last attention with one query of its own, which
    are (rows, heads, 1, N).
    """
    recorded = attentions.recorded
    if not recorded:
        raise UsageError(
            f"{method} requires attention over a single grid of tokens, but none was found in the model", ALTERNATIVES
        )
    if attentions.unsupported:
        module = attentions.unsupported[0] or "the model"
        raise UsageError(
            f"{method} requires attention over a single grid of tokens, but the attention of {module} has masks, separate keys or "
            "an unusual form",
            ALTERNATIVES,
        )
    count = recorded[0].weights.shape[-1]
    last = recorded[-1].weights.shape
    has_query = len(recorded) > 1 and len(last) == 4 and last[2] == 1 and count > 1
    layers = len(recorded) - has_query
    for index, (weights, module) in enumerate(recorded):
        shape = tuple(weights.shape)
        queries = count if index < layers else 1
        if len(shape) != 4 or shape[0] != rows or shape[2:] != (queries, count):
            size = " x ".join(map(str, shape))
            images = "1 image" if rows == 1 else f"{rows} images"
            raise UsageError(
                f"{method} requires attention over a single grid of tokens, but the attention weights of "
                f"{module or 'the model'} have shape {size} for {images}",
                ALTERNATIVES,
            )
    return int(count), layers


def find_patches(method: str, count: int, finder: LayoutFinder) -> Layout:
    """Return the layout of the ``count`` tokens of a model.

    It is that of the last outputs with ``count`` tokens whose layout is known, on which the first ones agree.
    Raises UsageError if there is none, or if the order of the tokens is not known or changes between layers.
    """
    runs = finder.trace.last_runs()
    outputs = [run for run in runs if run.is_candidate and run.output.ndim == 3 and run.output.shape[1] == count]
    early, late = outputs[:EARLY_OUTPUTS], outputs[EARLY_OUTPUTS:][-LATE_OUTPUTS:]
    finder.select(early + late)
    evidence = [(traced, finder.evidence(traced)) for traced in early + late]
    placed = [(traced.name, found.layout) for traced, found in evidence if found.layout is not None]
    unknown = [traced.name for traced, found in evidence if found.layout is None and found.is_local]
    if unknown:
        raise UsageError(
            f"{method} requires attention over a single grid of tokens, but the {count} tokens of {unknown[-1]} follow no known order",
            STATE_LAYOUT,
        )
    if not placed:
        raise UsageError(
            f"{method} requires attention over a single grid of tokens, but {count} tokens do not form a grid",
            STATE_LAYOUT if outputs else ALTERNATIVES,
        )
    (first, early_layout), (last, layout) = placed[0], placed[-1]
    if early_layout != layout:
        raise UsageError(
            f"{method} requires attention over a single grid of tokens, but those of {first} are {early_layout}, and those of {last} "
            f"are {layout}",
            STATE_LAYOUT,
        )
    return layout


def token_groups(layout: Layout) -> Tensor:
    """Return (1 + others, N) bool: the group of all patches, and a group for each token before and after them."""
    is_patch = torch.zeros(layout.tokens, dtype=torch.bool)
    is_patch[layout.patches] = True
    return torch.cat([is_patch[None], torch.eye(layout.tokens, dtype=torch.bool)[~is_patch]])
