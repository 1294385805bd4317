"""Spectral IG: integrated gradients along a path that adds singular components, the strongest first."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.oracle import Oracle


@method(
    "spectral-ig",
    alias="sig",
    paper=Paper(
        "Spectral integrated gradients for coarse-to-fine feature attribution",
        "Soyeon Kim, Seongwoo Lim, Kyowoon Lee, Jaesik Choi",
        2026,
        "KDD",
        "2605.19607",
    ),
    score="prob",
    axioms=frozenset({"sensitivity-a", "completeness", "linearity", "dummy", "implementation-invariance"}),
    cost=lambda steps, **_: (steps, steps),
    parallel=lambda steps, **_: steps,
    deviations="The gradient is computed at the midpoint of each interval of the path; the authors' code computes it at the interval's "
    "start (rule=left). The only decomposition is that of each channel by singular values, and the only gate is linear. overlap=0 is "
    "refused, because its path does not start at the baseline.",
)
def spectral_ig(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    baseline: Baseline = "black",
    steps: Steps = 199,
    overlap: Annotated[float, Bounds(above=0, high=1)] = 0.4,
    rule: Literal["midpoint", "left"] = "midpoint",
) -> Attribution:
    """Integrate the gradient along a path on which the singular components of the image appear one after the other.

    In each channel, x - x' = U diag(s) Vᵀ. Component i appears while α goes from (1-ω)(1 - s_i/s_1) to ω more:
    x(α) = x' + U diag(s ⊙ m(α)) Vᵀ, m_i(α) = min(max((α - (1-ω)(1 - s_i/s_1)) / ω, 0), 1).
    φ = Σ_k (x(α_{k+1}) - x(α_k)) ⊙ ∇f((x(α_k) + x(α_{k+1})) / 2), α_k = k/n; rule=left: ∇f(x(α_k)).
    Sums to f(x) - f(x') up to the error of the steps, exactly for linear and, at the midpoints, quadratic f; ``expected`` holds that
    difference. Points of the path can leave [0, 1].

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    baseline: as in ``integrated-gradients``.
    steps: number of intervals n.
    overlap: ω; 1 is the straight line of integrated gradients.
    rule: where in an interval the gradient is computed.
    """
    start = make_baseline(baseline, x, oracle.mean_color(x), rng)
    u, s, vt = _decompose(x - start)
    strength = s / torch.where(s[..., :1] > 0, s[..., :1], 1)
    delays = (1 - overlap) * (1 - strength)
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, steps):
        ends = torch.arange(block.points.start, block.points.stop + 1, dtype=s.dtype, device=s.device) / steps
        gates = ((ends[:, None, None] - delays[block.images, None]) / overlap).clamp(0, 1)
        shown = (s[block.images, None] * gates).to(x.dtype)
        components = u[block.images, None] * shown[..., None, :] @ vt[block.images, None]
        path = start[block.images, None] + components
        changes = path[:, 1:] - path[:, :-1]
        points = path[:, :-1] if rule == "left" else (path[:, 1:] + path[:, :-1]) / 2
        gradients = oracle.block_gradients(block, points, y)
        total[block.images] += (gradients * changes).sum(dim=1)
    return Attribution(total, expected=oracle.score_change(start, x, y))


def _decompose(difference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (..., H, r), the singular values (..., r) in float64 and Vᵀ (..., r, W) of differences (..., H, W).

    The decomposition is computed in float64 on the CPU, so that it does not depend on the device.
    """
    u, s, vt = torch.linalg.svd(difference.double().cpu(), full_matrices=False)
    return u.to(difference), s.to(difference.device), vt.to(difference)
