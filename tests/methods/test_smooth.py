"""Tests of ``smooth``: smoothgrad by saliency, moments of any method, fixed baselines and targets, flags, cost."""

import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.data.filters import gaussian_blur

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1, scale=15.0))
X = toys.images(2)
TARGETS = [2, 0]
KINDS = ["mean", "absolute", "square", "variance"]


def smooth(method: str, **settings) -> Attribution:
    return xplain.attribute(CLASSIFIER, X, f"smooth:method={method}", target=TARGETS, **{"samples": 5} | settings)


def noisy_copies(samples: int, noise: float) -> torch.Tensor:
    """Return x + σ ε_i (B, n, C, H, W)."""
    draws = Streams.of(X, 0, "smoothgrad").normal(torch.arange(samples), (3, 8, 10), torch.float64)
    sigma = noise * torch.stack([image.max() - image.min() for image in X])
    return X[:, None] + sigma[:, None, None, None, None] * draws


def reduce(maps: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the moment of maps (B, n, C, H, W) over the samples."""
    if kind == "variance":
        return ((maps - maps.mean(dim=1, keepdim=True)) ** 2).mean(dim=1)
    return {"mean": maps, "absolute": maps.abs(), "square": maps**2}[kind].mean(dim=1)


@pytest.mark.parametrize("batch_size", ["auto", 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["saliency", "ig:steps=3+baseline=white", "mfaba:steps=3", "grad-cam"])
def test_smooth_equals_moments_of_method(method, kind, batch_size):
    """Also of methods with a path, at points outside [0, 1]."""
    name, _, rest = method.partition(":")
    settings = dict(pair.split("=") for pair in rest.split("+") if pair)
    copies = noisy_copies(5, 0.15)
    with toys.any_range():
        parts = [
            xplain.attribute(CLASSIFIER, copies[:, i], name, target=TARGETS, **settings) for i in range(copies.shape[1])
        ]
    result = smooth(method, kind=kind, batch_size=batch_size)
    toys.assert_same(result.values, reduce(torch.stack([part.values for part in parts], dim=1), kind), rtol=1e-7)
    assert (result.cost.forwards, result.cost.backwards) == tuple(
        sum(getattr(part.cost, name) for part in parts) for name in ("forwards", "backwards")
    )
    if kind == "mean" and parts[0].expected is not None:
        toys.assert_same(result.expected, torch.stack([part.expected for part in parts]).mean(dim=0))
    else:
        assert result.expected is None


@pytest.mark.parametrize("kind", KINDS)
def test_smooth_saliency_is_smoothgrad(kind):
    """With the same random numbers."""
    expected = xplain.attribute(CLASSIFIER, X, "smoothgrad", target=TARGETS, samples=5, kind=kind).values
    toys.assert_same(smooth("saliency", kind=kind).values, expected, rtol=1e-7)


def test_smooth_score_is_that_of_method():
    assert torch.equal(smooth("mfaba").values, smooth("mfaba", score="prob").values)
    assert torch.equal(smooth("mfaba:score=logit").values, smooth("mfaba", score="logit").values)
    assert not torch.equal(smooth("mfaba").values, smooth("mfaba", score="logit").values)


@pytest.mark.parametrize(
    "method", ["saliency", "neflag:samples=3", "agi:steps=2+classes=2", "ig:baseline=uniform+steps=3"]
)
def test_zero_noise_returns_map_of_method(method):
    """Random numbers and uniform baselines depend on the image, which is the same."""
    name, _, rest = method.partition(":")
    settings = dict(pair.split("=") for pair in rest.split("+") if pair)
    expected = xplain.attribute(CLASSIFIER, X, name, target=TARGETS, **settings).values
    toys.assert_same(smooth(method, noise=0.0).values, expected)
    assert float(smooth(method, noise=0.0, kind="variance").values.max()) < 1e-12


def test_square_is_variance_plus_squared_mean():
    mean, square, variance = (smooth("ig:steps=3", kind=kind).values for kind in ("mean", "square", "variance"))
    toys.assert_same(square, variance + mean**2, rtol=1e-7)


@pytest.mark.parametrize("baseline", ["blur", "uniform"])
def test_baseline_is_that_of_clean_image(baseline):
    """Linear score: φ = w ⊙ (x + mean noise - x') with x' from x."""
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    model = toys.classifier(toys.Linear(weight))
    start = gaussian_blur(X, 5.0)
    if baseline == "uniform":
        ig = xplain.attribute(model, X, "ig", target=1, baseline="uniform", steps=1)
        start = X - ig.values / weight[1]
    result = xplain.attribute(model, X, f"smooth:method=ig:steps=2+baseline={baseline},samples=4", target=1)
    toys.assert_same(result.values, weight[1] * (noisy_copies(4, 0.15).mean(dim=1) - start), rtol=1e-7)


def test_flags_are_shares():
    """With one short step no label changes."""
    result = smooth("mfaba:steps=1+step_size=0.0001")
    text = "the predicted class did not change within 1 steps"
    assert result.details[text].tolist() == [1.0, 1.0] or result.details[text][0] == 1.0
    assert toys.warned(result, f"for some noisy copies: {text}")[0]


def test_contrast_classes_reach_method():
    contrasts = [[0, 3], [1, 2]]
    copies = noisy_copies(5, 0.15)
    with toys.any_range():
        maps = [
            xplain.attribute(CLASSIFIER, copies[:, i], "ig", steps=2, target=TARGETS, against=contrasts).values
            for i in range(5)
        ]
    toys.assert_same(smooth("ig:steps=2", against=contrasts).values, sum(maps) / 5, rtol=1e-7)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("smooth", r"smooth: invalid value method=smooth; use another method"),
        ("igg", r"unknown method 'igg'; did you mean 'ig'"),
        ("ig:stepz=3", r"integrated-gradients has no parameter 'stepz'"),
    ],
)
def test_invalid_method_is_refused(method, message):
    with pytest.raises(UsageError, match=message):
        smooth(method)


def test_attribute_accepts_parameters_in_name():
    toys.assert_same(
        xplain.attribute(CLASSIFIER, X, "ig:steps=3", target=1).values,
        xplain.attribute(CLASSIFIER, X, "ig", target=1, steps=3).values,
    )
