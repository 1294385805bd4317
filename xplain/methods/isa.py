"""ISA: the least important values are taken away round by round; the later a value goes, the more it counts."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle


@method(
    "isa",
    paper=Paper(
        "Iterative search attribution for deep neural networks",
        "Zhu, Chen, Wang, Zhang, Jin, Xue, Shen",
        2024,
        "ICML",
    ),
    score="log-prob",
    axioms=frozenset({"implementation-invariance"}),
    cost=lambda block, ascent, descent, **_: (-(-150528 // block) * (ascent + descent),) * 2,
    at_most=True,
    deviations="The authors' program, for each image by itself: its norms, least values and changes of the loss are those of a batch. "
    "The last round takes what is left; the program leaves it out, so that its most important values get 0. Its shift, which "
    "adds the least value where the text would subtract it, is kept. One softmax. A round whose loss ends where it began divides "
    "by nothing here, by zero there. The cost is given for 3 x 224 x 224 values.",
    plain=True,
    rounding="Signed steps and ranks: values near zero or near each other fall differently in correct float32 programs.",
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
    """The round in which a value is taken away, plus its rank within the round.

    L = -f. In round i the values left, x ⊙ M, start a climb of L - penalty ‖x‖ and a descent of L + penalty ‖x‖, by steps
    α sign g with g taken at noisy points; s = Σ α |g| over each, divided by the change of its loss, and added up.
    c = |(s + min s) ⊙ x|; the ``block`` values left with the least c get i + factor · (c - min c) / (max c - min c) and
    are set to black. factor > 1 lets rounds overlap.
    block in values, step_size α and noise in pixel units. Results in [0, rounds - 1 + factor], without a unit.
    x: (B, C, H, W) in [0, 1], y: (B,).
    """
    flat = x.flatten(1)
    result, taken = torch.zeros_like(flat), torch.zeros_like(flat, dtype=torch.bool)
    rounds = -(-flat.shape[1] // block)
    for number in range(rounds):
        start = (flat * ~taken).view_as(x)
        walks = (
            _walk(oracle, start, y, rng.child("ascent"), number, ascent, step_size, noise, penalty, "up"),
            _walk(oracle, start, y, rng.child("descent"), number, descent, step_size, noise, penalty, "down", ~taken),
        )
        score = (walks[0] + walks[1]).flatten(1)
        weight = ((score + score.amin(dim=1, keepdim=True)) * flat).abs()
        order = weight.masked_fill(taken, -torch.inf).argsort(dim=1, stable=True)
        least = order[:, number * block : (number + 1) * block]
        values = weight.gather(1, least)
        values = values - values.amin(dim=1, keepdim=True)
        values = values / (values.amax(dim=1, keepdim=True) + 1e-6) * factor
        result.scatter_(1, least, number + values)
        taken.scatter_(1, least, True)
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
    way: Literal["up", "down"],
    movable: Tensor | None = None,
) -> Tensor:
    """(B, C, H, W) the sum of α |g| on a signed walk from x, divided by what the walk gained of its loss.

    up: climbs -f - penalty ‖x‖; down: descends -f + penalty ‖x‖, moving only what is ``movable`` (B, d).
    """
    sign = 1 if way == "up" else -1
    total, first = torch.zeros_like(x), None
    loss = torch.zeros_like(y, dtype=x.dtype)
    for step in range(steps):
        which = torch.tensor([number * steps + step], device=x.device)
        found = oracle.gradients(x + noise * rng.normal(which, tuple(x.shape[1:]), x.dtype)[:, 0], y)
        norm = x.flatten(1).norm(dim=1)
        loss = -found.scores - sign * penalty * norm
        first = loss if first is None else first
        inverse = torch.where(norm > 0, 1 / norm.clamp(min=torch.finfo(x.dtype).tiny), 0)[:, None, None, None]
        slope = -found.values - sign * penalty * x * inverse
        if movable is not None:
            slope = slope * movable.view_as(x)
        total += step_size * slope.abs()
        x = x + sign * step_size * slope.sign()
    gain = sign * (loss - first if first is not None else loss)
    return total / torch.where(gain != 0, gain, 1)[:, None, None, None].to(x.dtype)
