"""Tests of the axioms that methods claim, on random networks, and of one method that violates each axiom."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import xplain
import xplain.methods  # registers the methods
from tests.contracts import quick
from tests.helpers import toys
from xplain.core.registry import METHODS, MethodSpec

X = toys.images(2)
seeds = st.integers(0, 2**31 - 1)
few_examples = settings(max_examples=4, deadline=None, derandomize=True, database=None)


def claiming(axiom: str):
    specs = [spec for spec in METHODS if axiom in spec.axioms]
    assert specs, f"no method claims {axiom}"
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)


def explain(spec: MethodSpec | str, model: nn.Module, x: Tensor = X, target: int = 1, **options) -> xplain.Attribution:
    spec = METHODS.get(spec) if isinstance(spec, str) else spec
    return xplain.attribute(toys.classifier(model), x, spec.name, target=target, **quick(spec, 6) | options)


def perceptron(seed: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a network of 240 values, 16 hidden units and 4 logits with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(240, 16), activation(), nn.Linear(16, 4)).double()
        model[1].weight.data *= 2
        model[3].weight.data *= 4
    return model.eval()


@claiming("completeness")
@given(seed=seeds)
@few_examples
def test_completeness_on_linear_network(spec, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(240, 4)).double()
    attribution = explain(spec, model, score="logit")
    assert float(attribution.expected.abs().min()) > 0.0
    assert float((attribution.gap.abs() / attribution.values.abs().sum(dim=(1, 2, 3))).max()) < 1e-12


@claiming("completeness")
@given(seed=seeds)
@settings(few_examples, max_examples=2)
def test_completeness_on_smooth_network(spec, seed):
    """At default settings, within a thousandth of the absolute sum of the map."""
    attribution = xplain.attribute(toys.classifier(perceptron(seed, nn.Softplus)), X, spec.name)
    assert float((attribution.gap.abs() / attribution.values.abs().sum(dim=(1, 2, 3))).max()) < 1e-3


def test_input_x_gradient_is_not_complete():
    """T6: 1 - ReLU(1 - 2 x_0) rises from 0 at black to 1 at x, and its gradient at x is zero."""
    model = toys.Function(lambda x: torch.stack([1 - (1 - 2 * x[:, 0, 0, 0]).relu()] * 2, dim=1))
    x = torch.full((1, 3, 8, 10), 0.9, dtype=torch.float64)
    assert "completeness" not in METHODS.get("input-x-gradient").axioms
    assert float(explain("input-x-gradient", model, x).total) == 0.0
    assert float(model(x)[0, 0] - model(0 * x)[0, 0]) == 1.0


class Mixture(nn.Module):
    """Network a · first + b · second."""

    def __init__(self, first: nn.Module, second: nn.Module, a: float, b: float) -> None:
        super().__init__()
        self.first, self.second, self.a, self.b = first, second, a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.first(x) + self.b * self.second(x)


def linearity_error(spec: MethodSpec | str, seed: int, a: float = 2.0, b: float = -0.7) -> float:
    """Return the largest |φ(a f + b g) - a φ(f) - b φ(g)|, relative to the largest value."""
    f, g = perceptron(seed), perceptron(seed + 1)
    of_mixture = explain(spec, Mixture(f, g, a, b), score="logit").values
    mixed = a * explain(spec, f, score="logit").values + b * explain(spec, g, score="logit").values
    return float((of_mixture - mixed).abs().max() / of_mixture.abs().max())


@claiming("linearity")
@given(seed=seeds, a=st.floats(-3, 3), b=st.floats(0.5, 3))
@few_examples
def test_linearity_in_model(spec, seed, a, b):
    assert linearity_error(spec, seed, a, b) < 1e-10


@claiming("linearity")
@given(seed=seeds)
@few_examples
def test_linearity_in_contrast_classes(spec, seed):
    model = perceptron(seed)
    contrasted = explain(spec, model, target=1, against=[0, 3], score="logit").values
    maps = {target: explain(spec, model, target=target, score="logit").values for target in (1, 0, 3)}
    toys.assert_same(contrasted, maps[1] - (maps[0] + maps[3]) / 2)


def test_neflag_is_not_linear():
    assert "linearity" not in METHODS.get("neflag").axioms
    assert linearity_error("neflag", 0) > 0.1


class Masked(nn.Module):
    """Network that replaces values by 0.5 where ``seen`` is false."""

    def __init__(self, model: nn.Module, seen: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("seen", seen)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.where(self.seen, x, 0.5))


def unseen_share(spec: MethodSpec | str, seed: int) -> float:
    """Return the largest attribution of an unseen value, relative to the largest of a seen value."""
    seen = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(seed)) < 0.7
    values = explain(spec, Masked(perceptron(seed), seen)).values
    values = values.expand(-1, 3, -1, -1)
    return float(values[:, ~seen].abs().max() / values[:, seen].abs().max())


@claiming("dummy")
@given(seed=seeds)
@few_examples
def test_dummy_on_unseen_values(spec, seed):
    assert unseen_share(spec, seed) < 1e-12


def test_uniform_fullgrad_violates_dummy():
    assert "dummy" not in METHODS.get("uniform-fullgrad").axioms
    assert unseen_share("uniform-fullgrad", 0) > 1e-3


class Symmetrized(nn.Module):
    """Network f(x) + f(x with two values exchanged)."""

    def __init__(self, model: nn.Module, i: int, j: int) -> None:
        super().__init__()
        order = torch.arange(240)
        order[[i, j]] = order[[j, i]]
        self.model = model
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.model(x.flatten(1)[:, self.order].unflatten(1, x.shape[1:]))


def asymmetry(spec: MethodSpec | str, seed: int, i: int, j: int) -> float:
    """Return |φ_i - φ_j| for a model that is symmetric in i and j with x_i = x_j, relative to the larger value."""
    x = X.clone().flatten(1)
    x[:, j] = x[:, i]
    values = explain(spec, Symmetrized(perceptron(seed), i, j), x.reshape(X.shape), score="logit").values.flatten(1)
    difference, size = (values[:, i] - values[:, j]).abs(), values[:, [i, j]].abs().amax(dim=1)
    return float((difference / size).max())


@claiming("symmetry")
@given(seed=seeds, pair=st.lists(st.integers(0, 239), min_size=2, max_size=2, unique=True))
@few_examples
def test_symmetry_on_symmetric_model(spec, seed, pair):
    assert asymmetry(spec, seed, *pair) < 1e-10


def test_smoothgrad_with_few_samples_is_not_symmetric():
    assert "symmetry" not in METHODS.get("smoothgrad").axioms
    assert asymmetry("smoothgrad", 0, 17, 143) > 1e-3


class Rewritten(nn.Module):
    """Network equal to a ``perceptron``: hidden units reordered, scaled and doubled, with ReLU written as (|z| + z) / 2."""

    def __init__(self, model: nn.Sequential, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(16, generator=generator)
        scale = torch.rand(16, 1, dtype=torch.float64, generator=generator) + 0.5
        below, above = model[1], model[3]
        self.below = nn.Parameter((scale * below.weight[order]).repeat(2, 1))
        self.shift = nn.Parameter((scale[:, 0] * below.bias[order]).repeat(2))
        self.above = nn.Parameter((above.weight[:, order] / scale[:, 0] / 2).repeat(1, 2))
        self.offset = nn.Parameter(above.bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        z = torch.einsum("bd,hd->bh", x.flatten(1), self.below) + self.shift
        return torch.einsum("bh,kh->bk", (z.abs() + z) / 2, self.above) + self.offset


@claiming("implementation-invariance")
@given(seed=seeds)
@few_examples
def test_implementation_invariance_on_rewritten_network(spec, seed):
    model = perceptron(seed)
    rewritten = Rewritten(model, seed)
    assert float((model(X) - rewritten(X)).detach().abs().max()) < 1e-12
    toys.assert_same(explain(spec, rewritten).values, explain(spec, model).values)


class HeadFirst(nn.Module):
    """SmallNet whose linear head is a 1 x 1 convolution before the mean, not a layer after it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = nn.Conv2d(12, 5, 1).double()
        self.head.weight.data = net.head.weight.data[:, :, None, None]
        self.head.bias.data = net.head.bias.data

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.pool(self.net.act1(self.net.norm1(self.net.conv1(x))))
        return self.head(self.net.act2(self.net.conv2(x))).mean(dim=(2, 3))


def test_grad_cam_is_not_implementation_invariant():
    """The last spatial layer holds features in the first network and logits in the second."""
    net = toys.small_net(1)
    head_first = HeadFirst(net).eval()
    assert "implementation-invariance" not in METHODS.get("grad-cam").axioms
    assert float((net(X) - head_first(X)).detach().abs().max()) < 1e-12
    values = explain("grad-cam", net, target=2).values
    other_values = explain("grad-cam", head_first, target=2).values
    assert float((values - other_values).abs().max() / values.abs().max()) > 0.01
