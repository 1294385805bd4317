"""Max-sensitivity: how far an explanation moves when the image moves a little."""

from __future__ import annotations

import torch

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics.inputs import Explain, MetricInput

PIXELS = 512 * 224 * 224  # of perturbed images that are held at once: 0.3 GB


@metric(
    "max-sensitivity",
    better="lower",
    bounds=(0, float("inf")),
    unit="relative change of the map",
    attributions=lambda samples, **_: samples,
    undefined="where the attribution is zero",
    paper=Paper(
        "On the (in)fidelity and sensitivity of explanations",
        "Yeh, Hsieh, Suggala, Inouye, Ravikumar",
        2019,
        "NeurIPS",
        "1901.09392",
    ),
)
def max_sensitivity(
    inputs: MetricInput, *, rng: Streams, explain: Explain, radius: Positive = 0.02, samples: Steps = 10
) -> Score:
    """The largest relative change of the attribution over images nearby.

    max over k of ‖φ(x + δ_k) - φ(x)‖ / ‖φ(x)‖, Frobenius norms over channels and pixels; δ_k uniform in the cube ‖δ‖∞ <= radius,
    in pixel units, not cut at 0 and 1. The target stays that of the image, and so do the method's own random draws. More samples contain
    the fewer ones, so the value only rises. A map that does not look at the image, such as ``random``, has 0. Undefined (NaN) where
    φ(x) = 0.
    """
    x, own = inputs.images, inputs.attributions
    largest = own.new_zeros(len(x))
    for some in torch.arange(samples, device=x.device).split(max(PIXELS // x[:, 0].numel(), 1)):
        shift = (2 * rng.uniform(some, tuple(x.shape[1:]), x.dtype) - 1) * radius
        image = torch.arange(len(x), device=x.device).repeat_interleave(len(some))
        again = explain((x[:, None] + shift).flatten(0, 1), inputs.y[image], image=image)
        change = again.unflatten(0, (len(x), len(some))) - own[:, None]
        largest = torch.maximum(largest, change.flatten(2).norm(dim=2).amax(dim=1))
    norm = own.flatten(1).norm(dim=1)
    return Score(
        (largest / norm).double().masked_fill(norm == 0, torch.nan), undefined={"the attribution is zero": norm == 0}
    )
