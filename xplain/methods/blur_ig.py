"""BlurIG: gradients collected while the image is blurred away."""

import math
from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.data.filters import cosine_basis
from xplain.oracle import Oracle


@method(
    "blur-ig",
    paper=Paper("Attribution in scale and space", "Xu, Venugopalan, Sundararajan", 2020, "CVPR", "2004.03383"),
    axioms=frozenset({"completeness", "linearity", "dummy", "implementation-invariance"}),
    cost=lambda steps, **_: (steps, steps),
    parallel=lambda steps, **_: steps,
    deviations="The Gaussian is not cut off and the borders are mirrored; the authors' program cuts it at 4 sigma, so the image is not "
    "blurred at all below sigma 0.12 and the first interval counts nothing, and darkens the borders by padding with zeros. "
    "Each interval's gradient is taken half-way between its ends and multiplied by the whole change over it, where the program "
    "multiplies the derivative at its left end by its width. Intervals widen with sigma (spacing=geometric), since nearly all the "
    "score is lost within the first few pixels; linear is the paper's.",
)
def blur_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 100,
    max_sigma: Positive = 50.0,
    spacing: Literal["geometric", "linear"] = "geometric",
) -> Attribution:
    """Gradients along the path of Gaussian blurs, times what the blur takes away.

    φ = -∫₀^σmax ∇f(L_σ) ⊙ ∂L_σ/∂σ dσ ≈ Σ_k ∇f((L_k + L_{k+1}) / 2) ⊙ (L_k - L_{k+1}),
    L_k = the image under a Gaussian of σ_k pixels, mirrored at the borders; σ_k = σmax k/n, or sinh(k/n · arsinh σmax),
    which is about even below one pixel and geometric above.
    Sums to f(x) - f(L_σmax) up to the steps' error, exactly for linear and quadratic f; ``expected`` holds that difference.
    x: (B, C, H, W) in [0, 1], y: (B,). max_sigma in pixels.
    """
    shares = torch.arange(steps + 1, dtype=torch.float64, device=x.device) / steps
    sigmas = max_sigma * shares if spacing == "linear" else torch.sinh(shares * math.asinh(max_sigma))
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, steps):
        levels = blur(x[block.images], sigmas[block.points.start : block.points.stop + 1])
        changes = levels[:, :-1] - levels[:, 1:]
        midpoints = (levels[:, :-1] + levels[:, 1:]) / 2
        gradients = oracle.block_gradients(block, midpoints, y)
        total[block.images] += (gradients * changes).sum(dim=1)
    end = blur(x, sigmas[-1:])[:, 0]
    return Attribution(total, expected=oracle.change(end, x, y))


def blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """(B, k, C, H, W): images (B, C, H, W) under Gaussians of ``sigmas`` (k,) pixels, mirrored (edge pixels repeated).

    Cosines are the eigenfunctions of the heat equation between mirrors: cos(π j (n + 1/2) / N) shrinks by
    exp(-σ² (π j / N)² / 2). Nothing is cut off, so that every σ > 0 blurs.
    """
    height, width = x.shape[-2:]
    of = {side: _blur_matrices(side, sigmas).to(x.dtype) for side in {height, width}}
    return of[height][None, :, None] @ x[:, None] @ of[width][None, :, None].mT


def _blur_matrices(side: int, sigmas: Tensor) -> Tensor:
    """(k, side, side) the blur of a line of ``side`` pixels."""
    basis = cosine_basis(side, sigmas)
    frequency = math.pi / side * torch.arange(side, dtype=sigmas.dtype, device=sigmas.device)
    return (basis.T * torch.exp(-((sigmas[:, None] * frequency) ** 2) / 2)[:, None, :]) @ basis
