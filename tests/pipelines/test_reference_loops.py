"""The reference loops of bench follow the decisions and probabilities of each kind of output."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import linear, value, with_output
from xplain.core.registry import METHODS, METRICS
from xplain.pipelines import reference_loops
from xplain.pipelines.benchmark_case import Task

X = toys.images(3)
WEIGHT = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
MAPS = torch.randn(3, 1, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
MODELS = {"softmax": linear(WEIGHT), "binary": linear(WEIGHT), "sigmoid": linear(WEIGHT), "none": value(WEIGHT)}
Y = torch.tensor([0, 0, 0])


def make_task(activation, spec, **settings):
    classifier = with_output(MODELS[activation], activation, threshold=0.3 if activation == "sigmoid" else None)
    return classifier, Task(classifier, X, Y, spec.resolve(settings), MAPS)


@pytest.mark.parametrize("activation", MODELS)
def test_mfaba_loop(activation):
    settings = {"steps": 6, "step_size": 0.2}
    classifier, task = make_task(activation, METHODS.get("mfaba"), **settings)
    toys.assert_same(
        reference_loops.mfaba(task, None), xplain.attribute(classifier, X, "mfaba", target=Y, **settings).values
    )


@pytest.mark.parametrize("activation", ["softmax", "binary", "sigmoid"])
def test_agi_loop(activation):
    settings = {"steps": 4, "variant": "paper"}
    classifier, task = make_task(activation, METHODS.get("agi"), **settings)
    result = xplain.attribute(classifier, X, "agi", target=Y, against=1, **settings)
    toys.assert_same(reference_loops.agi(task, None), result.values)


@pytest.mark.parametrize("activation", MODELS)
def test_deletion_loop(activation):
    classifier, task = make_task(activation, METRICS.get("deletion"), steps=8)
    score = xplain.measure(classifier, X, MAPS, "deletion", target=Y, steps=8)
    toys.assert_same(reference_loops.deletion(task, None), score.values)
