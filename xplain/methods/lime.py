"""LIME: a linear model of the score, fitted to images with hidden superpixels."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import OR_IMAGES, make_baseline
from xplain.methods._regression import SegmentRegression
from xplain.methods._segmentation import describe_segmented_bands, fill_with_means, find_superpixels, spread_evenly
from xplain.oracle import Oracle

Fill = Annotated[Literal["segment", "black", "white", "mean", "blur", "uniform"], OR_IMAGES]


@method(
    "lime",
    access="outputs",
    paper=Paper(
        '"Why should I trust you?": explaining the predictions of any classifier',
        "Marco Tulio Ribeiro, Sameer Singh, Carlos Guestrin",
        2016,
        "KDD",
        "1602.04938",
    ),
    score="prob",
    axioms=frozenset({"linearity", "implementation-invariance"}),
    undecided={"sensitivity-a": "the penalty of the surrogate can shrink small coefficients to zero"},
    cost=lambda samples, **_: (samples, 0),
    parallel=lambda samples, **_: samples,
    deviations="Superpixels are computed by SLIC, where the authors' code uses quickshift. All other defaults are those of the code: a "
    "hidden superpixel shows its mean color, weights are the square root of the paper's kernel (the factor 2 below), ridge regression with "
    "penalty 1 on all segments. A segment's coefficient is divided evenly among its pixels; figures of LIME assign the whole "
    "coefficient to each pixel.",
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
    baseline: Fill = "segment",
) -> Attribution:
    """Fit a ridge regression of the score on the visible superpixels, and return its coefficients.

    Sample 0 shows all K segments, the others each with probability 1/2: z ∈ {0, 1}^K. β, c minimize
    Σ_i π_i (f(x_i) - c - β·z_i)² + ridge ‖β‖², π = exp(-D² / (2 width²)), D = 1 - √(Σz / K), the cosine distance to all
    shown. φ at a pixel = β of its segment / number of the segment's pixels. Returns (B, 1, H, W).

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    samples: number of samples, including sample 0.
    segments: approximate number of superpixels.
    width: width of the kernel π.
    ridge: penalty on the squared coefficients.
    baseline: what a hidden segment shows; ``segment``: its mean color.
    """
    labels = find_superpixels(x, segments)
    fill = _make_fill(oracle, x, labels, rng.child("baseline"), baseline)
    regression = SegmentRegression(oracle, x, y, labels, fill)
    counts = regression.counts
    for block in oracle.blocks(x, samples):
        images, numbers = block.images, block.point_indices(x.device)
        drawn = rng.take(images).uniform(numbers, (regression.size,), torch.float64) < 0.5
        visible = (drawn | (numbers == 0)[:, None]) & regression.exists[images, None]
        distance = 1 - (visible.double().sum(dim=2) / counts[images, None]).sqrt()
        regression.add(block, visible, torch.exp(-(distance**2) / (2 * width**2)))
    penalty = torch.full_like(regression.moments, ridge)
    penalty[:, 0] = 0
    coefficients = torch.linalg.solve(regression.gram + torch.diag_embed(penalty), regression.moments)[:, 1:]
    values = spread_evenly(coefficients, labels).to(x.dtype)
    return Attribution(values, details={"segments": counts}, facts=describe_segmented_bands(x))


def _make_fill(oracle: Oracle, x: Tensor, labels: Tensor, rng: Streams, baseline: Fill | Tensor) -> Tensor:
    """Return the images (B, C, H, W) that hidden segments show."""
    if isinstance(baseline, str) and baseline == "segment":
        return fill_with_means(x, labels)
    return make_baseline(baseline, x, oracle.mean_color(x), rng)
