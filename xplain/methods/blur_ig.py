"""BlurIG: gradients collected while the image is blurred away."""

import math
from typing import Literal

import torch
from torch import Tensor

from xplain.oracle import Oracle
from xplain.points import cosine_basis
from xplain.registry import Positive, Steps, method
from xplain.types import Attribution, Paper


@method(
    "blur-ig",
    paper=Paper("Attribution in scale and space", "Xu, Venugopalan, Sundararajan", 2020, "CVPR", "2004.03383"),
    axioms=frozenset({"completeness", "linearity", "dummy", "implementation-invariance"}),
    cost=lambda steps, **_: (steps, steps),
    parallel=lambda steps, **_: steps,
    deviations="The Gaussian is not cut off and the borders are mirrored; the authors' program cuts it at 4 sigma, so the image is not "
    "blurred at all below sigma 0.12 and the first interval counts nothing, and darkens the borders by padding with zeros. "
    "Each interval's gradient is taken in its middle and multiplied by the whole change over it, where the program multiplies "
    "the derivative at its left end by its width. Intervals widen with sigma (spacing=square), since nearly all the score is lost "
    "within the first few pixels; linear is the paper's.",
)
def blur_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 100,
    max_sigma: Positive = 50.0,
    spacing: Literal["square", "linear"] = "square",
) -> Attribution:
    """Gradients along the path of Gaussian blurs, times what the blur takes away.

    φ = -∫₀^σmax ∇f(L_σ) ⊙ ∂L_σ/∂σ dσ ≈ Σ_k ∇f(L at the middle of σ_k, σ_{k+1}) ⊙ (L_{σ_k} - L_{σ_{k+1}}),
    L_σ = the image under a Gaussian of σ pixels, mirrored at the borders; σ_k = σmax (k/n)² or σmax k/n.
    Sums to f(x) - f(L_σmax) up to the steps' error, exactly for linear f; ``expected`` holds that difference.
    x: (B, C, H, W) in [0, 1], y: (B,). max_sigma in pixels.
    """
    shares = torch.arange(2 * steps + 1, dtype=torch.float64, device=x.device) / (2 * steps)
    sigmas = max_sigma * (shares**2 if spacing == "square" else shares)
    sigmas[1::2] = (sigmas[:-1:2] + sigmas[2::2]) / 2
    total = torch.zeros_like(x)
    for block, _, gradients in oracle.sweep(
        x, y, steps, lambda block: blur(x[block.images], sigmas[1::2][block.points])
    ):
        edges = blur(x[block.images], sigmas[::2][block.points.start : block.points.stop + 1])
        total[block.images] += (gradients * (edges[:, :-1] - edges[:, 1:])).sum(dim=1)
    end = blur(x, sigmas[-1:])[:, 0]
    return Attribution(total, expected=oracle.scores(x, y, check=True) - oracle.scores(end, y, check=True))


def blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """(B, k, C, H, W): images (B, C, H, W) under Gaussians of ``sigmas`` (k,) pixels, mirrored (edge pixels repeated).

    Cosines are the eigenfunctions of the heat equation between mirrors: cos(π j (n + 1/2) / N) shrinks by
    exp(-σ² (π j / N)² / 2). Nothing is cut off, so that every σ > 0 blurs.
    """
    rows, columns = (_blur_matrices(side, sigmas).to(x.dtype) for side in x.shape[-2:])
    return rows[None, :, None] @ x[:, None] @ columns[None, :, None].mT


def _blur_matrices(side: int, sigmas: Tensor) -> Tensor:
    """(k, side, side) the blur of a line of ``side`` pixels."""
    basis = cosine_basis(side, sigmas)
    frequency = math.pi / side * torch.arange(side, dtype=sigmas.dtype, device=sigmas.device)
    return (basis.T * torch.exp(-((sigmas[:, None] * frequency) ** 2) / 2)[:, None, :]) @ basis
