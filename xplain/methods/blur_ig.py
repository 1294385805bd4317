"""BlurIG: integrated gradients along a path of increasing Gaussian blur."""

import math
from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import method
from xplain.core.types import Attribution
from xplain.data.filters import cosine_basis
from xplain.methods._idgi import Direction, ScoreChanges
from xplain.oracle import Oracle


@method(
    "blur-ig",
    paper=Paper(
        "Attribution in scale and space",
        "Shawn Xu, Subhashini Venugopalan, Mukund Sundararajan",
        2020,
        "CVPR",
        "2004.03383",
    ),
    axioms=frozenset({"completeness", "linearity", "dummy", "implementation-invariance"}),
    undecided={"sensitivity-a": "the baseline is a blurred image, which differs from the image everywhere"},
    cost=lambda steps, direction, **_: (steps + (direction == "idgi"), steps),
    parallel=lambda steps, **_: steps,
    deviations="The Gaussian is not truncated and the borders are mirrored. The authors' code truncates it at 4 sigma, so that it does "
    "not blur below sigma 0.12 and its first interval contributes nothing, and it pads with zeros, which darkens the borders. "
    "Each interval's gradient is computed at the midpoint of the interval and multiplied by the whole change over it; the code "
    "multiplies the derivative at the left end by the interval's width. Intervals widen with sigma (spacing=geometric), since most of the "
    "score is lost within the first few pixels; linear is the paper's spacing. "
    "direction=idgi is defined by Yang, Wang and Bilgic, CVPR 2023 (2303.14242); its path starts at the most blurred image.",
    added=frozenset({"direction"}),
)
def blur_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 100,
    max_sigma: Positive = 50.0,
    spacing: Literal["geometric", "linear"] = "geometric",
    direction: Direction = "none",
) -> Attribution:
    """Integrate the gradient along a path of increasing Gaussian blur.

    φ = -∫₀^σmax ∇f(L_σ) ⊙ ∂L_σ/∂σ dσ ≈ Σ_k ∇f((L_k + L_{k+1}) / 2) ⊙ (L_k - L_{k+1}),
    L_k = the image blurred by a Gaussian of σ_k pixels, mirrored at the borders.
    Sums to f(x) - f(L_σmax) up to the error of the steps, exactly for linear and quadratic f; ``expected`` holds that difference.
    direction=idgi: φ = Σ_k (f(L_k) - f(L_{k+1})) ∇f(L_{k+1})² / ‖∇f(L_{k+1})‖², with the gradient at the more blurred end of each interval;
    see integrated-gradients.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    steps: number of intervals n.
    max_sigma: σmax in pixels.
    spacing: ``linear`` σ_k = σmax k/n, or ``geometric`` σ_k = sinh(k/n · arsinh σmax), about even below one pixel and geometric above.
    direction: ``none``, or ``idgi`` to share each change of the score along the path by the squares of the gradient.
    """
    shares = torch.arange(steps + 1, dtype=torch.float64, device=x.device) / steps
    sigmas = max_sigma * shares if spacing == "linear" else torch.sinh(shares * math.asinh(max_sigma))
    if direction == "idgi":
        return _share_score_changes(oracle, x, y, sigmas.flip(0))
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, steps):
        levels = blur(x[block.images], sigmas[block.points.start : block.points.stop + 1])
        changes = levels[:, :-1] - levels[:, 1:]
        midpoints = (levels[:, :-1] + levels[:, 1:]) / 2
        gradients = oracle.block_gradients(block, midpoints, y)
        total[block.images] += (gradients * changes).sum(dim=1)
    end = blur(x, sigmas[-1:])[:, 0]
    return Attribution(total, expected=oracle.score_change(end, x, y))


def _share_score_changes(oracle: Oracle, x: Tensor, y: Tensor, sigmas: Tensor) -> Attribution:
    """Return the attribution of direction=idgi along the decreasing ``sigmas`` (k,), of which the last is 0."""
    changes = ScoreChanges(x)
    for block in oracle.blocks(x, len(sigmas) - 1):
        points = blur(x[block.images], sigmas[block.points])
        gradients, scores = oracle.block_gradients_and_scores(block, points, y)
        changes.add(block.images, scores, gradients)
    values, expected = changes.finish(oracle.scores(x, y))
    return Attribution(values, expected=expected)


def blur(x: Tensor, sigmas: Tensor) -> Tensor:
    """Blur images (B, C, H, W) by Gaussians of ``sigmas`` (k,) pixels, mirrored at the borders (edge pixels repeated).

    Returns (B, k, C, H, W). Cosines are the eigenfunctions of the heat equation between mirrors: cos(π j (n + 1/2) / N) shrinks
    by exp(-σ² (π j / N)² / 2). The kernel is not truncated, so every σ > 0 blurs.
    """
    height, width = x.shape[-2:]
    matrices = {side: _blur_matrices(side, sigmas).to(x.dtype) for side in {height, width}}
    return matrices[height][None, :, None] @ x[:, None] @ matrices[width][None, :, None].mT


def _blur_matrices(side: int, sigmas: Tensor) -> Tensor:
    """Return the matrices (k, side, side) that blur a row of ``side`` pixels."""
    basis = cosine_basis(side, sigmas)
    frequency = math.pi / side * torch.arange(side, dtype=sigmas.dtype, device=sigmas.device)
    return (basis.T * torch.exp(-((sigmas[:, None] * frequency) ** 2) / 2)[:, None, :]) @ basis
