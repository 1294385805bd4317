"""Parameter randomisation: whether an explanation changes when the network forgets what it learned."""

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
from xplain.models.randomization import randomise

SANITY = Paper(
    "Sanity checks for saliency maps",
    "Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim",
    2018,
    "NeurIPS",
    "1810.03292",
)
CONSTANT = "a map is constant"


@metric(
    "parameter-randomisation",
    better="lower",
    bounds=(-1, 1),
    unit="mean similarity to the trained network's map",
    axis="share of layers",
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
    order: Literal["cascading", "independent"] = "cascading",
) -> Score:
    """The mean similarity of the map to the maps of the same network with its layers initialised anew, from the output inwards.

    Stage k of K gives the last round(k·L/K) of the network's L layers new random weights (``cascading``), or only those that stage
    k - 1 did not have (``independent``), and runs the method again for the same class. The value is the mean over stages 1 .. K;
    the curve begins with the trained network's 1 and has one point a stage. stages: at most L. Layers are ordered by execution;
    one is a convolution, linear or other module with weights and the norms behind it. Norms get scale 1 and shift 0, and batch
    norms keep their running statistics. Draws depend on the seed and the layer: all images and methods see the same networks.
    spearman: rank correlation of all pixels. ssim: of the maps scaled to [0, 1]. Maps are summed over channels; ``absolute``
    then drops the sign. 1 means that the method does not look at what was learned, 0 that nothing of the map is left. The method's
    own draws stay, so ``random`` has 1. Undefined (NaN) where a map is constant, as Grad-CAM's often is where no evidence for the
    class is left.
    """
    layers = inputs.oracle.layers(inputs.images)
    if not layers:
        raise UsageError("the model's output depends on no parameters", "parameter-randomisation needs a network")
    count = min(stages, len(layers))
    networks = randomise(inputs.oracle.classifier, layers, seed, count, cascade=order == "cascading")
    found = [compare_maps(inputs.attributions, inputs.attributions, similarity, absolute=absolute)]
    for network in networks:
        again = explain(inputs.images, inputs.y, classifier=network)
        found.append(compare_maps(inputs.attributions, again, similarity, absolute=absolute))
    curve = torch.stack(found, dim=1)
    values = curve[:, 1:].mean(dim=1)
    return Score(values, curve, undefined={CONSTANT: values.isnan()})
