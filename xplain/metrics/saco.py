"""SaCo: whether groups of pixels with more salience also change the prediction more."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._parts import assign_even_parts, pixel_values, scores_without_parts
from xplain.metrics._ranking import ranks
from xplain.metrics.inputs import MetricInput
from xplain.metrics.perturbation import make_fill_images

CONSTANT_MAP = "the map is constant"


@metric(
    "saco",
    better="higher",
    bounds=(-1, 1),
    unit="weighted rank correlation",
    forwards=lambda groups, **_: groups,
    undefined="where the map is constant",
    paper=Paper(
        "On the faithfulness of vision transformer explanations",
        "Junyi Wu, Weitai Kang, Hao Tang, Yuan Hong, Yan Yan",
        2024,
        "CVPR",
        "2404.01415",
    ),
    deviations="Two groups with the same effect count 0; the authors' code counts them as agreement, so that a model which ignores the "
    "image scores 1.",
)
def saco(
    inputs: MetricInput,
    *,
    groups: Annotated[int, Bounds(low=2)] = 10,
    ties: Literal["zero", "agree"] = "zero",
    absolute: bool = False,
    baseline: Literal["image-mean", "mean", "black", "blur"] = "image-mean",
) -> Score:
    """Compare the salience of groups of pixels with the effect of removing each of them, weighted by the gaps in salience.

    Pixels are sorted by the sum over channels, highest first, and cut into K groups of even size. s_i is the mean salience of group
    i, and d_i the fall of the target's probability without it. The value is Σ_{i<j} sign(d_i - d_j) w_ij / Σ_{i<j} w_ij
    with w_ij = s_i - s_j: 1 if effects fall with the salience, -1 if they rise. A random map scores 0 on average, with a standard
    deviation of about 0.33. The salience itself matters, not only its order.

    groups: number of groups K; group k ends at pixel round(k·N/K), and equal values keep raster order.
    ties: the sign of equal effects: 0, or 1 (``agree``) as in the authors' code.
    absolute: use the magnitudes of the sums.
    baseline: what replaces a group; ``image-mean`` is the mean color of the image, ``mean`` the zero of the normalized input.
    Raises UsageError if there are more groups than pixels.
    """
    salience = pixel_values(inputs.attributions).flatten(1)
    if absolute:
        salience = salience.abs()
    count = salience.shape[1]
    if groups > count:
        raise UsageError(f"saco: groups={groups} exceeds the number of pixels, {count}", "use fewer groups")
    group_of_rank = assign_even_parts(count, groups, salience.device)
    group_of_pixel = group_of_rank[ranks(salience)].reshape(len(salience), 1, *inputs.images.shape[2:])
    scores = scores_without_parts(inputs, group_of_pixel, groups, _make_fill(inputs, baseline))
    means = _group_means(salience, group_of_rank, groups)
    values = _weigh_pairs(means, scores, ties)
    is_constant = salience.amax(dim=1) == salience.amin(dim=1)
    return Score(values.masked_fill(is_constant, torch.nan), undefined={CONSTANT_MAP: is_constant})


def _make_fill(inputs: MetricInput, baseline: str) -> Tensor:
    """Return the images (B, C, H, W) whose pixels replace removed ones."""
    if baseline != "image-mean":
        return make_fill_images(baseline, inputs)
    return inputs.images.mean(dim=(2, 3), keepdim=True).expand_as(inputs.images)


def _group_means(salience: Tensor, group_of_rank: Tensor, groups: int) -> Tensor:
    """Return the mean salience (B, K) of each group of pixels (B, N)."""
    sizes = group_of_rank.bincount(minlength=groups).tolist()
    ordered = salience.sort(dim=1, descending=True).values
    return torch.stack([part.mean(dim=1) for part in ordered.split(sizes, dim=1)], dim=1)


def _weigh_pairs(salience: Tensor, scores: Tensor, ties: str) -> Tensor:
    """Return the agreement (B,) of the salience (B, K) of groups with the scores (B, K) without them."""
    first, second = torch.triu_indices(salience.shape[1], salience.shape[1], offset=1, device=salience.device)
    weights = salience[:, first] - salience[:, second]
    signs = (scores[:, second] - scores[:, first]).sign()  # of d_i - d_j, where the score of the image cancels
    if ties == "agree":
        signs = torch.where(signs == 0, 1.0, signs)
    return (signs * weights).sum(dim=1) / weights.sum(dim=1)
