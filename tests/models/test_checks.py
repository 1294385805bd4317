"""Checks of a model: randomness, dependent rows, missing gradients, and what is learnt from the first images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.models.checks import RANDOM_FLAG, ModelChecks

X = toys.images(3)
ALTERNATIVES = "use occlusion, rise, lime or kernel-shap"


class Wired(nn.Module):
    """A small network whose forward pass is ``wire(network, x)``. size: of the images, or None."""

    def __init__(self, wire, size: object = (8, 10)) -> None:
        super().__init__()
        self.net, self.wire = toys.small_net(), wire
        self.back = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()).double()
        if size is not None:
            self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def load(network: nn.Module, activation: str = "softmax") -> xplain.Classifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelNote)
        return xplain.load_classifier(network, device="cpu", activation=activation)


def plain(network: Wired, x: Tensor) -> Tensor:
    return network.net(x)


def row_by_row(network: nn.Module, images: Tensor) -> Tensor:
    """Return the gradients of class 1, one image per call."""
    rows = []
    for image in images.split(1):
        x = image.clone().requires_grad_()
        rows.append(torch.autograd.grad(network(x)[0, 1], x)[0])
    return torch.cat(rows)


def test_sound_model_has_no_findings():
    classifier = load(Wired(plain))
    assert classifier.checks == ModelChecks(size=(8, 10))
    assert classifier.checks.describe() == {}
    assert classifier.notes == []


def test_checks_cost_two_forward_passes_more_than_detection():
    calls = []

    def counted(network: Wired, x: Tensor) -> Tensor:
        calls.append(len(x))
        return network.net(x)

    load(Wired(counted))
    assert calls == [2, 3, 2, 1]  # channels, output with another number of rows, and the checks


def batch_statistics(network: Wired, x: Tensor) -> Tensor:
    return network.net(F.batch_norm(x, None, None, training=True))


def softmax_over_rows(network: Wired, x: Tensor) -> Tensor:
    return network.net(x) + network.net(x).softmax(dim=0)


def divided_by_rows(network: Wired, x: Tensor) -> Tensor:
    return network.net(x) / len(x)


def detached_maximum(network: Wired, x: Tensor) -> Tensor:
    return network.net(x / x.detach().amax())


@pytest.mark.parametrize("wire", [batch_statistics, softmax_over_rows, divided_by_rows, detached_maximum])
def test_mixed_rows_run_one_by_one(wire):
    network = Wired(wire)
    classifier = load(network)
    assert classifier.notes == ["the rows of a call change one another: running one image per call"]
    assert classifier.checks.describe() == {"mixes_rows": True}
    values = xplain.attribute(classifier, X, "saliency", target=1).values
    toys.assert_same(values, row_by_row(network, X))
    curve = xplain.measure(classifier, X, values, "deletion", target=1, steps=2).curve
    with torch.no_grad():
        alone = torch.cat([network(image).softmax(dim=1)[:, 1] for image in X.split(1)])
    toys.assert_same(curve[:, 0], alone)


def test_mixed_rows_name_batch_norm():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False).double(), toys.small_net())
    network.size = (8, 10)
    assert load(network).notes == [
        "the rows of a call change one another (batch statistics in '0'): running one image per call"
    ]


def test_mixed_rows_refuse_baselines_in_the_same_call():
    with pytest.raises(
        UsageError, match="deeplift runs several images in a call, and the model mixes the rows of a call; use"
    ):
        xplain.attribute(load(Wired(divided_by_rows)), X, "deeplift")


def test_single_image_that_fails_is_refused():
    network = nn.Sequential(toys.small_net(), nn.BatchNorm1d(5, track_running_stats=False).double())
    network.size = (8, 10)
    with pytest.raises(
        InputError, match=r"Sequential cannot process one image per call .*; the images of a call must not"
    ):
        load(network)


def dropout(network: Wired, x: Tensor) -> Tensor:
    return network.net(F.dropout(x))


def numpy_noise(network: Wired, x: Tensor) -> Tensor:
    return network.net(x) + float(np.random.rand())


@pytest.mark.parametrize("wire", [dropout, numpy_noise])
def test_random_model_is_noted_and_flagged(wire):
    network = Wired(wire)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    classifier = load(network)
    attribution = xplain.attribute(classifier, X, "saliency", target=1)
    assert attribution.flags[RANDOM_FLAG].tolist() == [True] * 3
    assert classifier.checks.describe() == {"random": True}
    assert "the model draws random numbers in evaluation mode" in classifier.notes[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_unused_random_numbers_are_not_noted():
    def draws(network: Wired, x: Tensor) -> Tensor:
        torch.rand(3)
        return network.net(x)

    assert load(Wired(draws)).checks.describe() == {}


def no_grad(network: Wired, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = network.back(x)
    return network.net(y)


def inference_mode(network: Wired, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = network.back(x)
    return network.net(y)


def detached(network: Wired, x: Tensor) -> Tensor:
    return network.net(x.detach())


@pytest.mark.parametrize(
    ("wire", "where", "hint"),
    [
        (no_grad, " in 'back.0'", ", or set through_no_grad = True on the module"),
        (inference_mode, " in 'back.0'", ""),
        (detached, "", ""),
    ],
)
@pytest.mark.parametrize("method", ["saliency", "ig", "grad-cam", "neflag", "lrp", "agi"])
def test_gradient_methods_are_refused(wire, where, hint, method):
    classifier = load(Wired(wire))
    rows = toys.watch(classifier)
    with pytest.raises(UsageError) as error:
        xplain.attribute(classifier, X, method)
    assert str(error.value).endswith(
        f" needs gradients, and the model cuts them{where} (torch.no_grad, detach or inference_mode); {ALTERNATIVES}{hint}"
    )
    assert rows == []


@pytest.mark.parametrize("method", ["occlusion", "rise", "lime", "kernel-shap", "score-cam", "sobel"])
def test_other_methods_need_no_gradients(method):
    options = {"rise": {"masks": 4}, "lime": {"samples": 9}, "kernel-shap": {"samples": 9}}.get(method, {})
    classifier, expected = load(Wired(no_grad)), load(Wired(lambda network, x: network.net(network.back(x))))
    classifier.model.load_state_dict(expected.model.state_dict())
    values = [xplain.attribute(made, X, method, target=1, **options).values for made in (classifier, expected)]
    toys.assert_same(values[0], values[1])


@pytest.mark.parametrize("method", ["saliency", "grad-cam", "lrp"])
def test_through_no_grad_gives_the_gradient(method):
    network = Wired(no_grad)
    network.through_no_grad = True
    classifier = load(network)
    assert classifier.notes == ["gradients are computed through torch.no_grad in the forward pass (through_no_grad)"]
    network.wire = lambda network, x: network.net(network.back(x))
    expected = xplain.attribute(load(network), X, method, target=1).values
    assert torch.equal(xplain.attribute(classifier, X, method, target=1).values, expected)


def test_failing_backward_is_refused():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no backward pass here")

    classifier = load(Wired(lambda network, x: network.net(Failing.apply(x))))
    with pytest.raises(UsageError, match=r"the model fails with gradients \(no backward pass here\); use occlusion"):
        xplain.attribute(classifier, X, "saliency")


def test_in_place_operation_is_refused():
    def in_place(network: Wired, x: Tensor) -> Tensor:
        y = network.net(x).exp()
        z = y * 2
        y += 1
        return z

    classifier = load(Wired(in_place))
    with pytest.raises(
        UsageError, match=r"the model works in place .*; use occlusion.*, or remove the in-place operations"
    ):
        xplain.attribute(classifier, X, "saliency")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_quantized_model_is_refused_by_gradient_methods():
    network = torch.ao.quantization.quantize_dynamic(toys.small_net().float(), {nn.Linear})
    network.size = (8, 10)
    classifier = load(network)
    with pytest.raises(
        UsageError, match=f"saliency needs gradients, and the model is quantized; {ALTERNATIVES}, or load it"
    ):
        xplain.attribute(classifier, X.float(), "saliency")
    values = xplain.attribute(classifier, X[:1].float(), "occlusion", target=1, window=8, stride=8).values
    gray = network(X[:1].float())[0, 1]
    assert values.isfinite().all()
    assert gray.isfinite()


def test_zero_gradient_is_noted():
    classifier = load(Wired(lambda network, x: network.net((x * 4).round())))
    assert classifier.notes == ["the logits do not react to small changes of noise images: their gradient is zero"]


class OnlyTenWide(nn.Module):
    """A network for images of 8 x 10 that ends in a softmax, or adds one of ``problems``."""

    def __init__(self, problem: str = "") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(240, 4)).double()
        self.problem = problem

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        if self.problem == "detach":
            return z.detach()
        return z / len(x) if self.problem == "rows" else z


def test_first_images_decide_what_is_unknown():
    classifier = load(OnlyTenWide("rows"))
    assert (classifier.checks, classifier.notes) == (ModelChecks(), [])
    with pytest.warns(ModelNote, match="the rows of a call change one another") as caught:
        values = xplain.attribute(classifier, X, "saliency", target=1).values
    assert len(caught) == 1
    assert classifier.checks == ModelChecks(size=(8, 10), mixes_rows=True)
    assert classifier.size == (8, 10)
    toys.assert_same(values, row_by_row(OnlyTenWide_like(classifier), X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xplain.measure(classifier, X, values, "deletion", steps=2)


def OnlyTenWide_like(classifier: xplain.Classifier) -> nn.Module:
    network = OnlyTenWide("rows")
    network.load_state_dict(classifier.model.state_dict())
    return network


def test_first_images_refuse_gradient_methods():
    with pytest.raises(UsageError, match="saliency needs gradients"):
        xplain.attribute(load(OnlyTenWide("detach")), X, "saliency")


def test_first_images_check_class_names():
    network = OnlyTenWide()
    network.labels = ["a", "b"]
    with pytest.raises(InputError, match="the model's labels has 2 names, but OnlyTenWide has 4 classes"):
        xplain.attribute(load(network), X, "saliency")


def test_first_prediction_inspects_and_checks_the_model():
    classifier = load(OnlyTenWide("rows"))
    with pytest.warns(ModelNote, match="the rows of a call change one another") as caught:
        logits = classifier(X)
    assert len(caught) == 1
    assert torch.equal(logits, classifier.model(X))
    assert classifier.checks == ModelChecks(size=(8, 10), mixes_rows=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xplain.attribute(classifier, X, "saliency", target=1)


class TwentyChannels(nn.Module):
    """A network for images of 8 x 10 with a number of channels that no layer tells and that is never tried on noise."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(4, 20 * 8 * 10, dtype=torch.float64, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def test_first_images_decide_the_channels():
    network = TwentyChannels()
    images = torch.rand(2, 20, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classifier = load(network)
    assert classifier.classes is None
    with pytest.warns(ModelNote, match="the model has 20 input channels"):
        logits = classifier(images)
    assert torch.equal(logits, network(images))
    assert (classifier.channels, classifier.classes, classifier.checks) == (20, 4, ModelChecks(size=(8, 10)))
    values = xplain.attribute(classifier, images, "saliency", target=1).values
    toys.assert_same(values, network.weight[1].detach().reshape(1, 20, 8, 10).expand(2, -1, -1, -1))


def test_images_of_a_wrong_size_are_an_error():
    classifier = load(OnlyTenWide())
    with pytest.raises(InputError, match="the model failed on images"):
        xplain.attribute(classifier, toys.images(1, 9, 9), "saliency")
    assert xplain.attribute(classifier, X, "saliency").values.shape == X.shape
