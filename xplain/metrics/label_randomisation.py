"""Label randomisation: whether an explanation depends on the class that it is asked about, or on the labels that were learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.parameters import NamedFile
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics._similarity import Similarity, compare_maps
from xplain.metrics.inputs import Explain, MetricInput
from xplain.metrics.parameter_randomisation import CONSTANT, SANITY
from xplain.models import Classifier


@metric(
    "label-randomisation",
    better="lower",
    bounds=(-1, 1),
    unit="similarity to the map of a random label",
    attributions=lambda **_: 1,
    undefined="where one of the two maps is constant",
    paper=SANITY,
)
def label_randomisation(
    inputs: MetricInput,
    *,
    rng: Streams,
    explain: Explain,
    load: Callable[[str], Classifier],
    similarity: Similarity = "spearman",
    absolute: bool = False,
    weights: NamedFile | None = None,
) -> Score:
    """The similarity of the map to the same method's map of another class, drawn at random.

    The other class is even over all but the target, seeded by the image and the same for every method: the logit version.
    weights: a file of what the same network learned from permuted labels; the map is then compared with that network's map
    of the same class, which is the paper's own test (section 5.2). similarity, absolute: as in ``parameter-randomisation``. With two
    classes the gradients of their probabilities differ in the sign alone, so leave ``absolute`` off. 1 means that the method
    does not look at the class. Undefined (NaN) where a map is constant.
    """
    classifier = None if weights is None else load(weights)
    y = draw_others(inputs, rng) if classifier is None else inputs.y
    again = explain(inputs.images, y, classifier=classifier)
    values = compare_maps(inputs.attributions, again, similarity, absolute=absolute)
    return Score(values, undefined={CONSTANT: values.isnan()})


def draw_others(inputs: MetricInput, rng: Streams) -> Tensor:
    """(B,) a class for each image that is not its target."""
    classes = inputs.oracle.logits(inputs.images[:1], check=True).shape[1]
    if classes < 2:
        raise UsageError("the model has one class", "label-randomisation needs two")
    first = torch.zeros(1, dtype=torch.long, device=inputs.y.device)
    drawn = rng.integers(first, (), classes - 1)[:, 0]
    return drawn + (drawn >= inputs.y)
