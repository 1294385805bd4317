"""SmoothGrad and its relatives: gradients over noisy copies of the image."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle


@method(
    "smoothgrad",
    slopes=True,
    alias="sg",
    paper=Paper(
        "SmoothGrad: removing noise by adding noise", "Smilkov, Thorat, Kim, Viégas, Wattenberg", 2017, "", "1706.03825"
    ),
    axioms=frozenset({"linearity", "dummy", "implementation-invariance"}),
    cost=lambda samples, **_: (samples, samples),
    parallel=lambda samples, **_: samples,
    deviations="Noisy copies are not clamped to [0, 1], as in every published code. kind=variance is the population variance; "
    "kind=absolute is what captum's noise tunnel averages by default, around its saliency.",
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
    """The mean gradient over copies of the image with Gaussian noise.

    φ = mean of g_i, of |g_i| (absolute), of g_i² (square) or mean (g_i - mean g)² (variance), g_i = ∇f(x + ε_i), ε_i ~ N(0, σ²),
    σ = noise · (max x - min x) for each image. Kinds other than mean claim no axiom but dummy.
    x: (B, C, H, W) in [0, 1], y: (B,).
    """
    spread = x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)
    sigma = (noise * spread)[:, None]
    mean, sums = torch.zeros_like(x), torch.zeros_like(x)
    for block in oracle.blocks(x, samples):
        some, done, new = block.images, block.points.start, block.shape[1]
        noises = rng.take(some).normal(block.samples(x.device), tuple(x.shape[1:]), x.dtype)
        gradients = oracle.block_gradients(block, x[some, None] + sigma[some] * noises, y)
        if kind in ("absolute", "square"):
            sums[some] += (gradients.abs() if kind == "absolute" else gradients**2).sum(dim=1)
            continue
        # parallel mean and variance: Chan, Golub and LeVeque 1979, eq. 2.1
        delta = gradients.mean(dim=1) - mean[some]
        mean[some] += delta * (new / (done + new))
        if kind == "variance":
            sums[some] += gradients.var(dim=1, correction=0) * new + delta**2 * (done * new / (done + new))
    return Attribution(mean if kind == "mean" else sums / samples)
