"""Expected gradients: integrated gradients averaged over many baselines, one node each."""

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle
from xplain.oracle.blocks import Block


@method(
    "expected-gradients",
    alias="eg",
    paper=Paper(
        "Improving performance of deep learning models with axiomatic attribution priors and expected gradients",
        "Erion, Janizek, Sturmfels, Lundberg, Lee",
        2021,
        "Nature Machine Intelligence",
        "1906.10670",
        journal=True,
    ),
    axioms=frozenset({"linearity", "dummy", "implementation-invariance"}),
    cost=lambda samples, **_: (samples, samples),
    parallel=lambda samples, **_: samples,
    deviations="α is stratified (one draw in each of n equal intervals), which keeps the expectation and lowers the variance. "
    "Complete in expectation only, so no gap is reported.",
)
def expected_gradients(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    references: Tensor | None,
    samples: Steps = 200,
    baselines: str = "noise",
) -> Attribution:
    """Difference to a random baseline times the gradient at a random point between them, averaged.

    φ = (1/n) Σ_i (x - x'_i) ⊙ ∇f(x'_i + α_i (x - x'_i)), x'_i drawn from the baselines, α_i from [(i-1)/n, i/n].
    baselines: ``noise`` (uniform random images) or a directory of images; in the library also a tensor (N, C, H, W).
    The explained image itself is never its own baseline. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    draw = rng.child("alpha")
    usable = None if references is None else _others(x, references)

    def reference(block: Block) -> Tensor:
        numbers = block.samples(x.device)
        if references is None or usable is None:
            return rng.take(block.images).uniform(numbers, tuple(x.shape[1:]), x.dtype)
        rank = rng.take(block.images).uniform(numbers, (), torch.float64)
        counts = usable.sum(dim=1)[block.images, None]
        order = usable.int().argsort(dim=1, descending=True, stable=True)[block.images]
        return references[order.gather(1, (rank * counts).long())]

    total = torch.zeros_like(x)
    for block in oracle.blocks(x, samples):
        baseline = reference(block)
        u = draw.take(block.images).uniform(block.samples(x.device), (1, 1, 1), x.dtype)
        alpha = (block.samples(x.device)[None, :, None, None, None] + u) / samples
        difference = x[block.images, None] - baseline
        gradients = oracle.block_gradients(block, baseline + alpha * difference, y)
        total[block.images] += (difference * gradients).sum(dim=1) / samples
    return Attribution(total)


def _others(x: Tensor, references: Tensor) -> Tensor:
    """(B, N) bool: the reference is another image."""
    if references.ndim != 4 or references.shape[1:] != x.shape[1:]:
        raise InputError(f"baselines {tuple(references.shape)} for images {tuple(x.shape)}", "give (N, C, H, W)")
    usable = torch.stack([(references != image).flatten(1).any(dim=1) for image in x])
    if not bool(usable.any(dim=1).all()):
        raise InputError("the baselines hold no image but the explained one", "give more images")
    return usable
