"""Expected gradients: integrated gradients averaged over random baselines, one node per baseline."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.papers import Paper
from xplain.core.parameters import AutoSteps, Bounds, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._references import check_shape
from xplain.methods._rounds import FIRST_SAMPLES, check_auto, max_count
from xplain.methods._sampling import Sampling
from xplain.oracle import Oracle

TOLERANCE, MAX_SAMPLES = 0.5, 2000  # defaults of samples=auto
STRATUM_DIGITS = 12  # binary digits of the number of nested intervals


@method(
    "expected-gradients",
    alias="eg",
    synonyms=("gradient-shap",),
    added=frozenset({"noise", "alpha", "tolerance", "max_samples"}),
    parameter_aliases={"baseline": "baselines"},
    paper=Paper(
        "Improving performance of deep learning models with axiomatic attribution priors and expected gradients",
        "Gabriel Erion, Joseph D. Janizek, Pascal Sturmfels, Scott M. Lundberg, Su-In Lee",
        2021,
        "Nature Machine Intelligence",
        "1906.10670",
        journal=True,
    ),
    axioms=frozenset({"linearity", "dummy", "implementation-invariance"}),
    undecided={"sensitivity-a": "no single baseline"},
    cost=lambda samples, max_samples, **_: (max_count(samples, max_samples),) * 2,
    parallel=lambda samples, **_: max_count(samples, FIRST_SAMPLES),
    deviations="α is stratified (one draw in each of n equal intervals), which keeps the expectation and lowers the variance. "
    "The method is complete in expectation only, so no gap is reported. GradientSHAP in captum and shap draws α from [0, 1].",
)
def expected_gradients(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    references: Tensor | None,
    samples: AutoSteps = 200,
    baselines: str = "noise",
    noise: Annotated[float, Bounds(low=0)] = 0.0,
    alpha: Literal["stratified", "nested"] = "stratified",
    tolerance: Positive = TOLERANCE,
    max_samples: Steps = MAX_SAMPLES,
) -> Attribution:
    """Average the difference to a random baseline times the gradient at a random point between them.

    φ = (1/n) Σ_i (x - x'_i) ⊙ ∇f(x'_i + α_i (x - x'_i)), x'_i drawn from the baselines, α_i from [(i-1)/n, i/n].
    GradientSHAP is the same, with x + σ ε_i, ε_i ~ N(0, 1), in place of x if ``noise`` is not 0.
    samples=auto: 32 samples, then more in rounds, until the standard error of the map is at most ``tolerance`` times its norm, see
    smoothgrad. It is computed as for independent samples, which is an upper bound.
    An image is never its own baseline. Raises InputError if no other baseline is left, or if baselines and images differ in shape.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    references: the images (N, C, H, W) of ``baselines``, or None for noise.
    samples: number of draws n, or auto.
    baselines: ``noise`` (uniform random images) or a directory of images; in Python also a tensor (N, C, H, W). ``baseline`` is another
    name of this parameter.
    noise: σ in pixel units. Noisy images are not clamped to [0, 1].
    alpha: ``nested`` draws the α_i of every 2^k first samples from 2^k equal intervals; samples=auto always does.
    tolerance: of samples=auto.
    max_samples: maximum number of samples of samples=auto. Images that need more are flagged.
    """
    check_auto("expected-gradients", "samples", samples, tolerance, TOLERANCE)
    alpha_rng, noise_rng = rng.child("alpha"), rng.child("noise")
    usable = None if references is None else _find_usable(x, references)
    divisor = 1 if samples == "auto" else samples
    total = torch.zeros_like(x)
    sampling = Sampling(oracle, x, samples, tolerance, max_samples)
    for block in sampling.blocks():
        numbers, images = block.point_indices(x.device), block.images
        if references is None or usable is None:
            baseline = rng.take(images).uniform(numbers, tuple(x.shape[1:]), x.dtype)
        else:
            baseline = _draw_references(rng.take(images), numbers, references, usable[images])
        if samples == "auto" or alpha == "nested":
            shares = draw_nested(alpha_rng.take(images), numbers, x.dtype)
        else:
            u = alpha_rng.take(images).uniform(numbers, (1, 1, 1), x.dtype)
            shares = (numbers[None, :, None, None, None] + u) / samples
        end = x[images, None]
        if noise > 0:
            end = end + noise * noise_rng.take(images).normal(numbers, tuple(x.shape[1:]), x.dtype)
        difference = end - baseline
        contributions = difference * oracle.block_gradients(block, baseline + shares * difference, y)
        sampling.add(block, contributions)
        total[images] += contributions.sum(dim=1) / divisor
    return sampling.attribution(total / sampling.count if samples == "auto" else total)


def draw_nested(rng: Streams, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Draw numbers (B, k, 1, 1, 1) in [0, 1], of which every 2^m first ones lie in 2^m different intervals of equal length.

    The van der Corput sequence with nested uniform scrambling: Owen 1995, Randomly permuted (t, m, s)-nets and (t, s)-sequences.
    numbers: indices (k,) of the samples.
    """
    drawn = rng.uniform(numbers, (), torch.float64) / 2**STRATUM_DIGITS
    for place in range(STRATUM_DIGITS):
        lower_digits, digit = numbers % 2**place, (numbers >> place) % 2
        flip = rng.child(f"digit {place}").integers(lower_digits, (), 2)
        drawn += (digit ^ flip) / 2 ** (place + 1)
    return drawn.to(dtype)[:, :, None, None, None]


def _find_usable(x: Tensor, references: Tensor) -> Tensor:
    """Return (B, N) bool: whether a reference differs from the image."""
    check_shape(references, x)
    usable = torch.stack([(references != image).flatten(1).any(dim=1) for image in x])
    if not bool(usable.any(dim=1).all()):
        raise InputError("the explained image is the only baseline", "pass other baseline images")
    return usable


def _draw_references(rng: Streams, numbers: Tensor, references: Tensor, usable: Tensor) -> Tensor:
    """Draw one usable reference per image and sample: (b, k, C, H, W). usable: (b, N) bool."""
    rank = rng.uniform(numbers, (), torch.float64)
    counts = usable.sum(dim=1)[:, None]
    order = usable.int().argsort(dim=1, descending=True, stable=True)
    return references[order.gather(1, (rank * counts).long())]
