"""Every method and metric on images of other than three channels: finite, of the right shape, and equal to row by row."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.registry import METHODS, METRICS
from xplain.models.classifier import Classifier
from xplain.pipelines.compatibility import minimal_settings

SIDE = 16
UNSUPPORTED = {"attention-rollout", "attention-relevance", "legrad", "grad-eclip"}  # the network has no attention
MAY_BE_ZERO = {"grad-cam", "grad-cam-plus-plus", "guided-grad-cam", "layer-cam", "score-cam"}
UNDEFINED = {
    "aic": "the image has 4 bands",
    "sic": "the image has 4 bands",
}
BANDS = (2, 4, 12)


def load(channels: int) -> Classifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xplain.load_classifier(toys.band_net(channels, SIDE), device="cpu")


def make_images(channels: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, channels, 4, 4, generator=generator, dtype=torch.float64)
    fine = torch.rand(count, channels, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return 0.7 * torch.nn.functional.interpolate(coarse, SIDE) + 0.3 * fine


CLASSIFIERS = {channels: load(channels) for channels in BANDS}


def explain(method: str, channels: int, images: Tensor) -> Tensor:
    settings = minimal_settings(METHODS.get(method), (SIDE, SIDE), channels)
    settings |= {"window": 4, "stride": 4} if "stride" in settings else {}
    settings |= {key: 40 for key in ("samples", "masks") if key in settings}
    return xplain.attribute(CLASSIFIERS[channels], images, method, **settings).values


@pytest.mark.parametrize("method", [spec.name for spec in METHODS])
def test_method_on_four_bands(method):
    images = make_images(4)
    if method in UNSUPPORTED:
        with pytest.raises(xplain.XplainError, match="attention"):
            explain(method, 4, images)
        return
    values = explain(method, 4, images)
    check(values, images, method)
    rows = torch.cat([explain(method, 4, image[None]) for image in (images[:1] if method == "xrai" else images)])
    if METHODS.get(method).rounding:
        assert float(torch.nn.functional.cosine_similarity(rows.flatten(), values[: len(rows)].flatten(), dim=0)) > 0.99
    else:
        toys.assert_same(values, rows, rtol=1e-3)


@pytest.mark.parametrize("channels", [2, 12])
@pytest.mark.parametrize(
    "method", ["lime", "sobel", "rise", "lrp", "deep-taylor", "blur-ig", "guided-ig", "isa", "dga"]
)
def test_method_on_other_numbers_of_bands(method, channels):
    images = make_images(channels, 1)
    check(explain(method, channels, images), images, method)


def check(values: Tensor, images: Tensor, method: str) -> None:
    """Assert that the values of a method are finite, not zero, and of the shape of the images."""
    assert (len(values), *values.shape[2:]) == (len(images), *images.shape[2:])
    assert values.shape[1] in (1, images.shape[1])
    assert bool(values.isfinite().all())
    if method not in MAY_BE_ZERO:
        assert bool((values.abs().amax(dim=(1, 2, 3)) > 0).all())


@pytest.mark.parametrize("channels", [4, 12])
def test_gradient_methods_have_one_value_per_band(channels):
    """On a linear model, saliency is the weight, and integrated gradients from black is weight times pixel."""
    model = toys.Linear(toys.band_weights(channels, SIDE))
    model.size = SIDE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = xplain.load_classifier(model, device="cpu")
    images = make_images(channels)
    weight = model.weight[2].detach()
    toys.assert_same(xplain.attribute(classifier, images, "saliency", target=2).values, weight.expand_as(images))
    for baseline, reference in (("black", 0.0), ("white", 1.0), ("mean", 0.0)):
        values = xplain.attribute(classifier, images, "ig", target=2, steps=3, baseline=baseline).values
        toys.assert_same(values, weight * (images - reference))
    occluded = xplain.attribute(
        classifier, images, "occlusion", target=2, window=1, stride=1, baseline="black", score="logit"
    )
    toys.assert_same(occluded.values[:, 0], (weight * images).sum(dim=1), rtol=1e-8)
    deletion = xplain.measure(classifier, images, weight * images, "deletion", target=2, steps=4)
    toys.assert_same(deletion.curve[:, 0], classifier(images).softmax(dim=1)[:, 2])
    toys.assert_same(deletion.curve[:, -1], classifier(torch.zeros_like(images)).softmax(dim=1)[:, 2])


@pytest.mark.parametrize("metric", [spec.name for spec in METRICS if spec.scope == "image"])
def test_metric_on_four_bands(metric):
    classifier, images = CLASSIFIERS[4], make_images(4)
    settings = {} if metric in ("aic", "sic") else minimal_settings(METRICS.get(metric), (SIDE, SIDE))
    settings |= {"masks": 8} if "masks" in settings else {}
    attribution = xplain.attribute(classifier, images, "ig", target=0, steps=5).values
    if "boxes" in METRICS.get(metric).parameters:
        settings = {"boxes": torch.tensor([[[2, 2, 14, 14]]] * 2)}
    score = xplain.measure(classifier, images, attribution, metric, target=0, method="ig:steps=5", **settings)
    reason = UNDEFINED.get(metric)
    assert bool(score.values.isnan().all() if reason else score.values.isfinite().all())
    assert [name for name, mask in score.undefined.items() if mask.any()] == ([reason] if reason else [])


def test_information_curve_of_one_channel():
    classifier, gray = load(1), make_images(1, 1)
    maps = torch.rand(1, 1, SIDE, SIDE, dtype=torch.float64)
    target = int(classifier(gray).argmax())
    score = xplain.measure(classifier, gray, maps, "sic", target=target, min_probability=0.0, thresholds="5+50")
    assert score.curve.shape == (1, 1001)
    assert 0 <= float(score.values[0]) <= 1


def test_segments_are_those_of_the_first_three_bands():
    images = make_images(12, 1)
    classifier = CLASSIFIERS[12]
    result = xplain.attribute(classifier, images, "lime", target=1, samples=4, segments=9)
    rgb = xplain.attribute(load(3), images[:, :3], "lime", target=1, samples=4, segments=9)
    assert result.details["segments"].tolist() == rgb.details["segments"].tolist()
    assert result.facts == {"segmented_bands": "1, 2, 3"}
    assert rgb.facts == {}
