"""Every method and metric on the emulated device: no tensor on another device, the numbers of the CPU, full float32, same bytes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import xplain
from tests.cuda.networks import SIDE, load, make_images
from tests.helpers.emulated_cuda import EmulatedTensor, emulate_cuda
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS, METRICS, Spec
from xplain.oracle import Oracle
from xplain.pipelines.compatibility import minimal_settings

BOXES = torch.tensor([[[2.0, 2.0, 9.0, 9.0]], [[0.0, 0.0, 5.0, 5.0]]], dtype=torch.float64)
METRIC_SETTINGS: dict[str, dict[str, Any]] = {
    "sensitivity-n": {"fractions": "20+60", "masks": 3},
    "aic": {"thresholds": "5+60", "min_probability": 0},
    "sic": {"thresholds": "5+60", "min_probability": 0},
    "road": {"percentiles": "50"},
    "road-morf": {"percentiles": "50"},
    "road-lerf": {"percentiles": "50"},
    "parameter-randomisation": {"stages": 1},
}
METHOD_NAMES = [spec.name for spec in METHODS]
METRIC_NAMES = [spec.name for spec in METRICS if spec.scope == "image"]
NO_LOG = "/no file/"


@pytest.fixture(scope="module")
def classifiers():
    """The network on the emulated device and on the CPU."""
    with emulate_cuda(NO_LOG):
        on_device = load()
    return on_device, load("cpu")


def settings_of(spec: Spec) -> dict[str, Any]:
    boxes = {"boxes": BOXES} if "boxes" in spec.parameters else {}
    return minimal_settings(spec, (SIDE, SIDE), 3) | METRIC_SETTINGS.get(spec.name, {}) | boxes


def assert_is_on_device(*values: object) -> None:
    assert [type(value) for value in values if isinstance(value, Tensor) and type(value) is not EmulatedTensor] == []


def assert_is_close(actual: Tensor, expected: Tensor) -> None:
    scale = max(float(expected.nan_to_num().abs().max()), 1e-12)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert float((actual.cpu() - expected).nan_to_num().abs().max()) <= 1e-4 * scale


def assert_is_exact_and_repeatable(log: Any) -> None:
    assert log.operations > 0
    assert log.tf32 == {}
    assert log.nondeterministic == {}


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_method(log, classifiers, name):
    on_device, on_cpu = classifiers
    spec, x = METHODS.get(name), make_images()
    try:
        expected = xplain.attribute(on_cpu, x, name, **settings_of(spec))
    except UsageError as error:  # the network has no attention
        with pytest.raises(UsageError, match=re.escape(str(error))):
            xplain.attribute(on_device, x, name, **settings_of(spec))
        return
    log.clear()
    result = xplain.attribute(on_device, x, name, **settings_of(spec))
    assert_is_exact_and_repeatable(log)
    assert_is_on_device(result.values, result.target, result.expected)
    assert_is_on_device(*result.details.values(), *result.flags.values())
    if not spec.rounding:
        assert_is_close(result.values.cpu(), expected.values)
    assert result.target.tolist() == expected.target.tolist()


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_metric(log, classifiers, name):
    on_device, on_cpu = classifiers
    spec, x = METRICS.get(name), make_images()
    maps = xplain.attribute(on_cpu, x, "saliency").values
    expected = xplain.measure(on_cpu, x, maps, name, method="saliency", **settings_of(spec))
    log.clear()
    score = xplain.measure(on_device, x, maps, name, method="saliency", **settings_of(spec))
    assert_is_exact_and_repeatable(log)
    assert_is_on_device(score.values, score.curve, *score.undefined.values())
    assert_is_close(score.values.cpu(), expected.values)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precision_covers_backward_passes(log, classifiers, precision):
    """Convolutions and matrix products round to TF32 forward and backward, or run in bfloat16."""
    log.clear()
    result = xplain.attribute(classifiers[0], make_images(), "saliency", precision=precision)
    assert_is_on_device(result.values)
    operations = {name for name, _ in log.tf32}
    assert operations == ({"convolution", "convolution_backward", "addmm", "mm"} if precision == "tf32" else set())


@pytest.mark.parametrize(("precision", "rounds"), [("fp32", False), ("tf32", True)])
def test_precision_of_the_oracle_alone(log, classifiers, precision, rounds):
    """Programs may use the oracle without ``attribute``."""
    oracle, y = Oracle(classifiers[0], precision=precision), torch.zeros(2, dtype=torch.long, device="cuda")
    oracle.gradients(make_images().to("cuda"), y)  # prepares the model
    log.clear()
    oracle.gradients(make_images().to("cuda"), y)
    assert ("convolution_backward" in {name for name, _ in log.tf32}) == rounds
    assert bool(log.tf32) == rounds


def test_adaptive_pooling_is_the_only_operation_that_may_differ(log):
    """PyTorch has no deterministic algorithm for its backward pass; torch warns of it on CUDA, and xplain prints a note."""
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(3), torch.nn.Flatten(), torch.nn.Linear(36, 3)]
    network = torch.nn.Sequential(*layers).eval()
    network.size = SIDE
    classifier = xplain.load_classifier(network, "cuda", activation="softmax")
    log.clear()
    xplain.attribute(classifier, make_images(), "saliency")
    assert {name for name, _ in log.nondeterministic} == {"_adaptive_avg_pool2d_backward"}


def test_rounding_repeats_change_the_memory_layout(log, classifiers, monkeypatch):
    """The third run of the method, with one row per call, has the channels first in memory; on the CPU it keeps the layout."""
    layouts: list[torch.memory_format] = []
    forward = Oracle.forward

    def record_layout(self, model, x):
        layouts.append(model.memory_format)
        return forward(self, model, x)

    arithmetic = []
    for classifier in classifiers:
        layouts.clear()
        images = make_images().to(classifier.device)
        monkeypatch.setattr(Oracle, "forward", record_layout)
        result = xplain.attribute(classifier, images, "saliency", target=0, stability="full").stability
        monkeypatch.undo()
        source = result.sources["rounding"]
        assert source.top10.tolist() == [1.0] * len(images)
        arithmetic.append((source.facts["arithmetic"], torch.contiguous_format in layouts))
    assert arithmetic == [
        (["float64", "one row per call, channels first"], True),
        (["float64", "one row per call"], False),
    ]
