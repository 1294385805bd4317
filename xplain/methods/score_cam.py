"""Score-CAM: a layer's channels weighted by the score of the image seen through them."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods.grad_cam import positive_map, stretch
from xplain.oracle import Oracle
from xplain.oracle.batching import Block

MOST_CHANNELS = 2048  # of a layer, for the cost that is claimed


@method(
    "score-cam",
    paper=Paper(
        "Score-CAM: score-weighted visual explanations for convolutional neural networks",
        "Wang, Wang, Du, Yang, Zhang, Ding, Mardziel, Hu",
        2020,
        "CVPR workshops",
        "1910.01279",
    ),
    cost=lambda channels, **_: ((channels or MOST_CHANNELS) + 1, 0),
    at_most=True,
    parallel=lambda **_: 512,
    deviations="variant=paper: the softmax over the channels cancels the score of the baseline image, which is not computed. "
    "variant=official: the program's weights are the scores themselves (it takes probabilities: score=prob), and its ReLU follows "
    "the up-sampling. What a mask hides becomes the mean colour, the zero of the normalised input that the programs multiply. "
    "A constant channel counts nothing, as in the program. pytorch-grad-cam stretches "
    "masks corner to corner. The cost is one forward a channel of the layer; 2048 channels are the most that is claimed. "
    "channels=K is not the paper's: it is what makes the method quick in common programs.",
)
def score_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    layer: str = "auto",
    variant: Literal["paper", "official"] = "paper",
    baseline: Baseline = "mean",
    channels: Annotated[int, Bounds(low=1)] | None = None,
) -> Attribution:
    """The positive part of a layer's channels, weighted by the score of the image masked by them.

    φ = up(max(Σ_k w_k A^k, 0)), w = softmax over k of f(x' + H_k ⊙ (x - x')) (Algorithm 1), or those scores themselves
    (variant=official); H_k = A^k stretched to the image and scaled to [0, 1]. Returns (B, 1, H, W).
    layer: a module's name; ``auto``: the last one with a spatial output in execution (given in ``facts``).
    channels: only so many, those whose values vary most over the places of the layer (standard deviation); none: all.
    Raises UsageError when the model has no such layer. x: (B, C, H, W) in [0, 1], y: (B,).
    """
    fill = make_baseline(baseline, x, oracle.mean, rng)
    probe = oracle.probe(x, y, layer, differentiate=False)
    maps = probe.activations if channels is None else _most_varied(probe.activations, channels)
    constant = maps.amax(dim=(2, 3)) == maps.amin(dim=(2, 3))

    def points(block: Block) -> Tensor:
        mask = _unit_range(stretch(maps[block.images, block.points], x))
        return torch.lerp(fill[block.images, None], x[block.images, None], mask[:, :, None])

    scores = maps.new_zeros(maps.shape[:2])
    for block, some in oracle.scan(x, y, maps.shape[1], points):
        scores[block.images, block.points] = some.to(scores.dtype)
    weights = scores
    if variant == "paper":
        weights = scores.masked_fill(constant, -torch.inf).softmax(dim=1)
    weights = weights.masked_fill(constant, 0)  # also where all are constant and their softmax is not a number
    return Attribution(positive_map(weights[:, :, None, None] * maps, x), facts={"layer": probe.layer})


def _most_varied(maps: Tensor, count: int) -> Tensor:
    """The ``count`` maps of (B, K, h, w) with the greatest standard deviation in each image, in their order."""
    spread = maps.std(dim=(2, 3), correction=0)
    chosen = spread.topk(min(count, maps.shape[1]), dim=1).indices.sort(dim=1).values
    return maps.take_along_dim(chosen[:, :, None, None], dim=1)


def _unit_range(maps: Tensor) -> Tensor:
    """Each map of (B, K, H, W) from its least value to its greatest, as 0 to 1; a constant one becomes 0."""
    least, most = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return torch.where(most > least, (maps - least) / (most - least).clamp(min=torch.finfo(maps.dtype).tiny), 0)
