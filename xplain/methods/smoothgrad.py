"""SmoothGrad, SmoothGrad-squared and VarGrad: gradients at noisy copies of the image."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._split_sums import SplitSums
from xplain.oracle import Oracle


@method(
    "smoothgrad",
    slopes=True,
    alias="sg",
    paper=Paper(
        "SmoothGrad: removing noise by adding noise",
        "Daniel Smilkov, Nikhil Thorat, Been Kim, Fernanda Viégas, Martin Wattenberg",
        2017,
        "",
        "1706.03825",
    ),
    axioms=frozenset({"linearity", "dummy", "implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    cost=lambda samples, **_: (samples, samples),
    parallel=lambda samples, **_: samples,
    deviations="Noisy copies are not clamped to [0, 1], as in all published code. kind=variance is the population variance; "
    "kind=absolute is the default of captum's noise tunnel around its saliency.",
)
def smoothgrad(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    samples: Steps = 50,
    noise: Annotated[float, Bounds(low=0)] = 0.15,
    kind: Literal["mean", "absolute", "square", "variance"] = "mean",
) -> Attribution:
    """Average the gradients over noisy copies of the image.

    g_i = ∇f(x + ε_i), ε_i ~ N(0, σ²), σ = noise · (max x - min x) per image.
    Kinds other than ``mean`` satisfy only the dummy axiom.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    samples: number of copies.
    noise: standard deviation of the noise, as a fraction of the value range of the image.
    kind: quantity to average: ``mean`` for g_i, ``absolute`` for |g_i|, ``square`` for g_i² or ``variance`` for (g_i - mean g)².
    """
    value_range = x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)
    sigma = (noise * value_range)[:, None]
    mean, sums, halves = torch.zeros_like(x), torch.zeros_like(x), SplitSums(x)
    for block in oracle.blocks(x, samples):
        images, seen, new = block.images, block.points.start, block.shape[1]
        draws = rng.take(images).normal(block.point_indices(x.device), tuple(x.shape[1:]), x.dtype)
        gradients = oracle.block_gradients(block, x[images, None] + sigma[images] * draws, y)
        if kind == "absolute":
            sums[images] += gradients.abs().sum(dim=1)
            continue
        if kind == "square":
            sums[images] += (gradients**2).sum(dim=1)
            continue
        # parallel mean and variance: Chan, Golub and LeVeque 1979, eq. 2.1
        delta = gradients.mean(dim=1) - mean[images]
        mean[images] += delta * (new / (seen + new))
        halves.add(block, gradients)
        if kind == "variance":
            sums[images] += gradients.var(dim=1, correction=0) * new + delta**2 * (seen * new / (seen + new))
    if kind == "mean":
        return Attribution(mean, parts=halves.split(mean * samples))
    return Attribution(sums / samples)
