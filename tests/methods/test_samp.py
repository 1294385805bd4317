"""Tests of SAMP: against its definition and closed forms."""

import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.samp import walk
from xplain.core.registry import METHODS
from xplain.data.filters import rise_blur

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]
GREY = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand(3, 8, 10)
LINEAR = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("steps", "fragments", "momentum", "score"),
    [
        (8, 3, 1.0, "logit"),
        (80, 1, 1.0, "logit"),
        (4, 10, 0.7, "logit"),
        (1, 5, 1.0, "logit"),
        (9, 7, 0.3, "logit"),
        (8, 3, 1.0, "prob"),
    ],
)
def test_samp_equals_reference(steps, fragments, momentum, score):
    settings = {"steps": steps, "fragments": fragments, "momentum": momentum, "score": score}
    attribution = xplain.attribute(CLASSIFIER, X, "samp", target=TARGETS, **settings)
    for i, target in enumerate(TARGETS):
        f, size = gradients.SCORES[score](NETWORK, target), -(-80 // steps)
        deletion, deletion_steps = walk(f, X[i], GREY, size, fragments, momentum, -1)
        insertion, insertion_steps = walk(f, rise_blur(X)[i], X[i], size, fragments, momentum, 1)
        toys.assert_same(attribution.values[i, 0], deletion + insertion, rtol=1e-7)
        assert attribution.details["path_steps"][i].tolist() == [deletion_steps, insertion_steps]


@pytest.mark.parametrize(("steps", "fragments", "momentum"), [(8, 3, 1.0), (80, 1, 0.4), (3, 12, 1.0)])
@pytest.mark.parametrize(("paths", "base"), [("deletion", GREY), ("insertion", rise_blur(X))])
def test_samp_linear_model_closed_form(paths, base, steps, fragments, momentum):
    """Each path gives Σ_c w (x - x'), whatever the settings."""
    settings = {"paths": paths, "steps": steps, "fragments": fragments, "momentum": momentum}
    model = toys.classifier(toys.Linear(LINEAR), mean=toys.MEAN, std=(1.0, 1.0, 1.0))
    values = xplain.attribute(model, X, "samp", target=1, **settings).values
    toys.assert_same(values, (LINEAR[1] * (X - base)).sum(dim=1, keepdim=True), rtol=1e-9)


def test_samp_adds_both_paths():
    parts = {
        paths: xplain.attribute(CLASSIFIER, X, "samp", target=TARGETS, steps=5, paths=paths).values
        for paths in ("both", "deletion", "insertion")
    }
    toys.assert_same(parts["both"], parts["deletion"] + parts["insertion"])


def test_samp_normalizes_each_path():
    settings = {"target": TARGETS, "steps": 5}
    expected = torch.zeros(3, 1, 8, 10, dtype=torch.float64)
    for paths in ("deletion", "insertion"):
        values = xplain.attribute(CLASSIFIER, X, "samp", paths=paths, **settings).values
        low, high = values.amin(dim=(1, 2, 3), keepdim=True), values.amax(dim=(1, 2, 3), keepdim=True)
        expected += (values - low) / (high - low)
    toys.assert_same(xplain.attribute(CLASSIFIER, X, "samp", reduction="norm", **settings).values, expected)


def test_samp_single_step_is_left_rule():
    """One step over all pixels: insertion is IG with the gradient at the baseline."""
    settings = {"steps": 1, "fragments": 1, "paths": "insertion", "insertion_baseline": "blur"}
    values = xplain.attribute(CLASSIFIER, X, "samp", target=TARGETS, **settings).values
    expected = xplain.attribute(CLASSIFIER, X, "ig", target=TARGETS, steps=1, rule="left", baseline="blur").values
    toys.assert_same(values, expected.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("paths", ["deletion", "insertion"])
def test_samp_sum_approaches_difference(paths):
    model = toys.Function(lambda x: torch.stack([(x**3).sum((1, 2, 3)) + (x[:, 0] * x[:, 1]).sum((1, 2))] * 2, dim=1))
    x = toys.images(1, 2, 2)
    base = torch.zeros_like(x) if paths == "deletion" else rise_blur(x)
    exact = model(x)[:, 0] - model(base)[:, 0]
    errors = []
    for fragments in (20, 160):
        settings = {"paths": paths, "steps": 4, "fragments": fragments, "deletion_baseline": "black"}
        total = xplain.attribute(toys.classifier(model), x, "samp", target=0, **settings).total
        errors.append(float(((total - exact) / exact).abs().max()))
    assert errors[0] > 6 * errors[1]
    assert errors[1] < 0.05


def test_samp_scales_with_score():
    """Of a score of 1e-12 times the size, the path is the same."""
    net = toys.small_net(1)
    small = toys.small_net(1)
    small.head.weight.data *= 1e-12
    small.head.bias.data *= 1e-12
    values = xplain.attribute(toys.with_pixels(net)[0], X, "samp", target=TARGETS, steps=20).values
    scaled = xplain.attribute(toys.with_pixels(small)[0], X, "samp", target=TARGETS, steps=20)
    toys.assert_same(scaled.values * 1e12, values, rtol=1e-7)
    assert int(scaled.details["path_steps"].min()) >= 20


def test_samp_deletes_lowest_gains_first():
    """f = a (1 - b) from (1, 1): deleting b raises the score, so a is deleted first, where the gradient of b is -1."""
    model = toys.Function(lambda x: torch.stack([x[:, 0, 0, 0] * (1 - x[:, 0, 0, 1])] * 2, dim=1))
    x = torch.ones(1, 3, 1, 2, dtype=torch.float64)
    settings = {"paths": "deletion", "deletion_baseline": "black", "steps": 2, "fragments": 1}
    values = xplain.attribute(toys.classifier(model), x, "samp", target=0, **settings).values
    assert values.flatten().tolist() == [
        0.0,
        0.0,
    ]  # a: gradient 1 - b = 0 at the image; b: gradient -a = 0 after a is gone


def test_samp_of_its_baseline_is_zero_without_passes():
    x = torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    attribution = xplain.attribute(CLASSIFIER, x, "samp", target=2, paths="deletion", deletion_baseline="black")
    assert float(attribution.values.abs().max()) == 0.0
    assert (attribution.cost.forwards, attribution.cost.backwards) == (0, 0)


def test_samp_cost_is_within_claim():
    spec = METHODS.get("samp")
    assert spec.cost(**spec.resolve({})) == (488, 488)
    cost = xplain.attribute(CLASSIFIER, X, "samp", target=TARGETS, steps=80, fragments=60).cost
    assert 3 * 2 * 80 <= cost.forwards <= 3 * 2 * 140
