"""Tests of DeepLIFT from several baselines, which is DeepSHAP."""

import pytest
import torch
from PIL import Image

import xplain
from tests.helpers import chains, toys
from tests.reference import propagation
from xplain.core.config import Choice
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.attribution import resolve_methods
from xplain.pipelines.method_run import MethodRun

LAYERS = chains.chain(1)
CLASSIFIER = chains.as_classifier(LAYERS)
X = chains.images()
BASELINES = torch.rand(4, *X.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("rule", ["rescale", "reveal-cancel"])
def test_deep_shap_equals_reference(rule):
    literal = {"rescale": propagation.rescale, "reveal-cancel": propagation.reveal_cancel}[rule]
    attribution = xplain.attribute(CLASSIFIER, X, "deep-shap", target=1, rule=rule, baselines=BASELINES)
    for i, image in enumerate(X):
        expected = sum(literal(LAYERS, image.flatten().numpy(), base.flatten().numpy(), 1) for base in BASELINES) / 4
        toys.assert_same(attribution.values[i].flatten(), torch.from_numpy(expected))


@pytest.mark.parametrize("center", [False, True])
def test_deep_shap_sums_to_mean_difference(center):
    """Σ φ = f(x) - mean f(r)."""
    attribution = xplain.attribute(CLASSIFIER, X, "deep-shap", target=1, baselines=BASELINES, center=center)

    def score(images: torch.Tensor) -> torch.Tensor:
        logits = CLASSIFIER(images)
        return (logits[:, 1] - logits.mean(dim=1) * center).detach()

    toys.assert_same(attribution.total, score(X) - score(BASELINES).mean())
    assert float(attribution.gap.abs().max()) < 1e-12


def test_deep_shap_linear_model_closed_form():
    """φ = w ⊙ (x - mean r)."""
    weight = torch.randn(2, *X.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = xplain.attribute(
        toys.classifier(toys.Linear(weight)), X, "deep-shap", target=1, baselines=BASELINES
    ).values
    toys.assert_same(values, weight[1] * (X - BASELINES.mean(dim=0)), rtol=1e-10)


def test_deep_shap_of_one_baseline_is_deeplift():
    black = torch.zeros_like(X[:1])
    values = xplain.attribute(CLASSIFIER, X, "deep-shap", target=2, baselines=black).values
    assert torch.equal(values, xplain.attribute(CLASSIFIER, X, "deeplift", target=2).values)


def test_deep_shap_equals_captum():
    captum = pytest.importorskip("captum.attr")
    net = toys.small_net(3)
    net.pool = torch.nn.AvgPool2d(2)
    x, baselines = toys.images(2), toys.images(5, seed=9)
    ours = xplain.attribute(toys.classifier(net), x, "deep-shap", target=1, baselines=baselines).values
    theirs = captum.DeepLiftShap(net).attribute(x, baselines, target=1)
    toys.assert_same(ours, theirs.detach(), rtol=1e-8)


def test_deep_shap_cost():
    cost = xplain.attribute(CLASSIFIER, X, "deep-shap", target=1, baselines=BASELINES).cost
    assert (cost.forwards, cost.backwards) == (len(X) * 8, len(X) * 8)


def test_deep_shap_counts_images_of_directory(tmp_path):
    for k in range(3):
        Image.new("RGB", (12, 10), (80 * k, 50, 100)).save(tmp_path / f"{k}.png")
    spec, preprocessing = METHODS.get("deep-shap"), Preprocessing.for_size(8)
    run = MethodRun.resolve(spec, {"baselines": str(tmp_path)}, preprocessing)
    assert run.rows_per_image == 3 * 2
    assert MethodRun.resolve(spec, {}, preprocessing).rows_per_image == 2
    assert run.references.shape == (3, 3, 8, 8)
    assert len(run.hash_references()["references"]) == 64


def test_deep_shap_rejects_wrong_baselines():
    with pytest.raises(InputError, match="baselines of shape"):
        xplain.attribute(CLASSIFIER, X, "deep-shap", baselines=BASELINES[..., :-1])
    with pytest.raises(InputError, match="there are no baselines"):
        xplain.attribute(CLASSIFIER, X, "deep-shap", baselines=BASELINES[:0])
    with pytest.raises(UsageError, match="invalid value baselines=noise; use a directory of images or none"):
        xplain.attribute(CLASSIFIER, X, "deep-shap", baselines="noise")
    with pytest.raises(UsageError, match="baseline=white cannot be used with baselines; remove one of them"):
        xplain.attribute(CLASSIFIER, X, "deep-shap", baselines=BASELINES, baseline="white")


def test_shap_names_are_those_of_their_methods():
    runs = resolve_methods([Choice("deep-shap"), Choice("gradient-shap")], None, CLASSIFIER)
    assert [run.label for run in runs] == ["deeplift", "expected-gradients"]
    assert [run.describe()["params"] for run in runs] == [
        {"rule": "rescale", "baseline": "black", "center": False},
        {"samples": 200, "baselines": "noise"},
    ]
