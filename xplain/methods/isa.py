"""ISA (iterative search attribution): remove the least important values round by round."""

from typing import Annotated

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle

CLAIMED_VALUES = 3 * 224 * 224  # values of the image that the claimed cost refers to


def _cost(block: int, ascent: int, descent: int, **_: object) -> tuple[int, int]:
    """Return the (forward, backward) rows per image of 224 x 224 pixels."""
    rounds = -(-CLAIMED_VALUES // block)
    return rounds * (ascent + descent), rounds * (ascent + descent)


@method(
    "isa",
    paper=Paper(
        "Iterative search attribution for deep neural networks",
        "Zhiyu Zhu, Huaming Chen, Xinyi Wang, Jiayu Zhang, Zhibo Jin, Jason Xue, Jun Shen",
        2024,
        "ICML",
    ),
    score="log-prob",
    axioms=frozenset({"implementation-invariance"}),
    undecided={"sensitivity-a": "values are ranks, not in units of the score"},
    cost=_cost,
    at_most=True,
    deviations="Follows the authors' code, applied per image; the code computes norms, minima and changes of the loss over a batch. "
    "The last round takes the remaining values; the code omits it, so that its most important values get 0. The shift of the code, which "
    "adds the minimum where the text subtracts it, is kept. The softmax is applied once. A round whose loss does not change is not "
    "divided by that change, where the code divides by zero. The cost is given for 3 x 224 x 224 values.",
    plain=True,
    rounding="Signed steps and ranks: values near zero or near each other differ between correct float32 implementations.",
)
def isa(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    block: Steps = 5000,
    ascent: Steps = 8,
    descent: Steps = 8,
    step_size: Positive = 0.004,
    noise: Annotated[float, Bounds(low=0)] = 0.05,
    penalty: Annotated[float, Bounds(low=0)] = 0.01,
    factor: Annotated[float, Bounds(low=0)] = 1.3,
) -> Attribution:
    """Rank features by the round in which they are removed as least important and by their rank within that round.

    L = -f. In round i the remaining values, x ⊙ M, are the start of an ascent of L - penalty ‖x‖ and a descent of L + penalty ‖x‖, by
    steps α sign g with g computed at noisy points; s = Σ α |g| of each, divided by the change of its loss, summed over both.
    c = |(s + min s) ⊙ x|; the ``block`` remaining values with the smallest c get i + factor · (c - min c) / (max c - min c) and
    are set to black. Results lie in [0, rounds - 1 + factor], without a unit.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    block: number of values removed per round.
    ascent: steps of the ascent per round.
    descent: steps of the descent per round.
    step_size: α in pixel units.
    noise: standard deviation of the noise, in pixel units.
    penalty: weight of the norm in the losses of ascent and descent.
    factor: range of the ranks within a round; rounds overlap if it is greater than 1.
    """
    flat = x.flatten(1)
    result, removed = torch.zeros_like(flat), torch.zeros_like(flat, dtype=torch.bool)
    rounds = -(-flat.shape[1] // block)
    for number in range(rounds):
        start = (flat * ~removed).view_as(x)
        up = _walk(oracle, start, y, rng.child("ascent"), number, ascent, step_size, noise, penalty, sign=1)
        down = _walk(
            oracle,
            start,
            y,
            rng.child("descent"),
            number,
            descent,
            step_size,
            noise,
            penalty,
            sign=-1,
            movable=~removed,
        )
        score = (up + down).flatten(1)
        weight = ((score + score.amin(dim=1, keepdim=True)) * flat).abs()
        order = weight.masked_fill(removed, -torch.inf).argsort(dim=1, stable=True)
        least = order[:, number * block : (number + 1) * block]
        values = weight.gather(1, least)
        values = values - values.amin(dim=1, keepdim=True)
        values = values / (values.amax(dim=1, keepdim=True) + 1e-6) * factor
        result.scatter_(1, least, number + values)
        removed.scatter_(1, least, True)
    return Attribution(result.view_as(x), details={"rounds": torch.full_like(y, rounds)})


def _walk(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    rng: Streams,
    number: int,
    steps: int,
    step_size: float,
    noise: float,
    penalty: float,
    *,
    sign: int,
    movable: Tensor | None = None,
) -> Tensor:
    """Return Σ α |g| (B, C, H, W) along a signed-gradient walk from x, divided by the change of the loss along the walk.

    number: index of the round.
    sign: 1 to ascend -f - penalty ‖x‖, -1 to descend -f + penalty ‖x‖.
    movable: (B, d), boolean mask of the values that may change, or None for all values.
    """
    total = torch.zeros_like(x)
    first_loss = loss = torch.zeros_like(y, dtype=x.dtype)
    for step in range(steps):
        sample = torch.full((1,), number * steps + step, device=x.device)
        result = oracle.gradients(x + noise * rng.normal(sample, tuple(x.shape[1:]), x.dtype)[:, 0], y)
        norm = x.flatten(1).norm(dim=1)
        loss = -result.scores - sign * penalty * norm
        if step == 0:
            first_loss = loss
        inverse = torch.where(norm > 0, 1 / norm.clamp(min=torch.finfo(x.dtype).tiny), 0)[:, None, None, None]
        gradient = -result.values - sign * penalty * x * inverse
        if movable is not None:
            gradient = gradient * movable.view_as(x)
        total += step_size * gradient.abs()
        x = x + sign * step_size * gradient.sign()
    gain = sign * (loss - first_loss)
    return total / torch.where(gain != 0, gain, 1)[:, None, None, None].to(x.dtype)
