"""LIME: a linear model of the score, fitted to images with superpixels hidden."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import make_baseline
from xplain.methods._segmentation import segment_means, spread, superpixels
from xplain.oracle import Oracle
from xplain.oracle.blocks import Block


@method(
    "lime",
    paper=Paper(
        '"Why should I trust you?": explaining the predictions of any classifier',
        "Ribeiro, Singh, Guestrin",
        2016,
        "KDD",
        "1602.04938",
    ),
    score="prob",
    axioms=frozenset({"linearity", "implementation-invariance"}),
    cost=lambda samples, **_: (samples, 0),
    parallel=lambda samples, **_: samples,
    deviations="Superpixels by SLIC, where the program takes quickshift. Its defaults otherwise: a hidden superpixel shows its mean "
    "colour, weights are the square root of the paper's kernel (the factor 2 below), ridge regression with penalty 1 on all segments. "
    "A segment's coefficient is shared evenly by its pixels; pictures of LIME give it whole to each.",
)
def lime(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    samples: Steps = 1000,
    segments: Steps = 50,
    width: Positive = 0.25,
    ridge: Annotated[float, Bounds(above=0)] = 1.0,
    baseline: Literal["segment", "black", "white", "mean", "blur", "uniform"] = "segment",
) -> Attribution:
    """Coefficients of a ridge regression of the score on which superpixels are shown.

    Sample 0 shows all K segments, the others each with probability 1/2: z ∈ {0, 1}^K. β, c minimise
    Σ_i π_i (f(x_i) - c - β·z_i)² + ridge ‖β‖², π = exp(-D² / (2 width²)), D = 1 - √(Σz / K), the cosine distance to all
    shown. φ at a pixel = β of its segment / the segment's pixels.
    segments: about how many. baseline: what a hidden segment shows; ``segment`` its mean colour.
    Returns (B, 1, H, W). x: (B, C, H, W) in [0, 1], y: (B,).
    """
    labels = superpixels(x, segments)
    fill = (
        segment_means(x, labels)
        if baseline == "segment"
        else make_baseline(baseline, x, oracle.mean, rng.child("baseline"))
    )
    counts = labels.amax(dim=(1, 2)) + 1

    def draw(block: Block) -> Tensor:
        numbers = block.samples(x.device)
        shown = rng.take(block.images).uniform(numbers, (int(counts.max()),), torch.float64) < 0.5
        return shown | (numbers == 0)[:, None]

    def weigh(shown: Tensor, count: Tensor) -> Tensor:
        distance = 1 - (shown.sum(dim=2) / count).sqrt()
        return torch.exp(-(distance**2) / (2 * width**2))

    sums = regress(oracle, x, y, labels, fill, samples, draw, weigh)
    penalty = torch.full_like(sums.moments, ridge)
    penalty[:, 0] = 0
    fitted = torch.linalg.solve(sums.gram + torch.diag_embed(penalty), sums.moments)
    return Attribution(spread(fitted[:, 1:], labels).to(x.dtype), details={"segments": counts})


class Sums(NamedTuple):
    """gram (B, K + 1, K + 1) = Σ_i π_i z_i z_iᵀ, moments (B, K + 1) = Σ_i π_i z_i f(x_i), with z_0 = 1; float64."""

    gram: Tensor
    moments: Tensor


def regress(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    labels: Tensor,
    fill: Tensor,
    samples: int,
    draw: Callable[[Block], Tensor],
    weigh: Callable[[Tensor, Tensor], Tensor],
) -> Sums:
    """The sums of a weighted regression of the score on which segments are shown.

    labels: (B, H, W). fill: (B, C, H, W) what hidden segments show. draw: Block -> (b, k, K) bool, shown segments;
    those that an image does not have are dropped. weigh: (shown (b, k, K), segments (b, 1)) -> (b, k) weights.
    """
    counts = labels.amax(dim=(1, 2)) + 1
    size = int(counts.max())
    exists = torch.arange(size, device=x.device) < counts[:, None]
    gram = torch.zeros(len(x), size + 1, size + 1, dtype=torch.float64, device=x.device)
    moments = torch.zeros(len(x), size + 1, dtype=torch.float64, device=x.device)
    for block in oracle.blocks(x, samples):
        shown = (draw(block) & exists[block.images, None]).double()
        index = labels[block.images].flatten(1)[:, None].expand(-1, block.shape[1], -1)
        mask = shown.gather(2, index).unflatten(2, labels.shape[1:])[:, :, None]
        points = torch.where(mask > 0, x[block.images, None], fill[block.images, None])
        scores = oracle.block_scores(block, points, y)
        weights = weigh(shown, counts[block.images, None])
        rows = torch.cat([torch.ones_like(shown[:, :, :1]), shown], dim=2)
        weighted = weights[:, :, None] * rows
        gram[block.images] += weighted.mT @ rows
        moments[block.images] += (weighted.mT @ scores.double()[:, :, None])[:, :, 0]
    return Sums(gram, moments)
