"""Average drop and gain and increase in confidence: literal code, closed forms and the package grad-cam."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.output_kinds import linear, value, with_output
from xplain.core.errors import UsageError
from xplain.core.registry import METRICS
from xplain.metrics.inputs import MetricInput
from xplain.oracle import Oracle

X = toys.images(6)
MAPS = toys.images(6, seed=9) - 0.5
NET = toys.small_net(1, scale=15.0)
MODEL, LOGITS = toys.with_pixels(NET)
TARGETS = [0, 1, 2, 3, 4, 0]
NAMES = ("average-drop", "average-gain", "increase-in-confidence")


def measure(name: str, model=MODEL, images: Tensor = X, maps: Tensor = MAPS, target=TARGETS, **options) -> xplain.Score:
    return xplain.measure(model, images, maps, name, target=target, **options)


def literal_scores(image: Tensor, attribution: Tensor, target: int, sign: str) -> tuple[float, float, float]:
    """Return drop, gain and increase of one image, with the mean color as baseline."""
    sums = [sum(attribution[:, y, x].tolist()) for y in range(8) for x in range(10)]
    if sign == "positive":
        sums = [max(0.0, total) for total in sums]
    mask = torch.tensor([(total - min(sums)) / (max(sums) - min(sums)) for total in sums], dtype=torch.float64)
    masked = toys.normalise(image) * mask.reshape(8, 10)
    original, changed = (
        float(NET(normalized[None])[0].detach().softmax(0)[target]) for normalized in (toys.normalise(image), masked)
    )
    return (
        max(0.0, original - changed) / original,
        max(0.0, changed - original) / (1 - original),
        float(changed > original),
    )


@pytest.mark.parametrize("sign", ["signed", "positive"])
def test_values_match_literal_code(sign):
    expected = torch.tensor([literal_scores(X[i], MAPS[i], TARGETS[i], sign) for i in range(6)], dtype=torch.float64)
    assert 0 < expected[:, 2].sum() < 6
    for column, name in enumerate(NAMES):
        score = measure(name, sign=sign)
        toys.assert_same(score.values, expected[:, column])
        assert (score.cost.forwards, score.curve) == (12, None)


def test_metrics_of_one_map_share_their_rows():
    oracle = Oracle(MODEL, score="prob")
    inputs = MetricInput(oracle, X, MAPS, torch.tensor(TARGETS))
    for name in NAMES:
        score = METRICS.get(name).function(inputs)
        assert torch.equal(score.values, measure(name).values)
    assert oracle.cost.forwards == 12


def test_values_match_grad_cam_package():
    """Its drop is not divided by the score of the image; it multiplies the normalized image, whose zero is the mean color."""
    package = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    sums = MAPS.sum(dim=1).flatten(1)
    low, high = sums.amin(dim=1, keepdim=True), sums.amax(dim=1, keepdim=True)
    arguments = (
        toys.normalise(X),
        ((sums - low) / (high - low)).reshape(6, 8, 10).numpy(),
        [ClassifierOutputSoftmaxTarget(target) for target in TARGETS],
        NET,
    )
    original = LOGITS(X).detach().softmax(dim=1)[torch.arange(6), TARGETS]
    drop = torch.as_tensor(package.DropInConfidence()(*arguments)).double() / original
    torch.testing.assert_close(measure("average-drop").values, drop, rtol=1e-5, atol=1e-6)
    increase = torch.as_tensor(package.IncreaseInConfidence()(*arguments)).double()
    assert torch.equal(measure("increase-in-confidence").values, increase)


def test_linear_model():
    """The value w · x falls to w · (m x), with black as the baseline; one dark pixel costs its share of the value."""
    weight = torch.ones(3, 8, 10, dtype=torch.float64)
    model = with_output(value(weight), "none", 1)
    images = torch.full((1, 3, 8, 10), 0.5, dtype=torch.float64)
    ramp = torch.arange(80, dtype=torch.float64).reshape(1, 1, 8, 10)
    options = {"images": images, "target": 0, "baseline": "black"}
    assert float(measure("average-drop", model, maps=ramp, **options).values) == pytest.approx(0.5, abs=1e-12)
    assert float(measure("average-drop", model, maps=ramp**2, **options).values) == pytest.approx(
        1 - sum(k**2 for k in range(80)) / 80 / 79**2, abs=1e-12
    )
    dark = torch.ones(1, 1, 8, 10, dtype=torch.float64)
    dark[0, 0, 2, 3] = 0
    assert float(measure("average-drop", model, maps=dark, **options).values) == pytest.approx(1 / 80, abs=1e-12)
    assert measure("increase-in-confidence", model, maps=dark, **options).values.tolist() == [0]


def test_map_that_keeps_everything_scores_perfectly():
    """A map that is 1 everywhere but at a pixel without weight loses and gains nothing."""
    weight = torch.randn(3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.2
    weight[:, 0, 0] = 0
    model = with_output(linear(weight), "softmax", 2)
    maps = torch.ones(6, 1, 8, 10, dtype=torch.float64)
    maps[:, 0, 0, 0] = 0
    for name in NAMES:
        assert measure(name, model, maps=1e300 * maps, target=1).values.tolist() == [0] * 6


def test_constant_map_removes_the_image():
    weight = torch.ones(3, 8, 10, dtype=torch.float64)
    model = with_output(value(weight), "none", 1)
    for constant in (0.0, 0.3, -1.0):
        maps = torch.full((6, 1, 8, 10), constant, dtype=torch.float64)
        assert measure("average-drop", model, maps=maps, target=0, baseline="black").values.tolist() == [1] * 6


def test_undefined():
    weight = torch.ones(3, 8, 10, dtype=torch.float64)
    negative = with_output(value(-weight), "none", 1)
    score = measure("average-drop", negative, target=0)
    assert score.values.isnan().all()
    assert score.undefined["the score of the image is not positive"].tolist() == [True] * 6
    certain = with_output(linear(weight), "softmax", 2)
    score = measure("average-gain", certain, target=1)
    assert score.values.isnan().all()
    assert score.undefined["the probability of the image is 1"].tolist() == [True] * 6
    hint = "use average-drop, or --activation sigmoid if the output is a logit"
    with pytest.raises(UsageError, match=rf"^average-gain requires a model with probabilities; {hint}$"):
        measure("average-gain", negative, target=0)


@pytest.mark.parametrize(("method", "kept"), [("random", 0.5), ("center", 0.30)])
def test_controls_keep_the_mean_of_their_mask(method, kept):
    """By a model that sums the pixels; 0.5 for noise."""
    model = with_output(value(torch.ones(3, 8, 10, dtype=torch.float64)), "none", 1)
    images = torch.full((6, 3, 8, 10), 0.5, dtype=torch.float64)
    images += torch.arange(6)[:, None, None, None] / 100  # different images, whose random maps differ
    maps = xplain.attribute(model, images, method, target=0).values
    drop = measure("average-drop", model, images, maps, target=0, baseline="black").values
    assert float(1 - drop.mean()) == pytest.approx(kept, abs=0.04)
    sums = maps.sum(dim=1).flatten(1)
    mask = (sums - sums.amin(dim=1, keepdim=True)) / (sums.amax(dim=1) - sums.amin(dim=1))[:, None]
    toys.assert_same(1 - drop, mask.mean(dim=1))
