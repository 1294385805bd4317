"""AttEXplore: a path along gradients averaged over copies changed in frequency, size and position."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.filters import cosine_basis
from xplain.methods._paths import project
from xplain.oracle import Oracle

ENLARGEMENT = 1.15  # maximum side of a resized copy, as a multiple of the image's


@method(
    "attexplore",
    paper=Paper(
        "AttEXplore: attribution for explanation with model parameters exploration",
        "Zhiyu Zhu, Huaming Chen, Jiayu Zhang, Xinyi Wang, Zhibo Jin, Jason Xue, Flora D. Salim",
        2024,
        "ICLR",
    ),
    score="log-prob",
    axioms=frozenset({"implementation-invariance"}),
    violates=frozenset({"sensitivity-a"}),
    cost=lambda steps, samples, **_: (steps * samples, steps * samples),
    parallel=lambda samples, **_: samples,
    deviations="Follows the authors' code: the steps move toward the target, whereas an attack would move away from it. The softmax is "
    "applied once before the logarithm (the cross-entropy of the code applies it twice). Resized copies are scaled back to the image's "
    "size, as in the later LA code, so that models with a fixed input size work too; sizes and positions are drawn per copy, not once "
    "per batch. The last 20 gradients, which the code computes but does not use, are omitted. Gradients are normalized, so the map "
    "has no unit.",
    plain=True,
    rounding="Signed steps: gradient entries near zero change sign between correct float32 implementations.",
)
def attexplore(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    steps: Steps = 10,
    samples: Steps = 20,
    radius: Positive = 16 / 255,
    noise: Fraction = 16 / 255,
    spread: Fraction = 0.5,
    diversity: Fraction = 0.5,
    smooth: bool = True,
    momentum: Fraction = 1.0,
) -> Attribution:
    """Sum signed steps along a smoothed gradient with momentum, each multiplied by that gradient.

    A copy of x_k is u = C⁻¹(C(x_k + noise · N(0, 1)) ⊙ U(1 - spread, 1 + spread)), C the cosine transform of the image plane;
    with probability ``diversity``, u is then enlarged to random sides below 1.15 times its own, placed at a random position on
    a black canvas of 1.15 times its size, and scaled back. g = mean over ``samples`` copies of ∇_u f.
    G_k = momentum · G_{k-1} + g / mean |g|;
    x_{k+1} = clamp(x_k + (radius / steps) sign G_k), inside x ± radius; φ = Σ_k G_k ⊙ (x_{k+1} - x_k), which is never negative.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    steps: number of steps.
    samples: number of copies per step.
    radius: largest change of a pixel value along the path, in pixel units.
    noise: standard deviation of the noise, in pixel units.
    spread: half width of the uniform factors U of the cosine transform.
    diversity: probability of the enlargement.
    smooth: convolve g with a Gaussian (7 x 7, σ = 1 pixel).
    momentum: factor of G_{k-1}; 0 uses the current gradient only.
    """
    total, velocity, point = torch.zeros_like(x), torch.zeros_like(x), x
    for step in range(steps):
        gradient = _mean_gradient(oracle, point, y, rng, step * samples, samples, noise, spread, diversity)
        if smooth:
            gradient = _smooth(gradient)
        size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
        normalized = torch.where(size > 0, gradient / size.clamp(min=torch.finfo(x.dtype).tiny), 0)
        velocity = momentum * velocity + normalized
        next_point = project(point + radius / steps * velocity.sign(), x, radius)
        total += velocity * (next_point - point)
        point = next_point
    return Attribution(total)


def _mean_gradient(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    rng: Streams,
    first: int,
    samples: int,
    noise: float,
    spread: float,
    diversity: float,
) -> Tensor:
    """Return the mean gradient (B, C, H, W) with respect to copies ``first`` to ``first + samples - 1`` of the images x."""
    bases = (cosine_basis(x.shape[-2], x), cosine_basis(x.shape[-1], x))
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, samples):
        images, numbers = block.images, first + block.point_indices(x.device)
        copies = _change_frequencies(x[images], rng.take(images), numbers, bases, noise, spread)
        draws = rng.child("diversity").take(images).uniform(numbers, (4,), x.dtype)
        size, top, left, chance = draws.unbind(dim=2)
        is_resized = chance < diversity
        rows = _resize_matrices(x.shape[-2], size, top, is_resized)
        columns = _resize_matrices(x.shape[-1], size, left, is_resized)
        gradients = oracle.block_gradients(block, rows @ copies @ columns.mT, y)
        total[images] += (rows.mT @ gradients @ columns).sum(dim=1)
    return total / samples


def _change_frequencies(
    x: Tensor, rng: Streams, numbers: Tensor, bases: tuple[Tensor, Tensor], noise: float, spread: float
) -> Tensor:
    """Return copies (b, k, C, H, W) with added noise and randomly scaled frequencies.

    x: images (b, C, H, W). numbers: (k,) of the copies. bases: cosine transforms of the rows and columns.
    """
    shape = tuple(x.shape[1:])
    row_basis, column_basis = bases
    noisy = x[:, None] + noise * rng.child("noise").normal(numbers, shape, x.dtype)
    scale = 1 + spread * (2 * rng.child("spread").uniform(numbers, shape, x.dtype) - 1)
    return row_basis.T @ ((row_basis @ noisy @ column_basis.T) * scale) @ column_basis


def _resize_matrices(side: int, size: Tensor, position: Tensor, is_resized: Tensor) -> Tensor:
    """Return matrices (b, k, 1, side, side) that enlarge a line, place it on a longer black line, and shrink the result.

    size, position: (b, k) uniform draws in (0, 1). is_resized: (b, k) bool; the other matrices are the identity.
    """
    canvas = int(side * ENLARGEMENT)
    enlarged = side + (size * (canvas - side)).long()  # side .. canvas - 1
    offset = (position * (canvas - enlarged)).long()
    pixel = torch.arange(canvas, device=size.device) - offset[..., None]
    inside = (pixel >= 0) & (pixel < enlarged[..., None])
    enlarge = _interpolate((pixel + 0.5) * (side / enlarged.to(size.dtype))[..., None] - 0.5, side) * inside[..., None]
    shrink = _interpolate((torch.arange(side, device=size.device).to(size.dtype) + 0.5) * (canvas / side) - 0.5, canvas)
    identity = torch.eye(side, dtype=size.dtype, device=size.device)
    return torch.where(is_resized[..., None, None], shrink @ enlarge, identity)[:, :, None]


def _interpolate(position: Tensor, side: int) -> Tensor:
    """Return the weights (..., side) of linear interpolation between ``side`` pixels at positions (...); edges are repeated."""
    pixel = torch.arange(side, dtype=position.dtype, device=position.device)
    return (1 - (position.clamp(0, side - 1)[..., None] - pixel).abs()).clamp(min=0)


def _smooth(maps: Tensor) -> Tensor:
    """Convolve each channel of (B, C, H, W) with a 7 x 7 Gaussian of σ = 1 pixel; zeros beyond the border."""
    line = torch.exp(-(torch.arange(-3, 4, dtype=maps.dtype, device=maps.device) ** 2) / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(maps.flatten(0, 1)[:, None], kernel[None, None], padding=3).view_as(maps)
