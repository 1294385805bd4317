"""Wrappers, hooks, checkpoints and stored activations of a user's module, which is never changed."""

from __future__ import annotations

import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, ModelNote, XplainError
from xplain.core.registry import METHODS
from xplain.models.wrappers import check_usable
from xplain.pipelines.compatibility import minimal_settings

X = toys.images()
SIZE = (8, 10)


def load(network: nn.Module, **options) -> xplain.Classifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelNote)
        return xplain.load_classifier(network, device="cpu", **{"activation": "softmax"} | options)


def sized(network: nn.Module) -> nn.Module:
    network.size = SIZE
    return network


class Outer(nn.Module):
    """A module around another one."""

    def __init__(self, inner: nn.Module, wire=lambda outer, x: outer.inner(x)) -> None:
        super().__init__()
        self.inner, self.wire = inner, wire
        self.size = SIZE

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def compiled_in_place() -> nn.Module:
    network = toys.small_net()
    network.compile()
    return network


def compiled_forward() -> nn.Module:
    network = toys.small_net()
    network.forward = torch.compile(network.forward)
    return network


def patched_forward() -> nn.Module:
    """Return a network in training mode whose forward pass is a function that refers to it."""
    network = toys.small_net()
    forward = network.forward
    network.forward = lambda x: forward(x) + 0
    return network.train()


def forward_with_default() -> nn.Module:
    """Return a network whose forward pass is a function that refers to it by default arguments."""
    network = toys.small_net()

    def forward(x: Tensor, first=network.forward, *, head=network.head) -> Tensor:
        return first(x) + head.bias - head.bias

    network.forward = forward
    return network


WRAPPERS = {
    "data parallel": lambda: nn.DataParallel(toys.small_net()),
    "compiled": lambda: torch.compile(toys.small_net()),
    "compiled data parallel": lambda: torch.compile(nn.DataParallel(toys.small_net())),
    "average": lambda: torch.optim.swa_utils.AveragedModel(toys.small_net()),
    "inner data parallel": lambda: Outer(nn.DataParallel(toys.small_net())),
    "inner compiled": lambda: Outer(torch.compile(toys.small_net())),
    "compiled in place": compiled_in_place,
    "compiled forward": compiled_forward,
    "patched forward": patched_forward,
    "forward with default arguments": forward_with_default,
    "training mode": lambda: toys.small_net().train(),
}


@pytest.mark.parametrize("kind", list(WRAPPERS))
@pytest.mark.parametrize("method", ["saliency", "lrp", "grad-cam", "occlusion"])
def test_wrappers_are_looked_through(kind, method):
    expected = xplain.attribute(load(sized(toys.small_net())), X, method, target=1).values
    actual = xplain.attribute(load(sized(WRAPPERS[kind]())), X, method, target=1).values
    toys.assert_same(actual, expected)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: torch.compile(nn.DataParallel(net))])
def test_attributes_are_read_through_wrappers(wrap):
    network = sized(toys.small_net())
    network.mean, network.std, network.labels = [0.4, 0.5, 0.6], [0.2, 0.3, 0.2], list("abcde")
    plain, wrapped = load(network), load(wrap(network))
    assert (wrapped.size, wrapped.labels, wrapped.name) == (SIZE, list("abcde"), "SmallNet")
    assert torch.equal(wrapped(X), plain(X))


def test_outermost_attribute_is_used():
    network = sized(toys.small_net())
    network.mean = [0.1] * 3
    wrapper = nn.DataParallel(network)
    wrapper.mean = [0.4] * 3
    assert load(wrapper).mean.flatten().tolist() == [0.4] * 3


def test_attributes_are_printed_once():
    network = sized(toys.small_net())
    network.mean, network.labels = [0.4, 0.5, 0.6], list("abcde")
    with pytest.warns(ModelNote) as caught:
        classifier = xplain.load_classifier(network, device="cpu", activation="softmax")
    assert [str(warning.message) for warning in caught] == [
        "from the module: size 8 x 10; mean 0.4, 0.5, 0.6; 5 labels"
    ]
    assert classifier.notes == []


class Stored(nn.Module):
    """A network that keeps its activations, or hooks them, as tutorials of Grad-CAM do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3).double(), nn.Linear(8, 4).double()
        self.how, self.kept, self.size = how, {"list": [], "objects": {}}, SIZE

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).tanh()
        match self.how:
            case "attribute":
                self.h = h
            case "dict":
                self.kept["last"] = h
            case "nested":
                self.kept["list"].append((h, {"a": h}))
            case "object":
                self.kept["objects"] = SimpleNamespace(value=h)
            case "hook":
                h.register_hook(lambda gradient: None)
            case "retained":
                h.retain_grad()
        return self.head(h.mean(dim=(2, 3)))


@pytest.mark.parametrize("how", ["attribute", "dict", "nested", "object", "hook", "retained"])
def test_networks_that_keep_activations(how):
    torch.manual_seed(0)
    network = Stored(how)
    network(X)[0, 0].backward()
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    classifier = load(network)
    toys.assert_same(xplain.attribute(classifier, X, "saliency", target=1).values, expected)
    score = xplain.measure(classifier, X, expected, "deletion", target=1, steps=2)
    toys.assert_same(score.curve[:, 0], network(X).detach().softmax(dim=1)[:, 1])
    note = "the model hooks tensors in its forward pass; it is always run with gradients, which is slower"
    assert classifier.notes == ([note] if how in ("hook", "retained") else [])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", ["saliency", "lrp", "grad-cam", "guided-backprop", "agi"])
def test_checkpointed_blocks_run_once(reentrant, method):
    calls = []

    def run(outer: Outer, x: Tensor) -> Tensor:
        return checkpoint(lambda x: calls.append(len(x)) or outer.inner(x), x, use_reentrant=reentrant)

    options = {"steps": 2, "classes": 2} if method == "agi" else {}
    expected = xplain.attribute(load(sized(toys.small_net())), X, method, target=1, **options)
    classifier = load(Outer(toys.small_net(), run))
    calls.clear()
    actual = xplain.attribute(classifier, X, method, target=1, **options)
    toys.assert_same(actual.values, expected.values)
    reruns = sum(calls)
    x = X.clone().requires_grad_()
    torch.autograd.backward(Outer(toys.small_net(), run)(x).sum())
    assert sum(calls) == reruns + 2 * len(X)  # outside xplain, blocks run again in the backward pass


def test_silent_hooks_are_removed_from_the_copy():
    network, stored = sized(toys.small_net()), []
    network.conv1.register_forward_hook(lambda module, inputs, output: stored.append(output))
    network.conv1.register_full_backward_hook(lambda module, inner, outer: (inner[0] * 0,))
    expected = xplain.attribute(load(sized(toys.small_net())), X, "saliency", target=1).values
    classifier = load(network)
    seen = len(stored)
    assert torch.equal(xplain.attribute(classifier, X, "saliency", target=1).values, expected)
    assert (len(stored), classifier.notes) == (seen, [])
    assert (len(network.conv1._forward_hooks), len(network.conv1._backward_hooks)) == (1, 1)


def test_hooks_that_change_logits_are_kept():
    network = sized(toys.small_net())
    network.conv1.register_forward_hook(lambda module, inputs, output: output * 2)
    classifier = load(network)
    assert classifier.notes == ["hooks of the module change its logits, and are kept"]
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    toys.assert_same(xplain.attribute(classifier, X, "saliency", target=1).values, expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_hooks_of_torch_are_kept():
    network = sized(toys.small_net())
    nn.utils.weight_norm(network.conv1)
    classifier = load(network)
    with torch.no_grad():
        network.conv1.weight_g.mul_(2)
        expected = network(X)
    assert torch.equal(classifier(X), expected)


@pytest.mark.parametrize("change", ["in place", "data"])
def test_copy_follows_training(change):
    network = sized(toys.small_net())
    classifier = load(network)
    before = xplain.attribute(classifier, X, "saliency", target=1).values
    with torch.no_grad():
        if change == "in place":
            network.head.weight.mul_(2)
        else:
            network.head.weight.data.mul_(2)
    toys.assert_same(xplain.attribute(classifier, X, "saliency", target=1).values, 2 * before)


def describe(network: nn.Module) -> dict[str, object]:
    """Return all that xplain could change in a module."""
    state: dict[str, object] = {}
    for name, tensor in network.state_dict().items():
        state[f"bytes of {name}"] = tensor.detach().numpy().tobytes()
    for name, module in network.named_modules():
        tables = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        state[f"module {name}"] = (id(module), type(module), module.training, [list(table) for table in tables])
        state[f"attributes {name}"] = sorted(vars(module))
        state[f"inplace {name}"] = getattr(module, "inplace", None)
    for name, parameter in network.named_parameters():
        gradient = None if parameter.grad is None else parameter.grad.numpy().tobytes()
        state[f"parameter {name}"] = (
            id(parameter),
            parameter.requires_grad,
            gradient,
            parameter.stride(),
            parameter.data_ptr(),
        )
    state["random"] = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes())
    state["modes"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.backends.cudnn.enabled)
    state["checkpoint"] = torch.utils.checkpoint.CheckpointFunction
    return state


def make_used() -> nn.Module:
    """Return a network in training mode with gradients, hooks, a frozen parameter and dropout that is always on."""
    network = nn.Sequential(toys.small_net(), nn.ReLU(inplace=True), nn.Dropout(0.5))
    sized(network).train()
    network[0].norm1.eval()
    network[0].conv1.weight.requires_grad_(False)
    network(X).sum().backward()
    network[0].act2.register_forward_hook(lambda module, inputs, output: None)
    return network


@pytest.mark.parametrize("method", [spec.name for spec in METHODS])
def test_module_is_unchanged(method):
    network = make_used()
    before = describe(network)
    classifier = load(network)
    assert describe(network) == before
    try:
        xplain.attribute(classifier, X, method, **minimal_settings(METHODS.get(method), SIZE))
    except XplainError:
        assert method in ("attention-rollout", "attention-relevance", "legrad", "grad-eclip")
    assert describe(network) == before


@pytest.mark.parametrize("method", ["saliency", "lrp", "grad-cam", "occlusion", "agi"])
def test_module_is_unchanged_when_it_raises(method):
    network = make_used()
    is_broken, forward = False, network[0].forward

    def fail(x: Tensor) -> Tensor:
        if is_broken:
            torch.rand(1)
            torch.set_grad_enabled(False)
            raise RuntimeError("broken")
        return forward(x)

    network[0].forward = fail
    before = describe(network)
    classifier = load(network)
    is_broken = True
    with pytest.raises((XplainError, RuntimeError)):
        xplain.attribute(classifier, X, method)
    assert describe(network) == before


def test_weights_file_does_not_change_the_module(tmp_path):
    network = sized(toys.small_net())
    other = toys.small_net(seed=5)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    before = describe(network)
    classifier = load(network, weights=tmp_path / "weights.pt")
    assert describe(network) == before
    assert torch.equal(classifier(X), other(X))


def test_half_precision_is_run_in_float32():
    network = sized(toys.small_net().bfloat16())
    expected = toys.small_net().bfloat16().float()
    classifier = load(network)
    assert classifier.notes == ["the parameters are bfloat16; the model is run in float32"]
    assert network.head.weight.dtype == torch.bfloat16
    assert torch.equal(classifier(X.float()), expected(X.float()))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + meta


class Locked(Outer):
    def __init__(self) -> None:
        super().__init__(toys.small_net())
        self.lock = threading.Lock()


class FullyShardedDataParallel(nn.Module): ...


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            TwoInputs,
            "the forward pass of TwoInputs takes x and meta; wrap the model in a module that takes images only",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
            "layer '1' of Sequential is lazy and has no weights yet; run the model once on an image before",
        ),
        (
            Locked,
            "the model Locked cannot be copied (cannot pickle '_thread.lock' object); "
            "remove the attribute that cannot be copied by copy.deepcopy",
        ),
        (
            FullyShardedDataParallel,
            "the parameters of FullyShardedDataParallel are sharded; gather the model on one device first",
        ),
        (
            lambda: nn.DataParallel(nn.Linear(2, 2, device="meta")),
            "the model Linear is on the meta device and has no weights; create it on cpu or cuda",
        ),
    ],
)
def test_modules_that_cannot_be_used(make, message):
    with pytest.raises(InputError) as error:
        load(make())
    assert str(error.value) == message


def test_several_devices_are_refused():
    tensors = [SimpleNamespace(is_meta=False, device=device) for device in ("cuda:0", "cpu")]
    model = SimpleNamespace(parameters=lambda: tensors, buffers=list, modules=list, named_modules=list)
    with pytest.raises(InputError, match="the parameters of net are on cpu and cuda:0; load the model on one device"):
        check_usable(model, "net")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_in_place_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 4)).double().eval()
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    scripted = torch.jit.script(network)
    for given in (scripted, Outer(scripted)):
        toys.assert_same(xplain.attribute(load(given, image_size=None), X, "saliency", target=1).values, expected)


def test_exported_program_in_memory():
    network = toys.small_net()
    program = torch.export.export(network, (X,), dynamic_shapes=({0: torch.export.Dim("rows")},)).module()
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    toys.assert_same(xplain.attribute(load(sized(program)), X, "saliency", target=1).values, expected)


class Caching(nn.Module):
    """A linear layer that caches its doubled weights in evaluation mode, as LeViT caches its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.cache, self.size = nn.Linear(3, 4).double(), {}, SIZE

    def train(self, mode: bool = True) -> Caching:
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "weight" not in self.cache:
            self.cache["weight"] = self.linear.weight * 2
        return x.mean(dim=(2, 3)) @ self.cache["weight"].T


def test_cached_values_are_dropped():
    network = Caching().eval()
    network(X)
    classifier = load(network)
    before = xplain.attribute(classifier, X, "saliency", target=1).values
    with torch.no_grad():
        classifier.model.linear.weight.mul_(3)
    toys.assert_same(xplain.attribute(classifier, X, "saliency", target=1).values, 3 * before)
    toys.assert_same(before[0, :, 0, 0], 2 * network.linear.weight[1].detach() / 3 / 80)
