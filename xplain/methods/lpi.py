"""LPI: integrated gradients from representative images, weighted by how many images they represent."""

from typing import NamedTuple

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.methods._clusters import cluster, find_closest
from xplain.methods._references import check_shape
from xplain.oracle import Oracle


class Representatives(NamedTuple):
    """Images that represent clusters of baselines.

    centers: (K, classes) logits of the clusters. indices: (K, R) baselines. weights: (K, R), of sum 1 in each cluster; unused entries have
    the weight 0.
    """

    centers: Tensor
    indices: Tensor
    weights: Tensor


def _cost(references_per_image: int, steps: int, clusters: int, **_: object) -> tuple[int, int]:
    """Return the maximum (forward, backward) rows per image."""
    gradients = references_per_image * steps
    return gradients + (clusters > 1), gradients


@method(
    "lpi",
    parameter_aliases={"baseline": "baselines"},
    paper=Paper(
        "Local path integration for attribution",
        "Peiyu Yang, Naveed Akhtar, Zeyi Wen, Ajmal Mian",
        2023,
        "AAAI",
        doi="10.1609/aaai.v37i3.25422",
    ),
    axioms=frozenset({"dummy", "implementation-invariance"}),
    undecided={"sensitivity-a": "no single baseline"},
    cost=_cost,
    at_most=True,
    parallel=lambda references_per_image, steps, **_: references_per_image * steps,
    deviations="Each line ends at its own reference; in the authors' code the gradients of a reference come from lines to others. α is "
    "stratified in [0, 1] per reference; the code draws it from [0.01, 0.99] and divides by the number of references in addition "
    "to the weights. K-means starts from the point closest to the mean and the farthest points, without random numbers. "
    "Complete in expectation only, so no gap is reported.",
)
def lpi(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    references: Tensor | None,
    baselines: str = "noise",
    clusters: Steps = 1,
    references_per_image: Steps = 20,
    steps: Steps = 5,
) -> Attribution:
    """Average integrated gradients from representative baseline images, weighted by the share of images that each represents.

    The logits of the baselines are divided into K clusters by k-means, and each cluster into R. A reference r is the baseline closest to
    the center of one of the R, and ρ_r the share of the K-cluster's baselines in it. An image has the references of the K-cluster with the
    closest center. φ = Σ_r ρ_r (x - r) ⊙ (1/k) Σ_j ∇f(r + α_j (x - r)), α_j from [(j-1)/k, j/k].
    Use images of the model's training set. With ``noise``, the references are R uniform random images with equal weights.
    The forward passes for the logits of the baselines are counted as checks.
    Raises UsageError for several clusters of noise, and InputError if baselines and images differ in shape.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    references: the images (N, C, H, W) of ``baselines``, or None for noise.
    baselines: ``noise`` or a directory of images; in Python also a tensor (N, C, H, W). ``baseline`` is another name of this
    parameter.
    clusters: number of clusters K.
    references_per_image: number of references R of an image; fewer if a cluster has fewer different baselines.
    steps: number of nodes k per reference.
    """
    if references is None:
        if clusters > 1:
            raise UsageError(f"lpi: clusters={clusters} requires baselines", "use baselines=DIR")
        chosen = None
        weights = x.new_full((len(x), references_per_image), 1 / references_per_image)
    else:
        check_shape(references, x)
        representatives = choose_representatives(oracle.logits(references, check=True), clusters, references_per_image)
        group = torch.zeros_like(y)
        if clusters > 1:
            group = torch.cdist(oracle.logits(x).double(), representatives.centers).argmin(dim=1)
        chosen = representatives.indices[group]
        weights = representatives.weights[group].to(x.dtype)
    alpha_rng = rng.child("alpha")
    total = torch.zeros_like(x)
    for block in oracle.blocks(x, weights.shape[1] * steps):
        images, numbers = block.images, block.point_indices(x.device)
        number, node = numbers // steps, numbers % steps
        if references is None or chosen is None:
            starts = rng.take(images).uniform(number, tuple(x.shape[1:]), x.dtype)
        else:
            starts = references[chosen[images][:, number]]
        u = alpha_rng.take(images).uniform(numbers, (1, 1, 1), x.dtype)
        alpha = (node[None, :, None, None, None] + u) / steps
        lines = x[images, None] - starts
        gradients = oracle.block_gradients(block, starts + alpha * lines, y)
        total[images] += torch.einsum("bk,bkchw->bchw", weights[images][:, number] / steps, lines * gradients)
    return Attribution(total)


def choose_representatives(logits: Tensor, clusters: int, count: int) -> Representatives:
    """Cluster the logits (N, classes) of baselines, and each cluster again, and return the baselines that represent the parts."""
    points = logits.double()
    centers, labels = cluster(points, clusters)
    used = [k for k in range(len(centers)) if bool((labels == k).any())]
    parts = [_represent(points, (labels == k).nonzero()[:, 0], count) for k in used]
    width = max(len(indices) for indices, _ in parts)
    indices = torch.stack([torch.nn.functional.pad(indices, (0, width - len(indices))) for indices, _ in parts])
    weights = torch.stack([torch.nn.functional.pad(weights, (0, width - len(weights))) for _, weights in parts])
    return Representatives(centers[used], indices, weights)


def _represent(points: Tensor, members: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices (R,) of the points that represent the parts of a cluster, and the shares (R,) of its members in each."""
    centers, labels = cluster(points[members], count)
    sizes = torch.nn.functional.one_hot(labels, len(centers)).double().sum(dim=0)
    nearest = members[find_closest(torch.cdist(centers, points[members]))]
    return nearest[sizes > 0], sizes[sizes > 0] / len(members)
