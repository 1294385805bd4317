"""The axioms that each method claims, on random networks; and one method that is known to break each."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import xplain
import xplain.methods  # registers them
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
    """240 values, 16 hidden units, 4 logits, no two weights alike; the probabilities differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(240, 16), activation(), nn.Linear(16, 4)).double()
        model[1].weight.data *= 2
        model[3].weight.data *= 4
    return model.eval()


# ---------------------------------------------------------------- completeness


@claiming("completeness")
@given(seed=seeds)
@few_examples
def test_complete_on_a_linear_network(spec, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(240, 4)).double()
    found = explain(spec, model, score="logit")
    assert float(found.expected.abs().min()) > 0.0
    assert float((found.gap.abs() / found.values.abs().sum(dim=(1, 2, 3))).max()) < 1e-12


@claiming("completeness")
@given(seed=seeds)
@settings(few_examples, max_examples=2)
def test_complete_on_a_smooth_network_at_its_default_settings(spec, seed):
    """To a thousandth of what the map holds in all (its absolute sum)."""
    found = xplain.attribute(toys.classifier(perceptron(seed, nn.Softplus)), X, spec.name)
    assert float((found.gap.abs() / found.values.abs().sum(dim=(1, 2, 3))).max()) < 1e-3


def test_input_times_gradient_is_not_complete():
    """T6: 1 - ReLU(1 - 2 x_0) goes from 0 at black to 1 at x, and its gradient at x is zero."""
    model = toys.Function(lambda x: torch.stack([1 - (1 - 2 * x[:, 0, 0, 0]).relu()] * 2, dim=1))
    x = torch.full((1, 3, 8, 10), 0.9, dtype=torch.float64)
    assert "completeness" not in METHODS.get("input-x-gradient").axioms
    assert float(explain("input-x-gradient", model, x).total) == 0.0
    assert float(model(x)[0, 0] - model(0 * x)[0, 0]) == 1.0


# ------------------------------------------------------------------- linearity


class Mixture(nn.Module):
    """a · one + b · other."""

    def __init__(self, one: nn.Module, other: nn.Module, a: float, b: float) -> None:
        super().__init__()
        self.one, self.other, self.a, self.b = one, other, a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.one(x) + self.b * self.other(x)


def linearity_error(spec: MethodSpec | str, seed: int, a: float = 2.0, b: float = -0.7) -> float:
    """The largest |φ(a f + b g) - a φ(f) - b φ(g)|, relative to the largest value."""
    one, other = perceptron(seed), perceptron(seed + 1)
    whole = explain(spec, Mixture(one, other, a, b), score="logit").values
    parts = a * explain(spec, one, score="logit").values + b * explain(spec, other, score="logit").values
    return float((whole - parts).abs().max() / whole.abs().max())


@claiming("linearity")
@given(seed=seeds, a=st.floats(-3, 3), b=st.floats(0.5, 3))
@few_examples
def test_linear_in_the_model(spec, seed, a, b):
    assert linearity_error(spec, seed, a, b) < 1e-10


@claiming("linearity")
@given(seed=seeds)
@few_examples
def test_against_rivals_is_the_targets_map_minus_the_mean_of_theirs(spec, seed):
    model = perceptron(seed)
    whole = explain(spec, model, target=1, against=[0, 3], score="logit").values
    one, other, third = (explain(spec, model, target=c, score="logit").values for c in (1, 0, 3))
    toys.assert_same(whole, one - (other + third) / 2)


def test_neflag_is_not_linear():
    assert "linearity" not in METHODS.get("neflag").axioms
    assert linearity_error("neflag", 0) > 0.1


# ----------------------------------------------------------------------- dummy


class Blind(nn.Module):
    """A network that sees one half where ``seen`` is false."""

    def __init__(self, model: nn.Module, seen: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("seen", seen)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(torch.where(self.seen, x, 0.5))


def unseen_share(spec: MethodSpec | str, seed: int) -> float:
    """The largest attribution of a value that the model does not see, relative to the largest of one that it does."""
    seen = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(seed)) < 0.7
    values = explain(spec, Blind(perceptron(seed), seen)).values
    values = values.expand(-1, 3, -1, -1)
    return float(values[:, ~seen].abs().max() / values[:, seen].abs().max())


@claiming("dummy")
@given(seed=seeds)
@few_examples
def test_values_that_the_model_does_not_see_get_nothing(spec, seed):
    assert unseen_share(spec, seed) < 1e-12


def test_uniform_fullgrad_gives_to_unseen_values():
    assert "dummy" not in METHODS.get("uniform-fullgrad").axioms
    assert unseen_share("uniform-fullgrad", 0) > 1e-3


# -------------------------------------------------------------------- symmetry


class Swapped(nn.Module):
    """f(x) + f(x with two values exchanged)."""

    def __init__(self, model: nn.Module, i: int, j: int) -> None:
        super().__init__()
        order = torch.arange(240)
        order[[i, j]] = order[[j, i]]
        self.model = model
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.model(x.flatten(1)[:, self.order].unflatten(1, x.shape[1:]))


def asymmetry(spec: MethodSpec | str, seed: int, i: int, j: int) -> float:
    """|φ_i - φ_j| where the model cannot tell i from j and x_i = x_j, relative to the larger."""
    x = X.clone().flatten(1)
    x[:, j] = x[:, i]
    values = explain(spec, Swapped(perceptron(seed), i, j), x.reshape(X.shape), score="logit").values.flatten(1)
    difference, size = (values[:, i] - values[:, j]).abs(), values[:, [i, j]].abs().amax(dim=1)
    return float((difference / size).max())


@claiming("symmetry")
@given(seed=seeds, pair=st.lists(st.integers(0, 239), min_size=2, max_size=2, unique=True))
@few_examples
def test_values_that_the_model_cannot_tell_apart_get_the_same(spec, seed, pair):
    assert asymmetry(spec, seed, *pair) < 1e-10


def test_smoothgrad_is_not_symmetric_for_few_samples():
    assert "symmetry" not in METHODS.get("smoothgrad").axioms
    assert asymmetry("smoothgrad", 0, 17, 143) > 1e-3


# --------------------------------------------------- implementation invariance


class Rewritten(nn.Module):
    """The same function as a ``perceptron``: hidden units reordered, scaled, doubled, and their ReLU written as (|z| + z) / 2."""

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
def test_the_same_function_gets_the_same_map(spec, seed):
    model = perceptron(seed)
    other = Rewritten(model, seed)
    assert float((model(X) - other(X)).detach().abs().max()) < 1e-12
    toys.assert_same(explain(spec, other).values, explain(spec, model).values)


class HeadFirst(nn.Module):
    """A SmallNet whose linear head is a 1 x 1 convolution before the mean instead of after it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.head = nn.Conv2d(12, 5, 1).double()
        self.head.weight.data = net.head.weight.data[:, :, None, None]
        self.head.bias.data = net.head.bias.data

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.pool(self.net.act1(self.net.norm1(self.net.conv1(x))))
        return self.head(self.net.act2(self.net.conv2(x))).mean(dim=(2, 3))


def test_grad_cam_depends_on_how_the_network_is_written():
    """Its last layer with height and width holds features in one network and logits in the other."""
    net = toys.small_net(1)
    other = HeadFirst(net).eval()
    assert "implementation-invariance" not in METHODS.get("grad-cam").axioms
    assert float((net(X) - other(X)).detach().abs().max()) < 1e-12
    one, two = (explain("grad-cam", model, target=2).values for model in (net, other))
    assert float((one - two).abs().max() / one.abs().max()) > 0.01
