"""Parameter randomization: whether an explanation changes when the weights of the model are replaced by random ones."""

from __future__ import annotations

from typing import Literal

import torch

from xplain.core.errors import UsageError
from xplain.core.papers import Paper
from xplain.core.parameters import Steps
from xplain.core.registry import metric
from xplain.core.types import Score
from xplain.metrics._similarity import Similarity, compare_maps
from xplain.metrics.inputs import Explain, MetricInput
from xplain.models.randomization import randomize_layers
from xplain.oracle.layers import weighted_layers

SANITY = Paper(
    "Sanity checks for saliency maps",
    "Julius Adebayo, Justin Gilmer, Michael Muelly, Ian Goodfellow, Moritz Hardt, Been Kim",
    2018,
    "NeurIPS",
    "1810.03292",
)
CONSTANT_MAP = "a map is constant"


@metric(
    "parameter-randomisation",
    access="layers",
    better="lower",
    bounds=(-1, 1),
    unit="mean similarity to the trained network's map",
    axis="fraction of layers",
    attributions=lambda stages, **_: stages,
    undefined="where the map, or the map of a stage, is constant",
    paper=SANITY,
)
def parameter_randomisation(
    inputs: MetricInput,
    *,
    seed: int,
    explain: Explain,
    similarity: Similarity = "spearman",
    absolute: bool = False,
    stages: Steps = 10,
    order: Literal["cascading", "independent", "bottom-up"] = "cascading",
) -> Score:
    """Average the similarity between the map and the maps of the network with layers randomized from the output to the input.

    Stage k of K reinitializes the last round(k·L/K) of the network's L layers (``cascading``), or only those layers that
    stage k - 1 did not reinitialize (``independent``), or the first round(k·L/K) layers (``bottom-up``), and runs the method again for the
    same class. The value is the mean over
    stages 1 .. K; the curve starts with the trained network's 1 and has one point per stage.
    Maps are summed over channels first. 1 means that the method ignores the learned weights, 0 that the map is unrelated to the
    original. The method's own random draws stay the same, so ``random`` scores 1. Undefined (NaN) where a map is constant, as
    Grad-CAM's often is if there is no evidence for the class left.
    Layers are ordered by execution; a layer is a convolution, linear or other module with weights, with the
    norms that follow it. Norms get scale 1 and shift 0; batch norms keep their running statistics. The new weights depend on
    the seed and the layer only, so all images and methods are evaluated on the same networks.

    similarity: ``spearman`` is the rank correlation of all pixels, ``ssim`` the structural similarity of the maps scaled to [0, 1].
    absolute: compare the absolute values of the sums over channels.
    stages: number of stages K, at most L.
    order: the layers of a stage, see above.
    """
    layers = weighted_layers(inputs.oracle, inputs.images)
    if not layers:
        raise UsageError("parameter-randomisation requires a model with parameters", "use another model or metric")
    count = min(stages, len(layers))
    networks = randomize_layers(
        inputs.oracle.classifier, layers, seed, count, cascade=order != "independent", from_input=order == "bottom-up"
    )
    similarities = [compare_maps(inputs.attributions, inputs.attributions, similarity, absolute=absolute)]
    for network in networks:
        attributions = explain(inputs.images, inputs.y, classifier=network)
        similarities.append(compare_maps(inputs.attributions, attributions, similarity, absolute=absolute))
    curve = torch.stack(similarities, dim=1)
    values = curve[:, 1:].mean(dim=1)
    return Score(values, curve, undefined={CONSTANT_MAP: values.isnan()})
