"""KernelSHAP: Shapley values of superpixels, by regression over sampled coalitions."""

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._segmentation import spread, superpixels
from xplain.methods.lime import regress
from xplain.oracle import Oracle
from xplain.oracle.blocks import Block


@method(
    "kernel-shap",
    version=2,
    paper=Paper("A unified approach to interpreting model predictions", "Lundberg, Lee", 2017, "NeurIPS", "1705.07874"),
    score="prob",
    axioms=frozenset({"completeness", "linearity", "implementation-invariance"}),
    cost=lambda samples, **_: (samples + 2, 0),
    at_most=True,
    parallel=lambda samples, **_: samples,
    deviations="Where all coalitions are no more than the samples, each is taken once with its exact weight. Otherwise sizes are drawn "
    "from the Shapley kernel, so that regression is unweighted, and coalitions come in pairs with their complements, which lowers the "
    "variance. The empty and the full coalition are an exact constraint, where captum gives them weight 1e6. A segment's Shapley value "
    "is shared evenly by its pixels.",
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

    With at most ``samples`` proper coalitions (2^K - 2), all of them, weighted by (K - 1) / (C(K, s) s (K - s)): exact.
    Else sizes s = 1 .. K - 1 with p(s) ∝ 1 / (s (K - s)), members drawn evenly, every second sample the complement of the
    one before. φ minimises Σ_i w_i (f(x_i) - f(x') - φ·z_i)² under Σ φ = f(x) - f(x') (Theorem 2), which ``expected``
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

    proper = _proper(counts)
    whole = proper <= samples

    def draw(block: Block) -> Tensor:
        numbers, some = block.samples(x.device), block.images
        pairs = torch.div(numbers, 2, rounding_mode="floor")
        want = torch.searchsorted(chance[some], rng.child("size").take(some).uniform(pairs, (), torch.float64)) + 1
        order = rng.take(some).uniform(pairs, (size,), torch.float64).masked_fill(~exists[some, None], 2.0)
        shown = order.argsort(dim=2).argsort(dim=2) < want[:, :, None]
        drawn = shown ^ (numbers % 2 == 1)[:, None]
        listed = ((numbers[:, None] + 1) >> member) % 2 == 1
        listed = listed & (numbers < proper[some, None])[:, :, None]  # past the last one, nothing: weight 0
        return torch.where(whole[some, None, None], listed, drawn)

    def weigh(shown: Tensor, count: Tensor) -> Tensor:
        held = shown.sum(dim=2)
        kernel = (count - 1) / (_choose(count, held) * held * (count - held)).clamp(min=1)
        exact = torch.where((held > 0) & (held < count), kernel, 0)
        return torch.where(_proper(count) <= samples, exact, torch.ones_like(exact))

    rows = int(torch.where(whole, proper, samples).max())
    sums = regress(oracle, x, y, labels, fill, max(rows, 1), draw, weigh)
    gram, once = sums.gram[:, 1:, 1:], sums.gram[:, 0, 1:]
    values = _least_squares(gram, sums.moments[:, 1:] - empty[:, None] * once, full - empty, exists)
    return Attribution(
        spread(values, labels).to(x.dtype), expected=(full - empty).to(x.dtype), details={"segments": counts}
    )


def _proper(count: Tensor) -> Tensor:
    """How many coalitions there are but for none and all, in float64: 64 segments have more than an integer holds."""
    return 2 ** count.double() - 2


def _choose(count: Tensor, held: Tensor) -> Tensor:
    """Binomial coefficients, in float64."""
    n, k = count.double(), held.double()
    return (torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)).exp()


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
