"""Methods that start with the gradient at the images share the forward pass of the prediction."""

import json

import pytest
import torch

import xplain
import xplain.methods  # registers them
from tests.helpers import toys
from xplain.core.options import ComputeOptions
from xplain.core.registry import METHODS
from xplain.oracle import Oracle
from xplain.oracle.runtime import predict_and_share

X = toys.images(3)
SHARING = [spec.name for spec in METHODS if spec.starts_with]


def explain(method: str, classifier=None, **options) -> tuple[xplain.Attribution, list[int]]:
    """Return the attribution and the rows of the model calls."""
    classifier = classifier or toys.with_pixels(toys.small_net(1, scale=15.0))[0]
    rows = toys.watch(classifier)
    return xplain.attribute(classifier, X, method, **options), rows


def test_methods_that_share():
    assert sorted(SHARING) == [
        "grad-cam",
        "grad-cam-plus-plus",
        "hires-cam",
        "input-x-gradient",
        "layer-cam",
        "saliency",
        "uniform-fullgrad",
        "xgrad-cam",
    ]


@pytest.mark.parametrize("score", ["logit", "prob", "margin"])
@pytest.mark.parametrize("method", SHARING)
def test_one_forward_pass(method, score):
    """Three rows, not six; the map is that of two passes."""
    search = int("cam" in method)  # a row that finds the layer
    attribution, rows = explain(method, score=score)
    assert sum(rows) == 3 + search
    cost = attribution.cost
    assert (cost.forwards, cost.backwards, cost.checks) == (3, 3, search)
    separate, rows = explain(method, score=score, batch_size=2)  # two model calls share nothing
    assert sum(rows) == 6 + search
    assert (separate.cost.forwards, separate.cost.backwards, separate.cost.checks) == (3, 3, 3 + search)
    toys.assert_same(attribution.values, separate.values, rtol=1e-12)


def test_contrast_classes_and_targets_are_applied():
    attribution, rows = explain("saliency", target=[1, 2, 0], against=[[0, 3], [3, 4], [1, 2]])
    separate, _ = explain("saliency", target=[1, 2, 0], against=[[0, 3], [3, 4], [1, 2]], batch_size=2)
    assert rows == [3]
    toys.assert_same(attribution.values, separate.values, rtol=1e-12)


def test_several_layers_share_the_pass():
    attribution, rows = explain("grad-cam", layer="act1+act2")
    separate, _ = explain("grad-cam", layer="act1+act2", batch_size=2)
    assert sum(rows) == 3 + 2
    toys.assert_same(attribution.values, separate.values, rtol=1e-12)


def test_other_methods_do_not_share():
    _, rows = explain("integrated-gradients", steps=2)
    assert sum(rows) == 3 + 3 * (2 + 2)  # the prediction, the steps and the ends of the line


def test_pass_is_used_once():
    classifier = toys.with_pixels(toys.small_net(1))[0]
    logits, shared = Oracle(classifier).predict(X)
    assert shared is not None
    toys.assert_same(logits, Oracle(classifier).logits(X), rtol=1e-12)
    oracle = Oracle(classifier, shared=shared)
    y = torch.tensor([1, 2, 0])
    first = oracle.gradients(X, y).values
    assert shared.is_used
    assert shared.forward_pass is None
    assert (oracle.cost.forwards, oracle.cost.backwards) == (3, 3)
    torch.testing.assert_close(oracle.gradients(X, y).values, first, rtol=1e-12, atol=0)


@pytest.mark.parametrize("change", ["other", "fewer", "modified", "unfolded"])
def test_other_images_do_not_use_the_pass(change):
    classifier, images = toys.with_pixels(toys.small_net(1))[0], X.clone()
    _, shared = Oracle(classifier).predict(images)
    assert shared is not None
    if change == "modified":
        images.mul_(0.5)
    elif change == "other":
        images = images.clone()
    elif change == "fewer":
        images = images[:2]
    else:
        assert shared.take(images, folded=False) is None
        assert shared.take(images, folded=True, layers=["act1"]) is None
        return
    assert shared.take(images, folded=True) is None
    assert not shared.is_used


def test_explain_and_evaluate_run_the_model_once(xp, photos, monkeypatch):
    """Forward passes of the network on rows of images: one per image, and one per step of deletion."""
    calls: list[tuple[int, bool]] = []
    forward = Oracle.forward

    def counted(self, model, x):
        calls.append((len(x), torch.is_grad_enabled()))
        return forward(self, model, x)

    monkeypatch.setattr(Oracle, "forward", counted)
    options = ("-m", "python:tests.helpers.factories:tiny", "--device", "cpu")
    assert xp("explain", photos, *options, "-a", "saliency", "--stability", "off", "-o", "out").code == 0
    assert [rows for rows, has_graph in calls if has_graph] == [3]
    assert sum(rows for rows, _ in calls) == 3
    calls.clear()
    ran = xp("evaluate", photos, *options, "-a", "saliency", "-M", "sparseness", "-o", "run", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["items"]["evaluated"] == 3
    assert [rows for rows, has_graph in calls if has_graph] == [3]
    assert [rows for rows, has_graph in calls if not has_graph] in (
        [],
        [1],
    )  # of a blank image, which counts the classes


class WithoutGraph(torch.nn.Module):
    """A network that fails if gradients are enabled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no graph here")
        return self.net(x)


def test_network_that_fails_with_gradients_is_predicted():
    """The prediction is repeated without a graph; what needs gradients fails afterwards."""
    classifier = toys.with_pixels(WithoutGraph())[0]
    logits, cost, shared = predict_and_share(classifier, X, ComputeOptions(), "gradients")
    assert shared is None
    assert cost.checks == 3
    toys.assert_same(logits, Oracle(classifier).logits(X), rtol=1e-12)
