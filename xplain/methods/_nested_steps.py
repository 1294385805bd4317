"""Integrals along lines whose nodes are doubled until the attribution of an image is complete up to a tolerance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xplain.core.types import Attribution
from xplain.methods._rounds import Rounds
from xplain.oracle import Oracle

FIRST_STEPS = 7  # of the first round; fewer if max_steps is
GAP_RATIO = 3  # how many times the tolerance the gap of the previous round may be: a single small gap can be chance
TOLERANCE, MAX_STEPS = 0.01, 511  # defaults of the parameters of steps=auto


def nested_rounds(max_steps: int) -> list[int]:
    """Return the numbers of nodes at the ends of the rounds: 2^k - 1, from FIRST_STEPS to at most ``max_steps``."""
    ends = [2**k - 1 for k in range(1, (max_steps + 1).bit_length())]
    return [end for end in ends if end >= FIRST_STEPS] or ends[-1:]


def integrate_to_tolerance(
    oracle: Oracle, x: Tensor, y: Tensor, start: Tensor, *, tolerance: float, max_steps: int
) -> Attribution:
    """Return (x - start) ⊙ ∫ ∇f along the line from ``start`` to x, both (B, C, H, W), with as many nodes as each image needs.

    The nodes and weights are those of rule=chebyshev; each round adds the nodes between the previous ones. An image has enough nodes if
    its completeness gap is at most ``tolerance`` times the change of its score, and was at most GAP_RATIO times that in the previous round.
    ``details`` hold the steps and the gap as a share of the change of the score.
    """
    expected = oracle.score_change(start, x, y)
    difference, total = x - start, torch.zeros_like(x)
    gap_shares = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def find_errors(images: Tensor, count: int) -> Tensor:
        """Update the gaps of the images at the indices (N,). Return what must be within the tolerance (N,)."""
        sums = (difference[images] * total[images]).sum(dim=(1, 2, 3), dtype=torch.float64) * _normalization(count)
        changes = expected[images].double()
        gaps, previous = (sums - changes).abs(), gap_shares[images]
        gap_shares[images] = torch.where(gaps > 0, gaps / changes.abs(), 0)
        return torch.maximum(gap_shares[images], previous / GAP_RATIO)

    rounds = Rounds(oracle, x, nested_rounds(max_steps), tolerance, find_errors)
    angles = torch.tensor([math.pi * _nested_fraction(k) for k in range(max_steps)], dtype=torch.float64)
    nodes, weights = ((1 - angles.cos()) / 2).to(x), angles.sin().to(x)
    for block in rounds.blocks():
        alpha = nodes[block.points][None, :, None, None, None]
        points = torch.lerp(start[block.images, None], x[block.images, None], alpha)
        gradients = oracle.block_gradients(block, points, y)
        total[block.images] += torch.einsum("k,bkchw->bchw", weights[block.points], gradients)
    normalization = (math.pi / 2 / (rounds.counts.double() + 1)).tan().to(x)
    return Attribution(
        difference * total * normalization[:, None, None, None],
        expected=expected,
        details=rounds.describe("steps") | {"gap_share": gap_shares},
        flags=rounds.flag("steps"),
    )


def _normalization(count: int) -> float:
    """Return 1 / Σ_k sin(k π / (n + 1)) for n = ``count``."""
    return math.tan(math.pi / (2 * (count + 1)))


def _nested_fraction(index: int) -> float:
    """Return 1/2, 1/4, 3/4, 1/8, 3/8, 5/8, ...: the first 2^k - 1 are the multiples of 2^-k between 0 and 1."""
    power = (index + 1).bit_length() - 1
    return (2 * (index + 1 - 2**power) + 1) / 2 ** (power + 1)
