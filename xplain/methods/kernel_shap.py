"""KernelSHAP: Shapley values of superpixels, by regression over sampled coalitions."""

import torch
from torch import Tensor

from xplain.baselines import Baseline, make_baseline
from xplain.methods.lime import regress
from xplain.oracle import Block, Oracle
from xplain.registry import Steps, method
from xplain.rng import Streams
from xplain.segments import spread, superpixels
from xplain.types import Attribution, Paper


@method(
    "kernel-shap",
    paper=Paper("A unified approach to interpreting model predictions", "Lundberg, Lee", 2017, "NeurIPS", "1705.07874"),
    score="prob",
    axioms=frozenset({"completeness", "linearity", "implementation-invariance"}),
    cost=lambda samples, **_: (samples + 2, 0),
    parallel=lambda samples, **_: samples,
    deviations="Sizes of coalitions are drawn from the Shapley kernel, so the regression is unweighted; the empty and the full coalition "
    "are an exact constraint, where captum gives them weight 1e6. Coalitions come in pairs with their complements, which lowers the "
    "variance. A segment's Shapley value is shared evenly by its pixels.",
)
def kernel_shap(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    samples: Steps = 1000,
    segments: Steps = 50,
    baseline: Baseline = "mean",
) -> Attribution:
    """Shapley values of superpixels, each shared by its pixels.

    Coalition sizes s = 1 .. K - 1 with p(s) ∝ 1 / (s (K - s)), members drawn evenly, every second sample the complement of
    the one before. φ minimises Σ_i (f(x_i) - f(x') - φ·z_i)² under Σ φ = f(x) - f(x') (Theorem 2), which ``expected``
    holds. Segments by SLIC, about ``segments`` of them; the least φ where samples do not determine it.
    Returns (B, 1, H, W). x: (B, C, H, W) in [0, 1], y: (B,).
    """
    labels = superpixels(x, segments)
    fill = make_baseline(baseline, x, oracle.mean, rng.child("baseline"))
    counts = labels.amax(dim=(1, 2)) + 1
    size = int(counts.max())
    member = torch.arange(size, device=x.device)
    exists = member < counts[:, None]
    full, empty = oracle.scores(x, y).double(), oracle.scores(fill, y).double()

    # (B, K) the distribution function of the sizes 1, 2, ...
    likely = 1 / ((member + 1) * (counts[:, None] - member - 1)).clamp(min=1).double()
    chance = torch.where(member < counts[:, None] - 1, likely, 0).cumsum(dim=1)
    chance = chance / chance[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)

    def draw(block: Block) -> Tensor:
        numbers, some = block.samples(x.device), block.images
        pairs = torch.div(numbers, 2, rounding_mode="floor")
        want = torch.searchsorted(chance[some], rng.child("size").take(some).uniform(pairs, (), torch.float64)) + 1
        order = rng.take(some).uniform(pairs, (size,), torch.float64).masked_fill(~exists[some, None], 2.0)
        shown = order.argsort(dim=2).argsort(dim=2) < want[:, :, None]
        return shown ^ (numbers % 2 == 1)[:, None]

    def weigh(shown: Tensor, _: Tensor) -> Tensor:
        return torch.ones_like(shown[:, :, 0])

    sums = regress(oracle, x, y, labels, fill, samples, draw, weigh)
    gram, once = sums.gram[:, 1:, 1:], sums.gram[:, 0, 1:]
    values = _least_squares(gram, sums.moments[:, 1:] - empty[:, None] * once, full - empty, exists)
    return Attribution(
        spread(values, labels).to(x.dtype), expected=(full - empty).to(x.dtype), details={"segments": counts}
    )


def _least_squares(gram: Tensor, moments: Tensor, total: Tensor, exists: Tensor) -> Tensor:
    """(B, K) φ that minimises φᵀ G φ / 2 - φ·m under Σ φ = total; zero where a segment does not exist.

    With multiplier λ: φ = G⁻¹ (m - λ 1). A trace of ridge settles what the samples leave open.
    """
    trace = gram.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True).clamp(min=1)
    ridge = torch.where(exists, 1e-10 * trace, 1.0)
    one = exists.double()
    solved = torch.linalg.solve(gram + torch.diag_embed(ridge), torch.stack([moments * one, one], dim=2))
    free, unit = solved.unbind(dim=2)
    surplus = (free.sum(dim=1) - total) / unit.sum(dim=1)
    return free - surplus[:, None] * unit
