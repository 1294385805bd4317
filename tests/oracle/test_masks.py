"""Hand-written masks and gates under the propagation rules: equal to nn.ReLU, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
METHODS = {
    "deeplift": ("deeplift", {}),
    "lrp": ("lrp", {}),
    "deep-taylor": ("deep-taylor", {}),
    "guided-backprop": ("guided-backprop", {}),
}
ALL_METHODS = METHODS | {
    "reveal-cancel": ("deeplift", {"rule": "reveal-cancel"}),
    "lrp-box": ("lrp", {"rule": "epsilon-gamma-box"}),
    "deconvnet": ("deconvnet", {}),
    "fullgrad": ("fullgrad", {}),
}
Activation = Callable[[Tensor], Tensor]


def times_converted_mask(x: Tensor) -> Tensor:
    mask = torch.gt(x.detach(), 0).to(x.dtype).clone()
    return mask.contiguous() * x


def times_late_mask(x: Tensor) -> Tensor:
    with torch.no_grad():
        mask = torch.where(x <= 0, 0.0, 1.0).type_as(x)
    return torch.mul(x, mask)


def multiplied_in_place(x: Tensor) -> Tensor:
    y = x.clone()
    y *= y >= 0
    return y


class SignMask(torch.autograd.Function):
    """A mask by a custom function, without a gradient."""

    @staticmethod
    def forward(ctx, x):
        mask = (x > 0).to(x.dtype)
        ctx.mark_non_differentiable(mask)
        return mask

    @staticmethod
    def backward(ctx, gradient):
        return None


@torch.no_grad()
def gate_without_gradient(x: Tensor) -> Tensor:
    return x.sigmoid()


@torch.jit.script
def scripted_mask(x: Tensor) -> Tensor:
    return (x.sigmoid() > 0.5).to(x.dtype)


def written_mask(x: Tensor, *, view: bool = False) -> Tensor:
    mask = torch.ones_like(x)
    if view:
        mask[:, :2][x[:, :2] < 0] = 0
    else:
        mask[x < 0] = 0
    return mask


RELUS: dict[str, Activation] = {
    "x * (x > 0)": lambda x: x * (x > 0),
    "(x > 0) * x": lambda x: (x > 0) * x,
    "x * (x >= 0.0)": lambda x: x * (x >= 0.0),
    "x * ~(x <= 0)": lambda x: x * ~(x <= 0),
    "x * x.gt(0).float()": lambda x: x * x.gt(0).float(),
    "x * (x > 0).double().detach()": lambda x: x * (x > 0).double().detach(),
    "x * (x > zeros_like(x))": lambda x: x * (x > torch.zeros_like(x)),
    "x * (x.data > 0)": lambda x: x * (x.data > 0),
    "times_converted_mask": times_converted_mask,
    "times_late_mask": times_late_mask,
    "multiplied_in_place": multiplied_in_place,
    "where(x > 0, x, 0)": lambda x: torch.where(x > 0, x, 0),
    "where(x > 0, x, zeros_like(x))": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where(x < 0, 0, x)": lambda x: torch.where(x < 0, 0.0, x),
    "x.where(x > 0, 0)": lambda x: x.where(x > 0, 0),
    "x.masked_fill(x < 0, 0)": lambda x: x.masked_fill(x < 0, 0),
    "maximum(x, 0)": lambda x: torch.maximum(x, x.new_zeros(1)),
    "max(x, zeros_like(x))": lambda x: torch.max(x, torch.zeros_like(x)),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "clamp": lambda x: x.clamp(min=0),
    "mask of a custom function": lambda x: x * SignMask.apply(x),
}
REFUSED: dict[str, tuple[Activation, str]] = {
    "x * (x > 0.1)": (lambda x: x * (x > 0.1), "mul"),
    "x * (x < 0)": (lambda x: x * (x < 0), "mul"),
    "x * (x > 0) of x + 1": (lambda x: x * (x + 1 > 0), "mul"),
    "mask of another tensor, all ones": (lambda x: x.relu() * (x.detach().abs() + 1 > 0), "mul"),
    "mask of another limit, all ones": (lambda x: (h := x.relu()) * (h < 100), "mul"),
    "x - x * (x < 0)": (lambda x: x - x * (x < 0), "mul"),
    "x * (x > 0) * (x < 6)": (lambda x: x * ((x > 0) & (x < 6)), "mul"),
    "x / (1 + |x|) detached": (lambda x: x / (1 + x.detach().abs()), "div"),
    "x * sigmoid(x).detach()": (lambda x: x * torch.sigmoid(x).detach(), "mul"),
    "x * sigmoid(x) without gradient": (lambda x: x * gate_without_gradient(x), "mul"),
    "x + clamped": (lambda x: x + (x.clamp(min=0) - x).detach(), "add"),
    "x * sum(x) > 0": (lambda x: x * (x.sum(dim=1, keepdim=True) > 0), "mul"),
    "mask of all entries": (lambda x: x * (x.mean() > 0), "mul"),
    "mask written in place": (lambda x: x * written_mask(x), "mul"),
    "mask through a view": (lambda x: x * written_mask(x, view=True), "mul"),
    "shift by the detached mean": (lambda x: x - x.mean(dim=(2, 3), keepdim=True).detach(), "sub"),
    "channels chosen by the image": (lambda x: x[:, x[0].detach().mean(dim=(1, 2)).argsort()], "__getitem__"),
    "joined with its copy": (lambda x: torch.cat([x, x.detach()], dim=1)[:, ::2], "cat"),
    "weights of the image": (
        lambda x: F.conv2d(x, torch.ones(x.shape[1], x.shape[1], 1, 1).to(x) * x.detach().max()),
        "conv2d",
    ),
    "scripted mask": (lambda x: x * scripted_mask(x), "mul"),
    "masked_fill(x > 1, 1)": (lambda x: x.masked_fill(x > 1, 1), "masked_fill"),
}
MESSAGE = (
    "{method} has no rule for {operation} in the model with a mask or a detached value that depends on the image; use torch.relu if the "
    "mask is a ReLU, otherwise use saliency, integrated-gradients or uniform-fullgrad, which support any model"
)


def classifier_with(activation: Activation, seed: int = 0) -> xplain.Classifier:
    """Return a network of two convolutions with the activation, pooling and a linear layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) / 4

    first, second, head = draw(4, 3, 3, 3), draw(6, 4, 3, 3), draw(5, 6)
    biases = draw(4), draw(6), draw(5)

    def function(x: Tensor) -> Tensor:
        x = F.max_pool2d(activation(F.conv2d(x, first, biases[0], padding=1)), 2)
        return F.linear(activation(F.conv2d(x, second, biases[1])).mean((2, 3)), head, biases[2])

    return toys.classifier(toys.Function(function))


def attribute(classifier: xplain.Classifier, method: str) -> Tensor:
    name, options = ALL_METHODS[method]
    return xplain.attribute(classifier, toys.images(2), name, target=torch.tensor([1, 3]), **options).values


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return {method: attribute(classifier_with(torch.relu), method) for method in METHODS}


@pytest.mark.parametrize("name", RELUS)
def test_handwritten_relu_equals_relu(name, expected):
    classifier = classifier_with(RELUS[name])
    for method, values in expected.items():
        assert float(values.abs().max()) > 0
        difference = (attribute(classifier, method) - values).abs().max()
        assert float(difference) <= 1e-12 * float(values.abs().max()), method


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_and_detached_gates_are_refused(name):
    activation, operation = REFUSED[name]
    classifier = classifier_with(activation)
    for method in ("deeplift", "lrp"):
        with pytest.raises(UsageError) as error:
            attribute(classifier, method)
        assert str(error.value) == MESSAGE.format(method=method, operation=operation)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("item", lambda x: x.mean().item()),
        ("__float__", lambda x: float(x.detach().max())),
        ("tolist", lambda x: x.flatten().tolist()[0]),
        ("numpy", lambda x: torch.from_numpy(x.detach().numpy()).mean()),
    ],
)
def test_python_values_of_the_image_are_refused(name, read):
    classifier = classifier_with(lambda x: x.relu() * read(x))
    with pytest.raises(UsageError) as error:
        attribute(classifier, "lrp")
    assert str(error.value) == (
        f"lrp cannot follow {name} of a tensor that depends on the image, in the model; "
        "use saliency, integrated-gradients or uniform-fullgrad, which support any model"
    )


class Excited(nn.Module):
    """A convolution with a squeeze-and-excitation gate, with or without a gradient."""

    def __init__(self, *, is_detached: bool) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), nn.Linear(2, 8)
        self.head = nn.Linear(8, 5)
        self.is_detached = is_detached

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[..., None, None]
        return self.head((x * (gate.detach() if self.is_detached else gate)).mean((2, 3)))


def test_squeeze_and_excitation_needs_the_gradient_of_its_gate():
    torch.manual_seed(0)
    attached = Excited(is_detached=False).double()
    detached = Excited(is_detached=True).double()
    detached.load_state_dict(attached.state_dict())
    result = xplain.attribute(toys.classifier(attached), toys.images(2), "deeplift", target=1)
    assert float((result.gap / result.expected).abs().max()) < 1e-12
    for method in ("deeplift", "lrp"):
        with pytest.raises(UsageError) as error:
            xplain.attribute(toys.classifier(detached), toys.images(2), method, target=1)
        assert str(error.value) == MESSAGE.format(method=method, operation="mul")


def test_masks_that_do_not_depend_on_the_image_are_constants(expected):
    """Masks that are made like a tensor of the image, but not of its values, and dropout in evaluation mode."""
    constant = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None]

    def masked(x: Tensor) -> Tensor:
        mask = torch.ones_like(x)
        mask[:, 2] = 0
        return F.dropout2d(x.relu(), training=False) * mask * (torch.rand_like(x) < 2)

    def twin(x: Tensor) -> Tensor:
        full = constant if x.shape[1] == 4 else F.pad(constant, (0, 0, 0, 0, 0, 2), value=1.0)
        return x.relu() * full

    for method in ("deeplift", "lrp"):
        values = attribute(classifier_with(masked), method)
        assert torch.equal(values, attribute(classifier_with(twin), method))
        assert not torch.equal(values, expected[method])


def test_random_mask_is_refused():
    classifier = classifier_with(lambda x: x.relu() * (torch.rand_like(x) > 0.5))
    with pytest.raises(UsageError, match=r"^lrp requires a model that returns the same logits in every call"):
        attribute(classifier, "lrp")


@pytest.mark.parametrize("last", ["softmax", "sigmoid"])
def test_handwritten_activation_at_the_end_is_refused(last):
    ends = {"softmax": lambda z: z.exp() / z.exp().sum(1, keepdim=True), "sigmoid": lambda z: 1 / (1 + (-z).exp())}
    model = classifier_with(torch.relu).model
    classifier = toys.classifier(toys.Function(lambda x: ends[last](model(x))))
    for method in ("lrp", "deeplift", "deep-taylor"):
        with pytest.raises(UsageError, match=rf"^{method} has no rule for exp in the model; use "):
            attribute(classifier, method)


class RandomNet(nn.Module):
    """A random network of convolutions, pooling and residual additions, with one of the ways to write each ReLU.

    The layers depend on the seed only. names: how to write the ReLUs, drawn by the seed; empty: modules.
    """

    def __init__(self, seed: int, *, by_hand: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def pick(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        self.kinds = [("conv", "residual", "pool")[pick(3)] for _ in range(3 + pick(3))]
        names = list(RELUS)
        self.names = [names[pick(len(names))] for _ in range(2 * len(self.kinds))]
        self.by_hand = by_hand
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.convs = nn.ModuleList([nn.Conv2d(6, 6, 3, padding=1) for _ in self.kinds])
            self.head = nn.Linear(6, 5)
        self.act = nn.ReLU()

    def relu(self, x: Tensor, k: int) -> Tensor:
        return RELUS[self.names[k]](x) if self.by_hand else self.act(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for k, (kind, conv) in enumerate(zip(self.kinds, self.convs, strict=True)):
            match kind:
                case "conv":
                    x = conv(self.relu(x, k))
                case "residual":
                    x = self.relu(x, k) + self.relu(conv(x), len(self.kinds) + k)
                case "pool":
                    x = nn.functional.max_pool2d(self.relu(conv(x), k), 2, stride=1)
        return self.head(self.relu(x, len(self.kinds)).mean((2, 3)))


@pytest.mark.parametrize("seed", range(5))
def test_random_network_equals_its_twin_of_modules(seed):
    by_hand, modules = (toys.classifier(RandomNet(seed, by_hand=flag).double()) for flag in (True, False))
    for method in ALL_METHODS:
        values = attribute(modules, method)
        difference = float((attribute(by_hand, method) - values).abs().max())
        assert difference <= 1e-12 * float(values.abs().max()), method


@pytest.mark.parametrize("seed", range(3))
def test_random_network_with_one_detached_gate_is_refused(seed):
    net = RandomNet(seed, by_hand=True).double()
    names = list(REFUSED)
    activation, operation = REFUSED[names[seed * 5 % len(names)]]
    used = net.relu
    net.relu = lambda x, k: activation(x) if k == len(net.kinds) else used(x, k)
    with pytest.raises(UsageError) as error:
        attribute(toys.classifier(net), "deep-taylor")
    assert str(error.value) == MESSAGE.format(method="deep-taylor", operation=operation)
