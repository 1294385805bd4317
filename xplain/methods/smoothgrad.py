"""SmoothGrad, SmoothGrad-squared and VarGrad: gradients at noisy copies of the image."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import AutoSteps, Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._rounds import FIRST_SAMPLES, check_auto, max_count
from xplain.methods._sampling import Sampling
from xplain.methods._split_sums import SplitSums
from xplain.oracle import Oracle

TOLERANCE, MAX_SAMPLES = 0.5, 1000  # defaults of samples=auto


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
    cost=lambda samples, max_samples, **_: (max_count(samples, max_samples),) * 2,
    parallel=lambda samples, **_: max_count(samples, FIRST_SAMPLES),
    added=frozenset({"tolerance", "max_samples"}),
    deviations="Noisy copies are not clamped to [0, 1], as in all published code. kind=variance is the population variance; "
    "kind=absolute is the default of captum's noise tunnel around its saliency.",
)
def smoothgrad(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    samples: AutoSteps = 50,
    noise: Annotated[float, Bounds(low=0)] = 0.15,
    kind: Literal["mean", "absolute", "square", "variance"] = "mean",
    tolerance: Positive = TOLERANCE,
    max_samples: Steps = MAX_SAMPLES,
) -> Attribution:
    """Average the gradients over noisy copies of the image.

    g_i = ∇f(x + ε_i), ε_i ~ N(0, σ²), σ = noise · (max x - min x) per image.
    Kinds other than ``mean`` satisfy only the dummy axiom.
    samples=auto: 32 copies, then more in rounds, until the standard error of the map is at most ``tolerance`` times its norm:
    √(Σ_p SE_p²) / ‖φ‖ over the pixels p. ``details`` hold the copies and that error. Raises UsageError for samples=auto with kind=variance.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    samples: number of copies, or auto.
    noise: standard deviation of the noise, as a fraction of the value range of the image.
    kind: quantity to average: ``mean`` for g_i, ``absolute`` for |g_i|, ``square`` for g_i² or ``variance`` for (g_i - mean g)².
    tolerance: of samples=auto; 0.22 is a reliability of 0.95.
    max_samples: maximum number of copies of samples=auto. Images that need more are flagged.
    """
    check_auto("smoothgrad", "samples", samples, tolerance, TOLERANCE)
    if samples == "auto" and kind == "variance":
        raise UsageError("samples=auto is not defined for kind=variance", "set a number of samples")
    value_range = x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)
    sigma = (noise * value_range)[:, None]
    mean, sums, halves = torch.zeros_like(x), torch.zeros_like(x), SplitSums(x)
    sampling = Sampling(oracle, x, samples, tolerance, max_samples)
    for block in sampling.blocks():
        images, seen, new = block.images, block.points.start, block.shape[1]
        draws = rng.take(images).normal(block.point_indices(x.device), tuple(x.shape[1:]), x.dtype)
        gradients = oracle.block_gradients(block, x[images, None] + sigma[images] * draws, y)
        if kind in ("absolute", "square"):
            quantities = gradients.abs() if kind == "absolute" else gradients**2
            sampling.add(block, quantities)
            sums[images] += quantities.sum(dim=1)
            continue
        # parallel mean and variance: Chan, Golub and LeVeque 1979, eq. 2.1
        delta = gradients.mean(dim=1) - mean[images]
        mean[images] += delta * (new / (seen + new))
        sampling.add(block, gradients)
        halves.add(block, gradients)
        if kind == "variance":
            sums[images] += gradients.var(dim=1, correction=0) * new + delta**2 * (seen * new / (seen + new))
    if kind == "mean":
        return sampling.attribution(mean, parts=halves.split(mean * sampling.count))
    return sampling.attribution(sums / sampling.count)
