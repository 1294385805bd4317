"""Mechanisms whose score is a weighted sum of patch means, alone or behind layers that leave it unchanged."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from xplain.known.patches import PATCHES, draw_images, linear, mark_blocks, patch_means
from xplain.known.registry import mechanism
from xplain.known.truth import Draw, Planted, from_blocks

LAYERS = 6  # of the rewritten network
MARGIN = 10.0  # keeps its units on: centered means have a norm of at most 8 for pixels in [-0.5, 1.5]


def _weighted_sum(draw: Draw, weights: Tensor) -> Planted:
    """Return the score Σ w_j a_j for weights (PATCHES,), with the contribution w_j a_j of each block."""
    places = weights.nonzero()[:, 0]
    images = draw_images(draw, places, draw.uniform(draw.count, len(places), low=0.3, high=0.9))
    means = patch_means()(images).flatten(1).detach()
    values = means * weights
    relevant = None if len(places) == PATCHES else mark_blocks(draw.count, places)
    signs = from_blocks(values.sign()) if bool((weights < 0).any()) else None
    return Planted(_linear_network(weights), images, relevant=relevant, signs=signs, values=values)


def _linear_network(weights: Tensor) -> nn.Sequential:
    """Return the network with the logits (Σ w_j a_j, 0)."""
    rows = torch.stack([weights, torch.zeros_like(weights)])
    return nn.Sequential(patch_means(), nn.Flatten(), linear(rows, torch.zeros(2)))


def _sparse_weights(draw: Draw, values: Tensor) -> Tensor:
    """Return weights (PATCHES,) with the given values at drawn places."""
    weights = torch.zeros(PATCHES, dtype=torch.float64)
    weights[draw.order(PATCHES)[: len(values)]] = values
    return weights


@mechanism("null", kind="silence", summary="the score is constant: every map but zero is a false alarm")
def null(draw: Draw) -> Planted:
    """Return a network whose hidden units have zero weights."""
    places = draw.order(PATCHES)[:2]
    images = draw_images(draw, places, draw.uniform(draw.count, 2, low=0.3, high=0.9))
    hidden = linear(torch.zeros(4, PATCHES), torch.zeros(4))
    last = linear(torch.tensor([[1.0] * 4, [0.0] * 4]), torch.tensor([0.5, 0.0]))
    return Planted(nn.Sequential(patch_means(), nn.Flatten(), hidden, nn.ReLU(), last), images)


@mechanism("linear-dense", kind="value", summary="sum of all patch means with normal weights")
def linear_dense(draw: Draw) -> Planted:
    """Return Σ w_j a_j with 64 weights from N(0, 1)."""
    return _weighted_sum(draw, draw.normal(PATCHES))


@mechanism("linear-sparse", kind="set", summary="sum of 6 of the 64 patch means")
def linear_sparse(draw: Draw) -> Planted:
    """Return Σ w_j a_j with 6 weights from U(0.5, 1.5)."""
    return _weighted_sum(draw, _sparse_weights(draw, draw.uniform(6, low=0.5, high=1.5)))


@mechanism("linear-signed", kind="set", summary="sum of 3 patch means minus 3 others")
def linear_signed(draw: Draw) -> Planted:
    """Return Σ w_j a_j with 3 weights of 1 and 3 of -1."""
    return _weighted_sum(draw, _sparse_weights(draw, torch.tensor([1.0, 1, 1, -1, -1, -1], dtype=torch.float64)))


@mechanism("linear-graded", kind="set", summary="sum of 6 patch means with the weights 1, 2, 4, 8, 16 and 32, over 32")
def linear_graded(draw: Draw) -> Planted:
    """Return Σ w_j a_j whose 6 patches are also the parts to be ordered."""
    weights = _sparse_weights(draw, 2.0 ** torch.arange(6, dtype=torch.float64) / 32)
    planted = _weighted_sum(draw, weights)
    places = weights.nonzero()[:, 0]
    assert planted.values is not None
    masks = [mark_blocks(draw.count, place[None]) for place in places]
    return Planted(
        planted.network,
        planted.images,
        relevant=planted.relevant,
        values=planted.values,
        parts=torch.cat(masks, dim=1),
        effects=planted.values[:, places],
    )


@mechanism(
    "rewritten",
    kind="set",
    summary="linear-sparse behind 6 invertible layers whose ReLUs are always on",
    draws="linear-sparse",
)
def rewritten(draw: Draw) -> Planted:
    """Return linear-sparse, written as Q_6 (... ReLU(Q_1 (a - 1/2) + m) ...): same images and function, another implementation."""
    planted = linear_sparse(draw)
    weights = planted.network[2].weight[0].detach()  # type: ignore[index]
    layers: list[nn.Module] = [patch_means(), nn.Flatten()]
    offset = torch.full((PATCHES,), 0.5, dtype=torch.float64)  # what the input of the layer is shifted by
    product = torch.eye(PATCHES, dtype=torch.float64)
    for _ in range(LAYERS):
        rotation = torch.linalg.qr(draw.normal(PATCHES, PATCHES)).Q
        shifted = torch.full((PATCHES,), MARGIN, dtype=torch.float64)
        layers += [linear(rotation, shifted - rotation @ offset), nn.ReLU()]
        product, offset = rotation @ product, shifted
    row = product @ weights  # of centered means: wᵀ (a - 1/2) = (Q w)ᵀ Q (a - 1/2)
    bias = weights.sum() / 2 - row @ offset
    layers.append(linear(torch.stack([row, torch.zeros_like(row)]), torch.stack([bias, torch.zeros_like(bias)])))
    return replace(planted, network=nn.Sequential(*layers))
