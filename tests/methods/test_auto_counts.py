"""Tests of steps=auto and samples=auto: when an image stops, and that it gets what a fixed number gives."""

import math
from itertools import pairwise

import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.methods._nested_steps import nested_rounds
from xplain.methods._quadrature import quadrature
from xplain.methods._rounds import sample_rounds
from xplain.methods._segmentation import find_superpixels
from xplain.methods.expected_gradients import draw_nested
from xplain.pipelines.records import describe_cost

CLASSIFIER, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(3)
TARGETS = [2, 0, 3]


def explain(method: str, images: torch.Tensor = X, **options) -> xplain.Attribution:
    return xplain.attribute(CLASSIFIER, images, method, **{"target": TARGETS} | options)


@pytest.mark.parametrize(
    ("auto", "fixed", "count"),
    [
        ("ig:steps=auto", "ig:rule=chebyshev", "steps"),
        ("ig:steps=auto,rule=chebyshev,baseline=uniform,tolerance=0.03", "ig:rule=chebyshev,baseline=uniform", "steps"),
        ("sg:samples=auto,tolerance=0.12", "sg", "samples"),
        ("sg:samples=auto,kind=square,tolerance=0.1", "sg:kind=square", "samples"),
        ("sg:samples=auto,kind=absolute,tolerance=0.05", "sg:kind=absolute", "samples"),
        ("eg:samples=auto,tolerance=0.3", "eg:alpha=nested", "samples"),
        ("rise:samples=auto,grid=2,keep=0.3,tolerance=0.8", "rise:grid=2,keep=0.3", "samples"),
        ("kernel-shap:samples=auto,segments=20,tolerance=0.1", "kernel-shap:segments=20", "samples"),
    ],
)
def test_auto_equals_fixed_number(auto, fixed, count, monkeypatch):
    """Also where the images of a batch stop at different numbers."""
    monkeypatch.setattr("xplain.pipelines.method_run.MethodRun.images_per_call", lambda *_: len(X))
    attribution = explain(auto, batch_size=16)
    counts = attribution.details[count].tolist()
    assert len(set(counts)) > 1
    assert attribution.details["tolerance_reached"].all()
    for i, number in enumerate(counts):
        single = explain(fixed, X[i : i + 1], target=TARGETS[i], **{count: number})
        toys.assert_same(attribution.values[i], single.values[0], rtol=1e-11)
        extra = 2 if "kernel-shap" in auto else 0  # the image and the baseline
        assert attribution.details["forwards"][i] == number + extra


@pytest.mark.parametrize(
    "method",
    [
        "ig:steps=auto",
        "sg:samples=auto,tolerance=0.12",
        "eg:samples=auto,tolerance=0.3",
        "rise:samples=auto,grid=2,tolerance=0.8",
        "kernel-shap:samples=auto,segments=20,tolerance=0.1",
    ],
)
def test_auto_in_float32_equals_float64(method):
    classifier, _ = toys.with_pixels(toys.small_net(1, scale=15.0).float())
    single = xplain.attribute(classifier, X.float(), method, target=TARGETS)
    exact = explain(method)
    assert single.values.dtype == torch.float32
    assert single.cost.forwards == exact.cost.forwards
    assert float((single.values - exact.values).norm() / exact.values.norm()) < 1e-4


def test_steps_stop_at_gap():
    """At the first number of nodes with a gap within the tolerance, after one within three times the tolerance."""
    attribution = explain("ig:steps=auto,tolerance=0.002")
    rounds = [7, 15, 31, 63, 127, 255, 511]
    gaps = []
    for steps in rounds:
        fixed = explain(f"ig:rule=chebyshev,steps={steps}")
        gaps.append((fixed.gap / fixed.expected).abs())
    expected, shares = [], []
    for image in range(3):
        values = [float(gap[image]) for gap in gaps]
        stop = next(k for k in range(1, 7) if values[k] <= 0.002 and values[k - 1] <= 0.006)
        expected.append(rounds[stop])
        shares.append(values[stop])
    assert attribution.details["steps"].tolist() == expected
    assert attribution.details["gap_share"].tolist() == pytest.approx(shares, rel=1e-9)
    assert attribution.cost.forwards == attribution.cost.backwards == sum(expected)


def test_nodes_are_nested():
    for steps in (7, 15, 31):
        nodes, _ = quadrature("chebyshev", steps, X)
        finer, _ = quadrature("chebyshev", 2 * steps + 1, X)
        toys.assert_same(finer[1::2], nodes, rtol=1e-12)
    nodes, weights = quadrature("chebyshev", 3, X)
    assert nodes.tolist() == pytest.approx([(1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2], rel=1e-12)
    assert (weights * (1 + math.sqrt(2))).tolist() == pytest.approx([math.sqrt(0.5), 1, math.sqrt(0.5)], rel=1e-12)


def test_rounds():
    assert nested_rounds(511) == [7, 15, 31, 63, 127, 255, 511]
    assert nested_rounds(510)[-1] == 255
    assert [nested_rounds(limit) for limit in (1, 2, 3, 6, 7)] == [[1], [1], [3], [3], [7]]
    assert sample_rounds(100) == [32, 48, 64, 80, 96, 100]
    assert sample_rounds(20) == [20]
    assert sample_rounds(10_000)[-3:] == [8288, 9312, 10_000]


def test_linear_model_needs_two_rounds():
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    attribution = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "ig", target=1, steps="auto")
    toys.assert_same(attribution.values, weight[1] * X, rtol=1e-12)
    assert attribution.details["steps"].tolist() == [15, 15, 15]


@pytest.mark.parametrize(
    ("method", "count", "limit"),
    [
        ("ig:steps=auto,tolerance=1e-9,max_steps=40", "steps", 31),
        ("sg:samples=auto,tolerance=1e-3,max_samples=40", "samples", 40),
        ("eg:samples=auto,tolerance=1e-3,max_samples=40", "samples", 40),
        ("rise:masks=auto,tolerance=1e-3,max_samples=40", "samples", 40),
        ("kernel-shap:samples=auto,segments=20,tolerance=1e-3,max_samples=40", "samples", 40),
        ("big:steps=auto,tolerance=1e-9,max_steps=20,attack_steps=2", "steps", 15),
    ],
)
def test_maximum_is_flagged(method, count, limit):
    attribution = explain(method)
    tolerance = method.partition("tolerance=")[2].partition(",")[0]
    [flag] = [mask for text, mask in attribution.flags.items() if "tolerance" in text]
    [text] = [text for text in attribution.flags if "tolerance" in text]
    assert text == f"the tolerance {float(tolerance):g} was not reached with {limit} {count}"
    assert flag.tolist() == [True] * 3
    assert attribution.details[count].tolist() == [limit] * 3
    cost = describe_cost(attribution, 0)
    assert (cost[count], cost["tolerance_reached"]) == (limit, False)


def sample_maps(method: str, count: int) -> torch.Tensor:
    """Return the maps (n, C, H, W) of the samples of the first image: differences of sums of consecutive numbers of samples."""
    name = "masks" if "rise" in method else "samples"
    sums = [explain(method, X[:1], target=2, **{name: n}).values[0] * n for n in range(1, count + 1)]
    return torch.stack([sums[0], *(after - before for before, after in pairwise(sums))])


@pytest.mark.parametrize("method", ["sg", "sg:kind=square", "eg:alpha=nested", "rise"])
def test_standard_error_equals_definition(method):
    count = 6
    maps = sample_maps(method, count)
    if method == "rise":
        maps = maps - maps.mean(dim=(1, 2, 3), keepdim=True)
    expected = (maps.var(dim=0) / count).sum().sqrt() / maps.mean(dim=0).norm()
    options = {"samples": "auto", "max_samples": count, "tolerance": 1e-6}
    if method.startswith("eg"):
        method = "eg"
    attribution = explain(method, X[:1], target=2, **options)
    assert float(attribution.details["standard_error"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("method", "options"), [("sg", {}), ("rise", {"grid": 2}), ("kernel-shap", {"segments": 20})])
def test_standard_error_predicts_spread_over_seeds(method, options):
    """Within a quarter, over 40 seeds of 100 samples."""
    options = options | {"samples": "auto", "max_samples": 100, "tolerance": 1e-6, "target": TARGETS[1]}
    runs = [explain(method, X[1:2], seed=seed, **options) for seed in range(40)]
    maps = torch.stack([run.values[0] for run in runs])
    if method == "rise":
        maps = maps - maps.mean(dim=(1, 2, 3), keepdim=True)
    if method == "kernel-shap":
        segments = find_superpixels(X[1:2], 20)[0]
        maps = torch.stack([maps[:, 0, segments == k].sum(dim=1) for k in range(int(segments.max()) + 1)], dim=1)
    spread = maps.var(dim=0).sum().sqrt()
    errors = torch.stack([run.details["standard_error"][0] * maps[k].norm() for k, run in enumerate(runs)])
    assert float(errors.square().mean().sqrt() / spread) == pytest.approx(1, abs=0.25)


def test_nested_numbers_are_stratified():
    """Every 2^m first ones lie in 2^m intervals; they do not depend on how many are drawn, and differ between images."""
    rng = Streams.of(X, 0, "expected-gradients")
    numbers = draw_nested(rng, torch.arange(256), torch.float64)[:, :, 0, 0, 0]
    for count in (1, 2, 16, 256):
        strata = (numbers[:, :count] * count).floor().long().sort(dim=1).values
        assert torch.equal(strata, torch.arange(count).expand(3, -1))
    assert torch.equal(draw_nested(rng, torch.arange(100, 120), torch.float64)[:, :, 0, 0, 0], numbers[:, 100:120])
    assert len(numbers.unique()) == 3 * 256
    assert numbers.mean(dim=1).tolist() == pytest.approx([0.5] * 3, abs=1e-3)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "ig:tolerance=0.1",
            "integrated-gradients: tolerance=0.1 requires steps=auto; add steps=auto or remove tolerance",
        ),
        ("rise:tolerance=0.1", "rise: tolerance=0.1 requires masks=auto; add masks=auto or remove tolerance"),
        ("sg:tolerance=2", "smoothgrad: tolerance=2 requires samples=auto; add samples=auto or remove tolerance"),
        ("ig:steps=auto,rule=left", "steps=auto is not defined for rule=left; use rule=chebyshev or remove rule"),
        (
            "ig:steps=auto,direction=idgi",
            "steps=auto is not defined for direction=idgi, whose gap says nothing; set a number of steps",
        ),
        ("big:steps=auto,variant=official", "steps=auto is not defined for variant=official; set a number of steps"),
        ("sg:samples=auto,kind=variance", "samples=auto is not defined for kind=variance; set a number of samples"),
        ("ig:steps=automatic", "integrated-gradients: invalid value steps=automatic; use an integer >= 1 or auto"),
        ("saliency:steps=auto", "saliency has no parameter 'steps'; use absolute"),
    ],
)
def test_undefined_combinations_are_refused(method, message):
    with pytest.raises(UsageError) as caught:
        explain(method)
    assert str(caught.value) == message


def test_boundary_ig_converges_to_tolerance():
    attribution = explain("big:steps=auto,tolerance=0.001,attack_steps=20,attack_step_size=0.01")
    assert attribution.details["tolerance_reached"].all()
    assert float((attribution.gap / attribution.expected).abs().max()) <= 0.001
    fixed = explain("big:steps=511,attack_steps=20,attack_step_size=0.01")
    toys.assert_same(attribution.expected, fixed.expected)
    assert float((attribution.values - fixed.values).norm() / fixed.values.norm()) < 0.01
