"""How concentrated a map is: sparseness (Gini index) and complexity (entropy). They do not look at the model."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from xplain.core.papers import Paper
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics.inputs import MetricInput

ZERO_MAP = "the map is zero"


@metric(
    "sparseness",
    better="neither",
    unit="Gini index",
    undefined="where the map is zero",
    paper=Paper(
        "Concise explanations of neural networks using adversarial training",
        "Prasad Chalasani, Jiefeng Chen, Amrita Roy Chowdhury, Xi Wu, Somesh Jha",
        2020,
        "ICML",
        "1810.06583",
    ),
)
def sparseness(inputs: MetricInput) -> Score:
    """Compute the Gini index of the magnitudes of a map: 0 if all pixels are equal, 1 - 1/N if a single one of N is not zero.

    Σ_i (2i - N - 1) a_i / (N Σ a), where a_1 <= ... <= a_N are the sorted magnitudes of the sums over channels. The scale and the
    places of the values do not matter. Sparser maps are not better: uniform noise has 1/3 with one channel and 0.19 with three, and
    a map of low resolution that is enlarged keeps its index.
    """
    shares, is_zero = _shares(inputs)
    count = shares.shape[1]
    weights = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=shares.device) - count - 1
    gini = (shares.sort(dim=1).values * weights).sum(dim=1) / count
    return _score(gini, is_zero)


@metric(
    "complexity",
    better="neither",
    bounds=(0.0, 1.0),
    unit="effective share of pixels",
    undefined="where the map is zero",
    paper=Paper(
        "Evaluating and aggregating feature-based model explanations",
        "Umang Bhatt, Adrian Weller, José M. F. Moura",
        2020,
        "IJCAI",
        "2005.00631",
    ),
)
def complexity(inputs: MetricInput, *, unit: Literal["share", "pixels", "nats"] = "share") -> Score:
    """Compute the entropy of the magnitudes of a map, as the share of equally important pixels that has the same entropy.

    H = -Σ P_j ln P_j of the shares P of the magnitudes of the sums over channels, with 0 ln 0 = 0. A map of k equal pixels has e^H = k.
    Simpler maps are not better: look at the other metrics too.

    unit: ``share`` is e^H / N, ``pixels`` e^H, and ``nats`` the entropy H itself, between 0 and ln N.
    """
    shares, is_zero = _shares(inputs)
    entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
    if unit == "nats":
        return _score(entropy, is_zero)
    offset = math.log(shares.shape[1]) if unit == "share" else 0.0
    return _score((entropy - offset).exp(), is_zero)


def _shares(inputs: MetricInput) -> tuple[Tensor, Tensor]:
    """Return the shares (B, N) of the pixels in the sum of the magnitudes of a map, and which maps (B,) are zero."""
    magnitudes = inputs.attributions.double().sum(dim=1).abs().flatten(1)
    largest = magnitudes.amax(dim=1, keepdim=True)
    is_zero = largest[:, 0] == 0
    magnitudes = magnitudes / largest.where(largest > 0, 1)  # the sum of tiny magnitudes may round to zero
    return magnitudes / magnitudes.sum(dim=1, keepdim=True), is_zero


def _score(values: Tensor, is_zero: Tensor) -> Score:
    return Score(values.masked_fill(is_zero, torch.nan), undefined={ZERO_MAP: is_zero})
