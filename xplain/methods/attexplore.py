"""AttEXplore: a path along gradients that are averaged over copies changed in frequency, size and place."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.filters import cosine_basis
from xplain.oracle import Oracle

ENLARGEMENT = 1.15  # the largest side of a resized copy, as a share of the image's


@method(
    "attexplore",
    paper=Paper(
        "AttEXplore: attribution for explanation with model parameters exploration",
        "Zhu, Chen, Zhang, Wang, Jin, Xue, Salim",
        2024,
        "ICLR",
    ),
    score="log-prob",
    axioms=frozenset({"implementation-invariance"}),
    cost=lambda steps, samples, **_: (steps * samples, steps * samples),
    parallel=lambda samples, **_: samples,
    deviations="The authors' program: it climbs towards the target, as here, where an attack would flee it. One softmax and a logarithm "
    "(their cross-entropy is taken of two). Resized copies are brought back to the image's size, as in the later LA program, so that "
    "models with a fixed input run too; sizes and places are drawn for every copy, not once for a batch. The last 20 gradients, "
    "which the program computes and does not use, are left out. Gradients are normalised, so the map has no unit.",
    plain=True,
    rounding="Signed steps: entries of the gradient near zero change sign between correct float32 programs.",
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
    """Signed steps up a smoothed gradient with momentum, each times the gradient: never negative.

    A copy of x_k: u = C⁻¹(C(x_k + noise · N(0, 1)) ⊙ U(1 - spread, 1 + spread)), C the cosine transform of the plane;
    then, with probability ``diversity``, u is enlarged to a random side below 1.15 times its own, put in a random place on
    black of that size, and shrunk back. g = mean over ``samples`` copies of ∇_u f; ``smooth``: convolved with a Gaussian
    (7 x 7, σ = 1 pixel). G_k = momentum · G_{k-1} + g / mean |g|;
    x_{k+1} = clamp(x_k + (radius / steps) sign G_k), inside x ± radius; φ = Σ_k G_k ⊙ (x_{k+1} - x_k).
    radius and noise in pixel units. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    total, memory, point = torch.zeros_like(x), torch.zeros_like(x), x
    for step in range(steps):
        slope = _mean_gradient(oracle, point, y, rng, step * samples, samples, noise, spread, diversity)
        if smooth:
            slope = _smooth(slope)
        size = slope.abs().mean(dim=(1, 2, 3), keepdim=True)
        memory = momentum * memory + torch.where(size > 0, slope / size.clamp(min=torch.finfo(x.dtype).tiny), 0)
        target = point + radius / steps * memory.sign()
        target = torch.minimum(torch.maximum(target, x - radius), x + radius).clamp(0, 1)
        total += memory * (target - point)
        point = target
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
    """(B, C, H, W) the mean gradient with respect to copies ``first`` to ``first + samples - 1`` of the images x."""
    bases = [cosine_basis(side, x) for side in x.shape[-2:]]
    total = torch.zeros_like(x)
    shape = tuple(x.shape[1:])
    for block in oracle.blocks(x, samples):
        images, numbers = block.images, first + block.samples(x.device)
        noisy = x[images, None] + noise * rng.child("noise").take(images).normal(numbers, shape, x.dtype)
        scale = 1 + spread * (2 * rng.child("spread").take(images).uniform(numbers, shape, x.dtype) - 1)
        copies = bases[0].T @ ((bases[0] @ noisy @ bases[1].T) * scale) @ bases[1]
        draws = rng.child("diversity").take(images).uniform(numbers, (4,), x.dtype).unbind(dim=2)
        rows = _moves(x.shape[-2], draws[0], draws[1], draws[3] < diversity)
        columns = _moves(x.shape[-1], draws[0], draws[2], draws[3] < diversity)
        gradients = oracle.block_gradients(block, rows @ copies @ columns.mT, y)
        total[images] += (rows.mT @ gradients @ columns).sum(dim=1)
    return total / samples


def _moves(side: int, size: Tensor, place: Tensor, active: Tensor) -> Tensor:
    """(b, k, 1, side, side) matrices that resize a line, put it on a longer black line, and shrink that back.

    size, place: (b, k) uniform draws in (0, 1). Where not ``active``: the identity.
    """
    most = int(side * ENLARGEMENT)
    longer = side + (size * (most - side)).long()  # side .. most - 1
    offset = (place * (most - longer)).long()
    pixel = torch.arange(most, device=size.device) - offset[..., None]
    inside = (pixel >= 0) & (pixel < longer[..., None])
    enlarge = _hats((pixel + 0.5) * (side / longer.to(size.dtype))[..., None] - 0.5, side) * inside[..., None]
    shrink = _hats((torch.arange(side, device=size.device).to(size.dtype) + 0.5) * (most / side) - 0.5, most)
    eye = torch.eye(side, dtype=size.dtype, device=size.device)
    return torch.where(active[..., None, None], shrink @ enlarge, eye)[:, :, None]


def _hats(position: Tensor, side: int) -> Tensor:
    """(..., side) the weights of linear interpolation between ``side`` pixels at positions (...), edges repeated."""
    pixel = torch.arange(side, dtype=position.dtype, device=position.device)
    return (1 - (position.clamp(0, side - 1)[..., None] - pixel).abs()).clamp(min=0)


def _smooth(maps: Tensor) -> Tensor:
    """Each channel of (B, C, H, W) under a 7 x 7 Gaussian of one pixel, zeros around."""
    line = torch.exp(-(torch.arange(-3, 4, dtype=maps.dtype, device=maps.device) ** 2) / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(maps.flatten(0, 1)[:, None], kernel[None, None], padding=3).view_as(maps)
