"""KernelSHAP: Shapley values of superpixels, estimated by a regression over coalitions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import AutoSteps, Positive, Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._regression import SegmentRegression
from xplain.methods._rounds import Rounds, check_auto, max_count, sample_rounds
from xplain.methods._segmentation import describe_segmented_bands, find_superpixels, spread_evenly
from xplain.methods._shapley_error import relative_standard_errors
from xplain.oracle import Oracle
from xplain.oracle.batching import Block

TOLERANCE, MAX_SAMPLES = 0.3, 4000  # defaults of samples=auto
FIRST_SAMPLES = 256  # of samples=auto


@method(
    "kernel-shap",
    access="outputs",
    version=2,
    paper=Paper(
        "A unified approach to interpreting model predictions",
        "Scott M. Lundberg, Su-In Lee",
        2017,
        "NeurIPS",
        "1705.07874",
    ),
    score="prob",
    axioms=frozenset({"sensitivity-a", "completeness", "linearity", "implementation-invariance"}),
    cost=lambda samples, max_samples, **_: (max_count(samples, max_samples) + 2, 0),
    at_most=True,
    parallel=lambda samples, **_: max_count(samples, FIRST_SAMPLES),
    added=frozenset({"tolerance", "max_samples"}),
    deviations="If there are no more coalitions than samples, each is used once with its exact weight. Otherwise sizes are drawn from the "
    "Shapley kernel, so that the regression is unweighted, and coalitions are paired with their complements, which lowers the variance. "
    "The empty and the full coalition are an exact constraint, where captum gives them weight 1e6. A segment's Shapley value is divided "
    "evenly among its pixels.",
)
def kernel_shap(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    samples: AutoSteps = 1000,
    segments: Steps = 50,
    baseline: Baseline = "mean",
    tolerance: Positive = TOLERANCE,
    max_samples: Steps = MAX_SAMPLES,
) -> Attribution:
    """Estimate the Shapley value of each superpixel, and divide it evenly among its pixels.

    With at most ``samples`` proper coalitions (2^K - 2), all of them, weighted by (K - 1) / (C(K, s) s (K - s)): exact.
    Otherwise sizes s = 1 .. K - 1 with p(s) ∝ 1 / (s (K - s)), members drawn uniformly, every second sample the complement of the
    previous one. φ minimizes Σ_i w_i (f(x_i) - f(x') - φ·z_i)² under Σ φ = f(x) - f(x') (Theorem 2), which ``expected``
    holds; the smallest φ if the samples do not determine it. Returns (B, 1, H, W).
    samples=auto: all proper coalitions if there are at most ``max_samples``; otherwise 256, then more in rounds, until the standard
    error √(Σ_s SE_s²) of the φ_s is at most ``tolerance`` times ‖φ‖. SE_s is that of a regression whose errors differ in variance and are
    correlated within pairs (the sandwich estimator). ``details`` hold the coalitions and that error.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    samples: maximum number of coalitions, without the empty and the full one, or auto.
    segments: approximate number of superpixels (SLIC).
    baseline: x', what a hidden segment shows.
    tolerance: of samples=auto.
    max_samples: maximum number of coalitions of samples=auto. Images that need more are flagged.
    """
    check_auto("kernel-shap", "samples", samples, tolerance, TOLERANCE)
    labels = find_superpixels(x, segments)
    fill = make_baseline(baseline, x, oracle.mean_color(x), rng.child("baseline"))
    regression = SegmentRegression(oracle, x, y, labels, fill)
    full, empty = oracle.scores(x, y).double(), oracle.scores(fill, y).double()
    is_exact = _count_proper(regression.counts) <= max_count(samples, max_samples)
    coalitions = _Coalitions(regression, rng, _size_distribution(regression.counts, regression.size), is_exact)
    details, flags = {"segments": regression.counts}, {}
    if samples == "auto":
        rounds = _sample_to_tolerance(oracle, x, coalitions, full - empty, empty, tolerance, max_samples)
        details |= rounds.describe("samples") | {"standard_error": rounds.errors}
        flags = rounds.flag("samples")
    else:
        rows = int(torch.where(is_exact, _count_proper(regression.counts), samples).max())
        for block in oracle.blocks(x, max(rows, 1)):
            coalitions.add(block)
    values = coalitions.solve(full - empty, empty)
    return Attribution(
        spread_evenly(values, labels).to(x.dtype),
        expected=(full - empty).to(x.dtype),
        details=details,
        flags=flags,
        facts=describe_segmented_bands(x),
    )


@dataclass(frozen=True)
class _Coalitions:
    """Coalitions of the segments and the regression of the score on them.

    size_distribution: see ``_size_distribution``. is_exact: (B,) bool, whether all coalitions of an image are used.
    """

    regression: SegmentRegression
    rng: Streams
    size_distribution: Tensor
    is_exact: Tensor

    def add(self, block: Block) -> tuple[Tensor, Tensor]:
        """Add the coalitions of a block to the regression. Return them (b, k, K) and their scores (b, k)."""
        images, numbers = block.images, block.point_indices(self.is_exact.device)
        counts, exists = self.regression.counts[images], self.regression.exists[images]
        drawn = _draw_coalitions(self.rng.take(images), numbers, self.size_distribution[images], exists)
        listed = _list_coalitions(numbers, counts, self.regression.size)
        members = torch.where(self.is_exact[images, None, None], listed, drawn) & exists[:, None]
        weights = _kernel_weights(members, counts[:, None])
        weights = torch.where(self.is_exact[images, None], weights, torch.ones_like(weights))
        return members, self.regression.add(block, members, weights)

    def solve(self, change: Tensor, empty: Tensor) -> Tensor:
        """Return the Shapley values φ (B, K). change: f(x) - f(x') (B,). empty: f(x') (B,)."""
        gram, first_row = self.regression.gram[:, 1:, 1:], self.regression.gram[:, 0, 1:]
        moments = self.regression.moments[:, 1:] - empty[:, None] * first_row
        return _solve_constrained(gram, moments, change, self.regression.exists)


def _sample_to_tolerance(
    oracle: Oracle,
    x: Tensor,
    coalitions: _Coalitions,
    change: Tensor,
    empty: Tensor,
    tolerance: float,
    max_samples: int,
) -> Rounds:
    """Add coalitions until the standard error of each image is within the tolerance. Return the finished rounds.

    change, empty: as in ``_Coalitions.solve``.
    """
    regression, is_exact = coalitions.regression, coalitions.is_exact
    members = torch.zeros(len(x), max_samples, regression.size, dtype=torch.bool, device=x.device)
    scores = torch.zeros(len(x), max_samples, dtype=torch.float64, device=x.device)

    def find_errors(images: Tensor, count: int) -> Tensor:
        """Return the relative standard errors (N,) of the images at the indices."""
        values = coalitions.solve(change, empty)[images]
        drawn, exists = members[images, :count], regression.exists[images]
        fitted = empty[images, None] + (drawn.double() @ values[:, :, None])[:, :, 0]
        gram = _regularize(regression.gram[images, 1:, 1:], exists)
        return relative_standard_errors(gram, drawn, scores[images, :count] - fitted, values, exists)

    proper = _count_proper(regression.counts).clamp(min=1)
    for image in is_exact.nonzero()[:, 0]:
        for block in oracle.blocks(x, int(proper[image]), image[None]):
            coalitions.add(block)
    ends, others = sample_rounds(max_samples, FIRST_SAMPLES), (~is_exact).nonzero()[:, 0]
    rounds = Rounds(oracle, x, ends, tolerance, find_errors, others)
    for block in rounds.blocks():
        drawn, values = coalitions.add(block)
        members[block.images, block.points], scores[block.images, block.points] = drawn, values.double()
    rounds.counts[is_exact], rounds.errors[is_exact] = proper[is_exact].long(), 0.0
    return rounds


def _size_distribution(counts: Tensor, size: int) -> Tensor:
    """Return the cumulative distribution (B, size) of the coalition sizes 1, 2, ... under the Shapley kernel, in float64."""
    member = torch.arange(size, device=counts.device)
    odds = 1 / ((member + 1) * (counts[:, None] - member - 1)).clamp(min=1).double()
    cumulative = torch.where(member < counts[:, None] - 1, odds, 0).cumsum(dim=1)
    return cumulative / cumulative[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)


def _draw_coalitions(rng: Streams, numbers: Tensor, size_distribution: Tensor, exists: Tensor) -> Tensor:
    """Draw coalitions (b, k, K) bool; samples with odd numbers are the complements of the samples before them."""
    pairs = torch.div(numbers, 2, rounding_mode="floor")
    sizes = torch.searchsorted(size_distribution, rng.child("size").uniform(pairs, (), torch.float64)) + 1
    keys = rng.uniform(pairs, (exists.shape[1],), torch.float64).masked_fill(~exists[:, None], 2.0)
    members = keys.argsort(dim=2).argsort(dim=2) < sizes[:, :, None]
    return members ^ (numbers % 2 == 1)[:, None]


def _list_coalitions(numbers: Tensor, counts: Tensor, size: int) -> Tensor:
    """Return coalitions (b, k, K) bool, one per number: the binary digits of number + 1.

    Numbers beyond the last proper coalition give the empty one, whose weight is 0.
    """
    members = ((numbers[:, None] + 1) >> torch.arange(size, device=numbers.device)) % 2 == 1
    return members & (numbers < _count_proper(counts)[:, None])[:, :, None]


def _kernel_weights(members: Tensor, counts: Tensor) -> Tensor:
    """Return the Shapley kernel weights (b, k) in float64, with 0 for the empty and the full coalition.

    counts: (b, 1), number of segments per image.
    """
    sizes = members.double().sum(dim=2)
    kernel = (counts - 1) / (_binomial(counts, sizes) * sizes * (counts - sizes)).clamp(min=1)
    return torch.where((sizes > 0) & (sizes < counts), kernel, 0)


def _count_proper(counts: Tensor) -> Tensor:
    """Return the number of coalitions other than the empty and the full one, as float64: int64 overflows at 64 segments."""
    return 2 ** counts.double() - 2


def _binomial(n: Tensor, k: Tensor) -> Tensor:
    """Return the binomial coefficients C(n, k) in float64."""
    n, k = n.double(), k.double()
    return (torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)).exp()


def _solve_constrained(gram: Tensor, moments: Tensor, total: Tensor, exists: Tensor) -> Tensor:
    """Return φ (B, K) that minimizes φᵀ G φ / 2 - φ·m under Σ φ = total; zero where a segment does not exist.

    With multiplier λ: φ = G⁻¹ (m - λ 1). A small ridge selects the smallest φ if the samples do not determine it.
    """
    ones = exists.double()
    solution = torch.linalg.solve(_regularize(gram, exists), torch.stack([moments * ones, ones], dim=2))
    free, unit = solution.unbind(dim=2)
    surplus = (free.sum(dim=1) - total) / unit.sum(dim=1)
    return free - surplus[:, None] * unit


def _regularize(gram: Tensor, exists: Tensor) -> Tensor:
    """Return G (N, K, K) with a small ridge, and ones on the diagonal where a segment does not exist."""
    largest = gram.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True).clamp(min=1)
    return gram + torch.diag_embed(torch.where(exists, 1e-10 * largest, 1.0))
