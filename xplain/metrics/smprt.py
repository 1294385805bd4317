"""Smooth model parameter randomisation test (sMPRT): parameter randomization with maps that are averaged over noisy images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Fraction, Steps
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics._similarity import Similarity, compare_maps
from xplain.metrics.inputs import Explain, MetricInput
from xplain.models import Classifier
from xplain.models.randomization import randomize_layers
from xplain.oracle.layers import weighted_layers

REVISITED = Paper(
    "Sanity checks revisited: an exploration to repair the model parameter randomisation test",
    "Anna Hedström, Leander Weber, Sebastian Lapuschkin, Marina Höhne",
    2024,
    arxiv="2401.06465",
)
MAX_PIXELS = 512 * 224 * 224  # of noisy images in memory at once: 0.3 GB
CONSTANT_MAP = "a map is constant"


@metric(
    "smprt",
    access="layers",
    better="lower",
    bounds=(-1, 1),
    unit="mean similarity to the trained network's map",
    axis="fraction of layers",
    attributions=lambda stages, smooth, **_: smooth * (stages + 1),
    undefined="where the mean map of the network, or that of a stage, is constant",
    paper=REVISITED,
    deviations="All networks explain the same noisy images, and the trained network's 1 is not part of the mean.",
)
def smprt(
    inputs: MetricInput,
    *,
    rng: Streams,
    seed: int,
    explain: Explain,
    smooth: Steps = 10,
    noise: Fraction = 0.1,
    similarity: Similarity = "spearman",
    absolute: bool = False,
    stages: Steps = 10,
    order: Literal["bottom-up", "cascading"] = "bottom-up",
) -> Score:
    """Average the similarity between maps of the network and of its randomized copies, each averaged over noisy images.

    Compares the means of φ(x + ε_i) over n draws ε_i ~ N(0, σ²), with σ = noise · (max x - min x); the same draws for every
    network. The test is otherwise that of ``parameter-randomisation``, which ``smooth=1,noise=0,order=cascading`` equals.
    1 means that the method ignores the learned weights, as ``random``, ``sobel`` and ``center`` do: the method's own random draws
    stay the same. Undefined (NaN) where a mean map is constant.

    smooth: number n of noisy images, over which the maps are averaged.
    noise: standard deviation of the noise, as a fraction of the value range of the image.
    similarity, absolute, stages: as in ``parameter-randomisation``.
    order: ``bottom-up`` randomizes from the input to the output, which the paper recommends, because the later layers keep what the
    earlier ones compute; ``cascading`` from the output to the input.
    """
    layers = weighted_layers(inputs.oracle, inputs.images)
    if not layers:
        raise UsageError("smprt requires a model with parameters", "use another model or metric")
    trained = inputs.oracle.classifier
    count = min(stages, len(layers))
    networks = randomize_layers(trained, layers, seed, count, cascade=True, from_input=order == "bottom-up")
    original = _smooth_maps(inputs, rng, explain, smooth, noise)
    similarities = [compare_maps(original, original, similarity, absolute=absolute)]
    for network in networks:
        maps = _smooth_maps(inputs, rng, explain, smooth, noise, network)
        similarities.append(compare_maps(original, maps, similarity, absolute=absolute))
    curve = torch.stack(similarities, dim=1)
    values = curve[:, 1:].mean(dim=1)
    return Score(values, curve, undefined={CONSTANT_MAP: values.isnan()})


def _smooth_maps(
    inputs: MetricInput, rng: Streams, explain: Explain, count: int, noise: float, network: Classifier | None = None
) -> Tensor:
    """Return the mean attributions (B, C, H, W) of ``count`` noisy images. network: defaults to the trained one."""
    x = inputs.images
    sigma = noise * (x.amax(dim=(1, 2, 3)) - x.amin(dim=(1, 2, 3)))[:, None, None, None, None]
    total = torch.zeros_like(inputs.attributions, dtype=torch.float64)
    chunk_size = max(MAX_PIXELS // x[:, 0].numel(), 1)
    for samples in torch.arange(count, device=x.device).split(chunk_size):
        noisy = x[:, None] + sigma * rng.normal(samples, tuple(x.shape[1:]), x.dtype)
        image = torch.arange(len(x), device=x.device).repeat_interleave(len(samples))
        maps = explain(noisy.flatten(0, 1), inputs.y[image], classifier=network, image=image)
        total += maps.double().unflatten(0, (len(x), len(samples))).sum(dim=1)
    return total / count
