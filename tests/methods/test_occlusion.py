"""Tests of occlusion: against its definition, PAIR's program and linear models."""

import numpy as np
import pytest
import torch

import xplain
from tests.helpers import toys
from tests.reference import gradients
from tests.reference.occlusion import occlusion
from xplain.core.registry import METHODS

CLASSIFIER, NETWORK = toys.with_pixels(toys.small_net(1))
X = toys.images(2)


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (4, 3), (1, 1), (2, 5), (9, 2), (15, 8)])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_occlusion_equals_reference(window, stride, reduce, baseline):
    attribution = xplain.attribute(
        CLASSIFIER, X, "occlusion", target=1, window=window, stride=stride, reduce=reduce, baseline=baseline
    )
    fill = torch.tensor(toys.MEAN, dtype=torch.float64)[:, None, None].expand_as(X[0]) * (baseline == "mean")
    for k, image in enumerate(X):
        expected = occlusion(gradients.logit(NETWORK, 1), image, fill, window, stride, reduce)
        torch.testing.assert_close(attribution.values[k], expected)


def test_occlusion_equals_pair():
    pair = pytest.importorskip("saliency.core.occlusion")

    def call(batch, call_model_args=None, expected_keys=None):
        with torch.no_grad():
            logits = NETWORK(torch.tensor(batch.transpose(0, 3, 1, 2)))
        return {pair.OUTPUT_LAYER_VALUES: logits[:, 1].numpy()}

    theirs = pair.Occlusion().GetMask(X[0].permute(1, 2, 0).numpy(), call, size=3)
    attribution = xplain.attribute(CLASSIFIER, X[:1], "occlusion", target=1, window=3, stride=1)
    np.testing.assert_allclose(attribution.values[0].expand(3, -1, -1).permute(1, 2, 0), theirs, atol=1e-12)


def test_occlusion_single_pixel_linear_model():
    weight = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    attribution = xplain.attribute(toys.classifier(toys.Linear(weight)), X, "occlusion", target=1, window=1, stride=1)
    torch.testing.assert_close(attribution.values, (weight[1] * X).sum(dim=1, keepdim=True))


def test_occlusion_covers_every_pixel():
    model = toys.classifier(toys.Function(lambda x: torch.stack([x.mean(dim=(1, 2, 3))] * 2, dim=1)))
    for window, stride in ((3, 3), (3, 4), (7, 5)):
        if stride <= window:
            assert (xplain.attribute(model, X, "occlusion", target=0, window=window, stride=stride).values > 0).all()


def test_occlusion_constant_model_gives_zero():
    model = toys.classifier(toys.Function(lambda x: x.new_ones(len(x), 3)))
    assert not xplain.attribute(model, X, "occlusion", target=0).values.any()


def test_occlusion_cost_equals_claim():
    spec = METHODS.get("occlusion")
    assert spec.cost(**spec.resolve({})) == (28**2 + 1, 0)
    attribution = xplain.attribute(CLASSIFIER, X, "occlusion", window=3, stride=2)
    assert attribution.cost.forwards == 2 * (4 * 5 + 1)
