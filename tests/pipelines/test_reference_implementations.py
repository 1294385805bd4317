"""Other programs' versions do the work that ours do: the same numbers, where definitions agree."""

from __future__ import annotations

import sys

import pytest
import torch

import xplain
import xplain.pipelines.attribution  # registers the methods and metrics
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS, METRICS
from xplain.pipelines.reference_implementations import Task, find_peer, other_classes

MADE = toys.classifier(toys.small_net(activation=torch.nn.ReLU))
X = toys.images(2, 12, 12)
Y = torch.tensor([1, 3])
MAPS = toys.images(2, 12, 12, seed=5, channels=1)


def task(name: str, **params) -> Task:
    registry = METHODS if name in {spec.name for spec in METHODS} else METRICS
    return Task(MADE, X, Y, registry.get(name).resolve(params), MAPS)


def run(name: str, rows: int | None = None, **params):
    return find_peer(name).run(task(name, **params), rows).detach()


@pytest.mark.parametrize("name", ["saliency", "input-x-gradient", "guided-backprop", "deconvnet", "deeplift"])
def test_captums_version_is_ours(name):
    pytest.importorskip("captum")
    toys.assert_same(run(name), xplain.attribute(MADE, X, name, target=Y).values, 1e-6)


@pytest.mark.parametrize("rows", [None, 3])
def test_captums_integrated_gradients_are_ours_at_any_rows(rows):
    pytest.importorskip("captum")
    ours = xplain.attribute(MADE, X, "ig", target=Y, steps=20).values
    assert (run("integrated-gradients", rows, steps=20) - ours).abs().max() < 0.02 * ours.abs().max()


def test_captums_smoothgrad_without_noise_is_the_gradient():
    pytest.importorskip("captum")
    ours = xplain.attribute(MADE, X, "saliency", target=Y).values
    toys.assert_same(run("smoothgrad", 3, samples=5, noise=0.0), ours, 1e-6)


@pytest.mark.parametrize(
    ("name", "params"), [("integrated-gradients", {"steps": 6}), ("smoothgrad", {"samples": 6}), ("occlusion", {})]
)
def test_captum_takes_the_rows_that_are_asked_for_in_a_call_whatever_the_number_of_images(name, params):
    pytest.importorskip("captum")
    made, x = toys.classifier(toys.small_net()), toys.images(2)
    rows = toys.watch(made)
    settings = METHODS.get(name).resolve({"window": 4, "stride": 2} if name == "occlusion" else params)
    find_peer(name).run(Task(made, x, Y, settings, x[:, :1]), 4)
    assert max(rows) == 4


def test_captums_occlusion_runs_with_our_windows():
    pytest.importorskip("captum")
    found = run("occlusion", 4, window=4, stride=4)
    ours = xplain.attribute(MADE, X, "occlusion", target=Y, window=4, stride=4).values
    assert (found.sum(dim=1, keepdim=True) - 3 * ours.sum(dim=1, keepdim=True) / ours.shape[1]).abs().max() < 1e-6


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_the_agi_loop_computes_agi(variant):
    settings = {"variant": variant, "steps": 6, "classes": 3, "step_size": 0.02}
    contrasts = torch.tensor([other_classes(task("agi", **settings), y) for y in Y.tolist()])
    assert all(len(set(row)) == 3 and y not in row for row, y in zip(contrasts.tolist(), Y.tolist(), strict=True))
    ours = xplain.attribute(MADE, X, "agi", target=Y, against=contrasts, **settings).values
    toys.assert_same(run("agi", **settings), ours, 1e-8)
    assert all(parameter.grad is None for parameter in MADE.parameters())


@pytest.mark.parametrize("ascent", ["sharp", "smooth"])
def test_the_mfaba_loop_computes_mfaba(ascent):
    y = MADE(X).argmax(dim=1)
    settings = {"ascent": ascent, "steps": 12, "step_size": 0.05}
    job = Task(MADE, X, y, METHODS.get("mfaba").resolve(settings), MAPS)
    ours = xplain.attribute(MADE, X, "mfaba", target=y, **settings)
    toys.assert_same(find_peer("mfaba").run(job, None), ours.values, 1e-8)


@pytest.mark.parametrize("name", ["insertion", "deletion", "difference"])
@pytest.mark.parametrize("rows", [None, 5])
def test_the_stepwise_loop_computes_the_curves(name, rows):
    ours = xplain.measure(MADE, X, MAPS, name, target=Y, steps=12).values
    assert (run(name, rows, steps=12) - ours).abs().max() < 1e-9


def test_most_methods_have_no_other_version():
    assert find_peer("lrp") is None


def test_without_captum_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UsageError, match=r"needs captum; pip install 'xplain-vision\[captum\]'"):
        find_peer("saliency")
    assert find_peer("agi") is not None
