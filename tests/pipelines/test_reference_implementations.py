"""Reference implementations compute the same numbers as xplain where the definitions agree."""

from __future__ import annotations

import sys

import pytest
import torch

import xplain
import xplain.pipelines.attribution  # registers the methods and metrics
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS, METRICS
from xplain.pipelines.benchmark_case import Task
from xplain.pipelines.reference_implementations import find_reference
from xplain.pipelines.reference_loops import choose_false_classes

CLASSIFIER = toys.classifier(toys.small_net(activation=torch.nn.ReLU))
IMAGES = toys.images(2, 12, 12)
TARGETS = torch.tensor([1, 3])
MAPS = toys.images(2, 12, 12, seed=5, channels=1)


def make_task(name: str, **params) -> Task:
    registry = METHODS if name in {spec.name for spec in METHODS} else METRICS
    return Task(CLASSIFIER, IMAGES, TARGETS, registry.get(name).resolve(params), MAPS)


def run_reference(name: str, rows: int | None = None, **params):
    return find_reference(name).run(make_task(name, **params), rows).detach()


@pytest.mark.parametrize("name", ["saliency", "input-x-gradient", "guided-backprop", "deconvnet", "deeplift"])
def test_captum_methods_equal_ours(name):
    pytest.importorskip("captum")
    toys.assert_same(run_reference(name), xplain.attribute(CLASSIFIER, IMAGES, name, target=TARGETS).values, 1e-6)


@pytest.mark.parametrize("rows", [None, 3])
def test_captum_integrated_gradients_close_to_ours(rows):
    pytest.importorskip("captum")
    ours = xplain.attribute(CLASSIFIER, IMAGES, "ig", target=TARGETS, steps=20).values
    assert (run_reference("integrated-gradients", rows, steps=20) - ours).abs().max() < 0.02 * ours.abs().max()


def test_captum_smoothgrad_without_noise_equals_saliency():
    pytest.importorskip("captum")
    ours = xplain.attribute(CLASSIFIER, IMAGES, "saliency", target=TARGETS).values
    toys.assert_same(run_reference("smoothgrad", 3, samples=5, noise=0.0), ours, 1e-6)


@pytest.mark.parametrize(
    ("name", "params"), [("integrated-gradients", {"steps": 6}), ("smoothgrad", {"samples": 6}), ("occlusion", {})]
)
def test_captum_calls_have_requested_rows(name, params):
    pytest.importorskip("captum")
    classifier, x = toys.classifier(toys.small_net()), toys.images(2)
    rows = toys.watch(classifier)
    settings = METHODS.get(name).resolve({"window": 4, "stride": 2} if name == "occlusion" else params)
    find_reference(name).run(Task(classifier, x, TARGETS, settings, x[:, :1]), 4)
    assert max(rows) == 4


def test_captum_occlusion_uses_our_windows():
    pytest.importorskip("captum")
    values = run_reference("occlusion", 4, window=4, stride=4)
    ours = xplain.attribute(CLASSIFIER, IMAGES, "occlusion", target=TARGETS, window=4, stride=4).values
    assert (values.sum(dim=1, keepdim=True) - 3 * ours.sum(dim=1, keepdim=True) / ours.shape[1]).abs().max() < 1e-6


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_agi_loop_equals_agi(variant):
    settings = {"variant": variant, "steps": 6, "classes": 3, "step_size": 0.02}
    contrasts = torch.tensor(
        [choose_false_classes(make_task("agi", **settings), target) for target in TARGETS.tolist()]
    )
    assert all(
        len(set(row)) == 3 and target not in row
        for row, target in zip(contrasts.tolist(), TARGETS.tolist(), strict=True)
    )
    ours = xplain.attribute(CLASSIFIER, IMAGES, "agi", target=TARGETS, against=contrasts, **settings).values
    toys.assert_same(run_reference("agi", **settings), ours, 1e-8)
    assert all(parameter.grad is None for parameter in CLASSIFIER.parameters())


@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_mfaba_loop_equals_mfaba(ascent):
    targets = CLASSIFIER(IMAGES).argmax(dim=1)
    settings = {"ascent": ascent, "steps": 12, "step_size": 0.05}
    task = Task(CLASSIFIER, IMAGES, targets, METHODS.get("mfaba").resolve(settings), MAPS)
    ours = xplain.attribute(CLASSIFIER, IMAGES, "mfaba", target=targets, **settings)
    toys.assert_same(find_reference("mfaba").run(task, None), ours.values, 1e-8)


@pytest.mark.parametrize("name", ["insertion", "deletion", "difference"])
@pytest.mark.parametrize("rows", [None, 5])
def test_stepwise_loop_equals_curve_metrics(name, rows):
    ours = xplain.measure(CLASSIFIER, IMAGES, MAPS, name, target=TARGETS, steps=12).values
    assert (run_reference(name, rows, steps=12) - ours).abs().max() < 1e-9


def test_find_reference_without_implementation():
    assert find_reference("lrp") is None


def test_find_reference_without_captum(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UsageError, match=r"requires captum; install it with: pip install 'xplain-vision\[captum\]'"):
        find_reference("saliency")
    assert find_reference("agi") is not None
