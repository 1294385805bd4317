"""Score-CAM: the channels of a layer, weighted by the score of the image that each channel masks."""

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.parameters import Bounds
from xplain.core.registry import method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.baselines import Baseline, make_baseline
from xplain.methods._layer_maps import average_layers, name_layers, positive_sum, scale_to_unit, upsample
from xplain.models.layouts import LayerText, LayoutText
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layers, split_layers

MAX_CHANNELS = 2048  # of a layer; the listed cost assumes it


@method(
    "score-cam",
    violates=frozenset({"sensitivity-a"}),
    access="layers",
    paper=Paper(
        "Score-CAM: score-weighted visual explanations for convolutional neural networks",
        "Haofan Wang, Zifan Wang, Mengnan Du, Fan Yang, Zijian Zhang, Sirui Ding, Piotr Mardziel, Xia Hu",
        2020,
        "CVPR workshops",
        "1910.01279",
    ),
    cost=lambda channels, layer, **_: (len(split_layers(layer)) * (channels or MAX_CHANNELS) + 1, 0),
    at_most=True,
    parallel=lambda **_: 512,
    deviations="variant=paper: the softmax over the channels cancels the score of the baseline image, which is not computed. "
    "variant=official: the weights of the official code are the scores themselves (probabilities: score=prob), and it applies the "
    "ReLU after upsampling. Masked pixels get the mean color, the zero of the normalized input. A constant channel has the "
    "weight 0, as in the official code. pytorch-grad-cam upsamples masks with aligned corners. The cost is one forward pass "
    "per channel of the layer; the cost that is listed assumes 2048 channels. channels=K, for a fast run, is not in the paper.",
)
def score_cam(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    layer: LayerText = "auto",
    layout: LayoutText = "auto",
    variant: Literal["paper", "official"] = "paper",
    baseline: Baseline = "mean",
    channels: Annotated[int, Bounds(low=1)] | None = None,
    scale_layers: bool = False,
) -> Attribution:
    """Sum the channels of a layer, weighted by the score of the image masked by each channel, and keep the positive part.

    φ = up(max(Σ_k w_k A^k, 0)), w = softmax over k of f(x' + H_k ⊙ (x - x')) (Algorithm 1), or those scores themselves
    (variant=official); H_k = A^k, upsampled to the image and scaled to [0, 1]. Returns (B, 1, H, W).

    x: (B, C, H, W) in [0, 1]. y: (B,).
    layer: the name of a module; ``auto``: the last module in execution order with a spatial output, recorded in ``facts``. The maps of
    several, such as ``layer3+layer4``, are upsampled and averaged.
    layout: the layout of the layer's output: ``HxW`` or ``HxW+PREFIX`` for tokens, ``channels-first`` or ``channels-last``; ``auto``:
    decided by module types and by how the layer responds to changes of image regions.
    scale_layers: scale the map of each of several layers to [0, 1] first, as pytorch-grad-cam does; otherwise the maps keep the units of
    the score, and layers with larger maps count more.
    variant: weights of the paper's Algorithm 1, or of the authors' code.
    baseline: x', what masked pixels show.
    channels: use only this number of channels, those with the greatest standard deviation over the layer; default: all.
    Raises UsageError if the model has no such layer.
    """
    fill = make_baseline(baseline, x, oracle.mean_color(x), rng)
    probes = probe_layers(oracle, x, y, layer, layout, differentiate=False)
    sums = []
    for probe in probes:
        maps = probe.activations if channels is None else _most_varied(probe.activations, channels)
        weights = _score_masks(oracle, x, y, maps, fill)
        is_constant = maps.amax(dim=(2, 3)) == maps.amin(dim=(2, 3))
        if variant == "paper":
            weights = weights.masked_fill(is_constant, -torch.inf).softmax(dim=1)
        weights = weights.masked_fill(is_constant, 0)  # also if all channels are constant and the softmax is NaN
        sums.append(positive_sum(weights[:, :, None, None] * maps))
    return Attribution(average_layers(sums, x, scale=scale_layers), facts={"layer": name_layers(probes)})


def _score_masks(oracle: Oracle, x: Tensor, y: Tensor, maps: Tensor, fill: Tensor) -> Tensor:
    """Return the scores (B, K) of the images x (B, C, H, W), of which each of the maps (B, K, h, w) shows a part, over ``fill``."""
    scores = maps.new_zeros(maps.shape[:2])
    for block in oracle.blocks(x, maps.shape[1]):
        masks = scale_to_unit(upsample(maps[block.images, block.points], x))
        masked = torch.lerp(fill[block.images, None], x[block.images, None], masks[:, :, None])
        scores[block.images, block.points] = oracle.block_scores(block, masked, y).to(scores.dtype)
    return scores


def _most_varied(maps: Tensor, count: int) -> Tensor:
    """Return the ``count`` maps of (B, K, h, w) with the greatest standard deviation per image, in their order."""
    deviations = maps.std(dim=(2, 3), correction=0)
    channels = deviations.topk(min(count, maps.shape[1]), dim=1).indices.sort(dim=1).values
    return maps.take_along_dim(channels[:, :, None, None], dim=1)
