"""Max-sensitivity: the largest relative change of an attribution under small perturbations of the image."""

from __future__ import annotations

import torch

from xplain.core.papers import Paper
from xplain.core.parameters import Positive, Steps
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics.inputs import Explain, MetricInput

MAX_PIXELS = 512 * 224 * 224  # of perturbed images in memory at once: 0.3 GB


@metric(
    "max-sensitivity",
    better="lower",
    bounds=(0, float("inf")),
    unit="relative change of the map",
    attributions=lambda samples, **_: samples,
    undefined="where the attribution is zero",
    paper=Paper(
        "On the (in)fidelity and sensitivity of explanations",
        "Chih-Kuan Yeh, Cheng-Yu Hsieh, Arun Suggala, David I. Inouye, Pradeep Ravikumar",
        2019,
        "NeurIPS",
        "1901.09392",
    ),
)
def max_sensitivity(
    inputs: MetricInput, *, rng: Streams, explain: Explain, radius: Positive = 0.02, samples: Steps = 10
) -> Score:
    """Estimate the largest relative change of the attribution under small random perturbations of the image.

    max over k of ‖φ(x + δ_k) - φ(x)‖ / ‖φ(x)‖, with Frobenius norms over channels and pixels.
    The target and the method's own random draws are those of the unperturbed image. A map that ignores the image, such as
    ``random``, scores 0. Undefined (NaN) where φ(x) = 0.

    radius: δ_k is uniform in the cube ‖δ‖∞ <= radius, in pixel units; x + δ_k may leave [0, 1].
    samples: number of draws. The first draws stay the same if there are more, so more samples never lower the value.
    """
    x, attributions = inputs.images, inputs.attributions
    largest = attributions.new_zeros(len(x))
    chunk_size = max(MAX_PIXELS // x[:, 0].numel(), 1)
    for samples_in_chunk in torch.arange(samples, device=x.device).split(chunk_size):
        shift = (2 * rng.uniform(samples_in_chunk, tuple(x.shape[1:]), x.dtype) - 1) * radius
        image = torch.arange(len(x), device=x.device).repeat_interleave(len(samples_in_chunk))
        moved = explain((x[:, None] + shift).flatten(0, 1), inputs.y[image], image=image)
        change = moved.unflatten(0, (len(x), len(samples_in_chunk))) - attributions[:, None]
        largest = torch.maximum(largest, change.flatten(2).norm(dim=2).amax(dim=1))
    norm = attributions.flatten(1).norm(dim=1)
    is_zero = norm == 0
    values = (largest / norm).double().masked_fill(is_zero, torch.nan)
    return Score(values, undefined={"the attribution is zero": is_zero})
