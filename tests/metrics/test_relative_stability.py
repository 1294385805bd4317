"""RIS and ROS against literal code on the same draws, in closed form, and for controls."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import value, with_output
from tests.reference import relative_stability as reference
from xplain.core.registry import METRICS
from xplain.core.rng import Streams
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle

X = toys.images(3)
Y = [0, 1, 2]
MODEL, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
WEIGHT = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
LINEAR = toys.classifier(toys.Linear(torch.stack([WEIGHT, -WEIGHT])))
METRICS_OF = {"input": "ris", "output": "ros"}


def measure(name: str, method="saliency", model=MODEL, images: Tensor = X, target=Y, maps=None, **options):
    if maps is None and callable(method):
        maps = method(model, images, None)
    elif maps is None:
        maps = xplain.attribute(model, images, method, target=target).values
    return xplain.measure(model, images, maps, name, method=method, target=target, **options)


def draw(samples: int, radius: float = 0.02, images: Tensor = X) -> Tensor:
    """Return the perturbed images (B, samples, 3, 8, 10)."""
    uniform = Streams.of(images, 0, "relative-stability").uniform(torch.arange(samples), (3, 8, 10), torch.float64)
    return (images[:, None] + (2 * uniform - 1) * radius).clamp(0, 1)


def weighted(classifier, images: Tensor, target: Tensor) -> Tensor:
    """Return w x, the exact attributions of the linear model."""
    return WEIGHT * images


def curved(classifier, images: Tensor, target: Tensor) -> Tensor:
    return WEIGHT * images**2


@pytest.mark.parametrize("over", ["max", "median"])
@pytest.mark.parametrize("scale", ["norm", "elementwise"])
@pytest.mark.parametrize("of", ["input", "output"])
def test_values_match_reference(of, scale, over):
    """At a radius at which some draws change the prediction."""
    radius, samples = 0.3, 8
    weight = torch.randn(5, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 0.1
    model, read_logits = toys.with_pixels(toys.Linear(weight))
    options = {"radius": radius, "samples": samples, "scale": scale, "over": over}
    score = measure(METRICS_OF[of], curved, model, **options)
    dropped = 0
    for i, moved in enumerate(draw(samples, radius)):
        ratios = []
        for k in range(samples):
            logits = tuple(read_logits(image[None])[0].detach() for image in (X[i], moved[k]))
            if int(logits[0].argmax()) == int(logits[1].argmax()):
                maps = (curved(model, X[i], None), curved(model, moved[k], None))
                ratios.append(reference.ratio((X[i], moved[k]), maps, (logits[0], logits[1]), of, scale))
        dropped += samples - len(ratios)
        if len(ratios) < 2:
            assert score.values[i].isnan()
            continue
        expected = max(ratios) if over == "max" else statistics.median(ratios)
        assert float(score.values[i]) == pytest.approx(expected, rel=1e-9)
    assert dropped > 0
    assert score.values.isfinite().sum() >= 2
    assert score.cost.forwards == 3 * (samples + 1)


def test_exact_attributions_of_a_linear_model():
    """φ = w x changes as x does, value by value: RIS is 1; ROS is ‖δ / x‖ / (√2 |w · δ|) for the logits (z, -z)."""
    options = {"model": LINEAR, "target": 0, "scale": "elementwise"}
    for radius in (0.001, 0.02):
        assert measure("ris", weighted, radius=radius, **options).values.tolist() == pytest.approx([1] * 3, abs=1e-9)
    shift = draw(10) - X[:, None]
    slope = (shift * WEIGHT).sum(dim=(2, 3, 4)).abs() * 2**0.5
    expected = ((shift / X[:, None]).flatten(2).norm(dim=2) / slope).amax(dim=1)
    toys.assert_same(measure("ros", weighted, **options).values, expected)


def test_relative_condition_number():
    """Maps c x have the condition number 1, x² in the limit of small changes 2 ‖x δ‖ ‖x‖ / (‖δ‖ ‖x²‖), and a constant map 0."""
    options = {"model": LINEAR, "target": 0}
    toys.assert_same(measure("ris", lambda c, x, y: -7 * x, **options).values, torch.ones(3, dtype=torch.float64))
    square = measure("ris", lambda c, x, y: x.square(), radius=1e-6, **options).values
    shift, weights = draw(10, 1e-6) - X[:, None], X[:, None]
    expected = 2 * (shift * weights).flatten(2).norm(dim=2) / shift.flatten(2).norm(dim=2)
    expected = expected * X.flatten(1).norm(dim=1)[:, None] / X.square().flatten(1).norm(dim=1)[:, None]
    torch.testing.assert_close(square, expected.amax(dim=1), rtol=1e-5, atol=0)
    for name in ("ris", "ros"):
        assert measure(name, "saliency", **options).values.tolist() == [0, 0, 0]
        plain, scaled = (measure(name, lambda c, x, y, s=s: s * x**2, **options).values for s in (1, -5))
        toys.assert_same(plain, scaled)


@pytest.mark.parametrize("name", ["ris", "ros"])
def test_controls(name):
    """Maps that ignore the image do not change; ``random`` keeps its draws; edges change with the noise."""
    for method in ("random", "center"):
        assert measure(name, method).values.tolist() == [0, 0, 0]
    assert measure(name, "sobel").values.min() > 0.1


def test_more_draws_never_lower_the_maximum():
    values = torch.stack([measure("ris", samples=samples).values for samples in (2, 5, 20)])
    assert (values[1:] >= values[:-1]).all()
    assert (values[2] > values[0]).any()


def test_metrics_share_their_draws():
    oracle = Oracle(MODEL, score="prob")
    maps = xplain.attribute(MODEL, X, "saliency", target=Y).values
    inputs = MetricInput(oracle, X, maps, torch.tensor(Y))
    calls = []

    def explain(images, y, classifier=None, image=None):
        calls.append(len(images))
        return xplain.attribute(MODEL, images, "saliency", target=y.tolist()).values

    for name in ("ris", "ros"):
        values = METRICS.get(name).function(inputs, rng=Streams.of(X, 0, "relative-stability"), explain=explain).values
        toys.assert_same(values, measure(name).values)
    assert calls == [30]
    assert oracle.cost.forwards == 33


def test_zero_map_and_black_image_are_undefined():
    images = X.clone()
    images[1] = 0
    maps = torch.ones(3, 3, 8, 10, dtype=torch.float64)
    maps[2] = 0
    for name, expected in (("ris", [False, True, True]), ("ros", [False, False, True])):
        score = measure(name, "saliency", LINEAR, images, 0, maps)
        assert score.values.isnan().tolist() == expected
        assert score.undefined["the attribution is zero"].tolist() == [False, False, True]
    assert measure("ris", "saliency", LINEAR, images, 0, maps).undefined["the image is black"].tolist() == [
        False, True, False,
    ]  # fmt: skip


def test_predictions_that_change_are_left_out():
    """The logits of class 0 and 1 are the first pixel minus 1/2 and its negative, at the boundary to one side."""
    edge = toys.classifier(toys.Function(lambda x: torch.stack([x[:, 0, 0, 0] - 0.5, 0.5 - x[:, 0, 0, 0]], dim=1)))
    images = torch.full((2, 3, 8, 10), 0.5, dtype=torch.float64)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.519, 0.5 + 1e-9
    images[1, 0, 0, 1] = 0.6
    moved = draw(10, images=images)
    kept = (moved[:, :, 0, 0, 0] >= 0.5) == (images[:, None, 0, 0, 0] >= 0.5)
    assert kept[0].sum() >= 2
    assert 2 <= kept[1].sum() < 10
    score = measure("ros", lambda c, x, y: x**2, edge, images, 0, scale="elementwise")
    change = ((moved**2 - images[:, None] ** 2) / images[:, None] ** 2).flatten(2).norm(dim=2)
    ratios = change / ((moved - images[:, None])[:, :, 0, 0, 0].abs() * 2**0.5).clamp(min=1e-6)
    toys.assert_same(score.values, ratios.masked_fill(~kept, 0).amax(dim=1))


def test_undefined_without_draws():
    always = toys.classifier(toys.Function(lambda x: torch.stack([1e-9 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 1e-9], dim=1)))
    images = X.clone()
    images[:, 0, 0, 0] = 0  # class 0, and class 1 after nearly every positive shift
    kept = (draw(2, 0.5, images)[:, :, 0, 0, 0] <= 1e-9).sum(dim=1)
    score = measure("ris", lambda c, x, y: x, always, images, 0, samples=2, radius=0.5)
    reason = "fewer than two perturbed images keep the prediction"
    assert score.undefined[reason].tolist() == (kept < 2).tolist()
    assert score.values.isnan().tolist() == (kept < 2).tolist()
    assert (kept < 2).any()
    constant = toys.classifier(toys.Function(lambda x: torch.stack([x[:, 0, 0, 0] * 0 + 1, x[:, 0, 0, 0] * 0], dim=1)))
    score = measure("ros", lambda c, x, y: x, constant, target=0)
    assert score.values.isnan().all()
    assert score.undefined["the logits do not change"].tolist() == [True] * 3
    assert not score.undefined[reason].any()


def test_values_keep_every_draw():
    """A model of values decides nothing; with a threshold it does, on the target."""
    plain = with_output(value(WEIGHT, 0.0), "none", 1)
    shift = draw(10) - X[:, None]
    change = (shift * WEIGHT).sum(dim=(2, 3, 4)).abs()
    expected = (shift / X[:, None]).flatten(2).norm(dim=2) / change
    score = measure("ros", weighted, plain, target=0, scale="elementwise")
    toys.assert_same(score.values, expected.amax(dim=1))
    level = float((X[0] * WEIGHT).sum())
    bound = with_output(value(WEIGHT, 0.0), "none", 1, threshold=level)
    score = measure("ros", weighted, bound, target=0, scale="elementwise")
    kept = (draw(10)[0] * WEIGHT).sum(dim=(1, 2, 3)) >= level
    assert 2 <= kept.sum() < 10
    assert float(score.values[0]) == pytest.approx(float(expected[0][kept].max()), rel=1e-9)


def test_values_match_quantus():
    """With our draws, all of which keep the prediction, because its own noise is never negative. It runs the model in float32."""
    quantus = pytest.importorskip("quantus")
    moved = draw(4).transpose(0, 1)
    classes = LINEAR(X).argmax(dim=1)
    assert all(torch.equal(LINEAR(images).argmax(dim=1), classes) for images in moved)
    arguments = {
        "model": toys.Linear(torch.stack([WEIGHT, -WEIGHT]).float()).eval(),
        "x_batch": X.numpy(),
        "y_batch": classes.numpy(),
        "a_batch": curved(LINEAR, X, classes).numpy(),
        "explain_func": lambda model, inputs, targets, **_: curved(
            LINEAR, torch.as_tensor(inputs).double(), None
        ).numpy(),
    }
    for name, metric in (("ris", quantus.RelativeInputStability), ("ros", quantus.RelativeOutputStability)):
        draws = iter(moved.numpy())
        expected = metric(
            nr_samples=4,
            perturb_func=lambda arr, indices, draws=draws, **_: next(draws).reshape(arr.shape),
            normalise=False,
            disable_warnings=True,
        )(**arguments)
        score = measure(name, curved, LINEAR, target=classes.tolist(), scale="elementwise", samples=4)
        assert score.values.tolist() == pytest.approx(list(expected), rel=2e-3)
