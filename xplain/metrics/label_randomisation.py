"""Label randomization: whether an explanation depends on the explained class, or on the labels of the training data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xplain.core.errors import UsageError
from xplain.core.parameters import ExistingPath
from xplain.core.registry import metric
from xplain.core.rng import Streams
from xplain.core.types import Score
from xplain.metrics._similarity import Similarity, compare_maps
from xplain.metrics.inputs import Explain, MetricInput
from xplain.metrics.parameter_randomisation import CONSTANT_MAP, SANITY
from xplain.models import Classifier


@metric(
    "label-randomisation",
    better="lower",
    bounds=(-1, 1),
    unit="similarity to the map of a random label",
    attributions=lambda **_: 1,
    undefined="where one of the two maps is constant, and for models with a single value",
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
    weights: ExistingPath | None = None,
) -> Score:
    """Compare the map with the map of the same method for a random other class.

    The other class is uniform over all classes but the target. It depends on the seed and the image only, so it is the same for
    every method (the random logit test).
    1 means that the method ignores the class. Undefined (NaN) where a map is constant, and for models that return a single value.
    With two classes the gradients of their probabilities differ only in sign, so use ``absolute=false``.

    weights: a file with the weights of the same network after training on permuted labels. The map is then compared with that
    network's map of the same class, which is the test of the paper (section 5.2).
    similarity, absolute: as in ``parameter-randomisation``.
    """
    if weights is None and not inputs.oracle.output.has_probabilities and _count_outputs(inputs) == 1:
        values = torch.full_like(inputs.y, torch.nan, dtype=torch.float64)
        return Score(values, undefined={"the model has one output": values.isnan()})
    if weights is None:
        attributions = explain(inputs.images, draw_other_classes(inputs, rng))
    else:
        attributions = explain(inputs.images, inputs.y, classifier=load(weights))
    values = compare_maps(inputs.attributions, attributions, similarity, absolute=absolute)
    return Score(values, undefined={CONSTANT_MAP: values.isnan()})


def draw_other_classes(inputs: MetricInput, rng: Streams) -> Tensor:
    """Return a random class (B,) per image that is not its target. Raises UsageError if the model has one class."""
    classes = _count_outputs(inputs)
    if classes < 2:
        raise UsageError(
            "label-randomisation requires at least two classes, but the model has one", "use another metric"
        )
    sample = torch.zeros(1, dtype=torch.long, device=inputs.y.device)
    drawn = rng.integers(sample, (), classes - 1)[:, 0]
    return drawn + (drawn >= inputs.y)


def _count_outputs(inputs: MetricInput) -> int:
    """Return the number of outputs of the model."""
    return inputs.oracle.logits(inputs.images[:1], check=True).shape[1]
