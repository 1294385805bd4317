"""NeFLAG: negative flux through a small sphere around the image."""

from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle

Init = Literal["linf-corner", "linf-uniform", "l2-sphere"]


@method(
    "neflag",
    paper=Paper(
        "Negative flux aggregation to estimate feature attributions",
        "Li, Pan, Li, Qiang, Zhu",
        2023,
        "IJCAI",
        "2301.06989",
    ),
    score="prob",
    axioms=frozenset({"dummy", "implementation-invariance"}),
    cost=lambda samples, steps, flux, **_: (samples * (steps + (flux == "end")),) * 2,
    parallel=lambda samples, **_: samples,
    deviations="Algorithm 1 draws inside its inner loop, which only the last draw survives: one draw a sample here (the same at "
    "steps=1, the paper's setting). Algorithm 1 takes the gradient after the last step (flux=end); the default takes it before "
    "the step (flux=start), the reading that behaves as published. The distribution of initial points is not in the paper: "
    "random corners of the cube by default. No clamp to [0, 1], as printed.",
    rounding="flux=end and steps > 1 follow signs of gradient entries near zero. Least cosine on eight photographs, batch size 1 "
    "against 7 and auto, float32 against float64: default 1.000 and 1.000, flux=end 1.000 and 0.990, steps=3 1.000 and 0.86.",
)
def neflag(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    variant: Literal["sign", "lemma"] = "sign",
    flux: Literal["start", "end"] = "start",
    samples: Steps = 20,
    radius: Positive = 0.1,
    steps: Steps = 1,
    init: Init = "linf-corner",
    reduce: Literal["sum", "mean"] = "sum",
    negative_only: bool = False,
) -> Attribution:
    """Gradient times displacement, summed over points around the image that the gradient points into.

    From a random x̃₀ around x, steps times x̃ⱼ = x - ε sign ∇f(x̃ⱼ₋₁) (lemma: ε ∇f / ‖∇f‖₂); then
    φ += F ⊙ (x - x̃ₘ) with F = ∇f(x̃ₘ) at flux=end (Algorithm 1) or ∇f(x̃ₘ₋₁) at flux=start.
    With sign, flux=start and steps=1 this is ε |∇f| averaged over random points of the cube: never negative.
    flux=end and steps > 1 amplify rounding (see ``rounding``).
    radius: ε in pixel units. init: corners of the cube ±ε, uniform in it, or uniform on the L2 sphere of radius ε.
    On 200 ImageNet photographs (EfficientNet-Lite0, black, pixels, 28 steps) insertion minus deletion is 0.29 with flux=start, 0.04 with
    flux=end and 0.00 for ``random``.
    negative_only: drop samples whose flux F · (x̃ₘ - x) is not negative. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    shape = tuple(x.shape[1:])
    total = torch.zeros_like(x)
    kept = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for block in oracle.blocks(x, samples):
        center = x[block.images, None]
        point = center + radius * _start(rng.take(block.images), block.samples(x.device), shape, init, x.dtype)
        for _ in range(steps):
            field = oracle.block_gradients(block, point, y)
            point = center - radius * (field.sign() if variant == "sign" else _unit(field))
        if flux == "end":
            field = oracle.block_gradients(block, point, y)
        product = field * (center - point)
        if negative_only:
            product = product * (product.sum(dim=(2, 3, 4), keepdim=True) > 0)
        kept[block.images] += (product.flatten(2).sum(dim=2) > 0).sum(dim=1)
        total[block.images] += product.sum(dim=1)
    return Attribution(total / samples if reduce == "mean" else total, details={"negative_flux_share": kept / samples})


def _start(rng: Streams, numbers: Tensor, shape: tuple[int, ...], init: Init, dtype: torch.dtype) -> Tensor:
    """(b, k, C, H, W) random displacements at radius 1."""
    if init == "linf-corner":
        return rng.signs(numbers, shape, dtype)
    if init == "linf-uniform":
        return 2 * rng.uniform(numbers, shape, dtype) - 1
    return _unit(rng.normal(numbers, shape, dtype))


def _unit(field: Tensor) -> Tensor:
    """Each image of (..., C, H, W) divided by its L2 norm; zero stays zero."""
    norm = field.flatten(-3).norm(dim=-1)[..., None, None, None]
    return torch.where(norm > 0, field / norm.clamp(min=torch.finfo(field.dtype).tiny), 0)
