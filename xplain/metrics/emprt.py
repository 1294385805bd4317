"""Efficient model parameter randomisation test (eMPRT): the rise of a map's complexity on networks with random weights."""

from __future__ import annotations

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.parameters import Steps
from xplain.core.registry import metric
from xplain.core.rng import seed_of
from xplain.core.types import Score
from xplain.metrics._parts import pixel_values
from xplain.metrics.inputs import Explain, MetricInput
from xplain.metrics.smprt import REVISITED
from xplain.models.randomization import randomize_layers
from xplain.oracle.layers import weighted_layers

BINS = 100
CONSTANT_MAP = "the map is constant"
VANISHED_MAP = "the map of a random network is constant"


@metric(
    "emprt",
    access="layers",
    better="higher",
    bounds=(-1, float("inf")),
    unit="relative rise of the entropy",
    axis="random network",
    attributions=lambda networks, **_: networks,
    undefined="where the map, or that of a random network, is constant",
    paper=REVISITED,
    deviations="The histogram has 100 bins and is of the sums over channels; the value is the mean over several random networks.",
)
def emprt(inputs: MetricInput, *, seed: int, explain: Explain, networks: Steps = 5) -> Score:
    """Compute the relative rise of the entropy of the map's values when all weights of the network are random.

    (H' - H) / H, where H is the entropy of the histogram of the map's values, summed over channels, with 100 equal bins
    from its minimum to its maximum, and H' that of the network with random weights. Scale, offset and places of the values do not
    matter. 0 means that the method ignores the learned weights, as ``random``, ``sobel`` and ``center`` do.
    All layers are drawn as in ``parameter-randomisation``. Undefined (NaN) where the map of a network is constant, as that of Grad-CAM
    often is without evidence for the class.

    networks: number of random networks; the value is the mean over them, and the curve has one point per network, which shows the spread.
    """
    layers = weighted_layers(inputs.oracle, inputs.images)
    if not layers:
        raise UsageError("emprt requires a model with parameters", "use another model or metric")
    original = _histogram_entropy(inputs.attributions)
    entropies = []
    for index in range(networks):
        draws = randomize_layers(inputs.oracle.classifier, layers, seed_of(seed, "emprt", index), 1, cascade=True)
        for network in draws:
            entropies.append(_histogram_entropy(explain(inputs.images, inputs.y, classifier=network)))
    random = torch.stack(entropies, dim=1)
    is_constant = original == 0
    has_vanished = ~is_constant & (random == 0).any(dim=1)
    original = original.where(~is_constant, torch.nan)[:, None]
    curve = ((random - original) / original).masked_fill(random == 0, torch.nan)
    return Score(curve.mean(dim=1), curve, undefined={CONSTANT_MAP: is_constant, VANISHED_MAP: has_vanished})


def _histogram_entropy(attributions: Tensor) -> Tensor:
    """Return the entropy (B,) in nats of the histogram of each map (B, C, H, W) summed over channels; 0 if it is constant."""
    values = pixel_values(attributions).flatten(1).sort(dim=1).values
    low, high = values[:, :1], values[:, -1:]
    edges = low + (high - low) * torch.arange(1, BINS, dtype=values.dtype, device=values.device) / BINS
    below = torch.searchsorted(values, edges.contiguous())
    first, last = torch.zeros_like(below[:, :1]), torch.full_like(below[:, :1], values.shape[1])
    counts = torch.cat([first, below, last], dim=1).diff(dim=1)
    shares = counts.double() / values.shape[1]
    return -torch.special.xlogy(shares, shares).sum(dim=1)
