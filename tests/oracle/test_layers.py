"""Activations of a layer and the score's gradients there."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import toys
from tests.oracle.helpers import is_close, make_seeded, small_classifier
from xplain.core.errors import UsageError
from xplain.core.types import Cost
from xplain.data.preprocessing import Preprocessing
from xplain.models.optimize import inference_copy
from xplain.oracle import Oracle
from xplain.oracle.layers import probe_layer, weighted_layers

X = toys.images(2)
Y = torch.tensor([3, 1])


def test_probe_gives_activations_and_gradients():
    net = toys.small_net()
    result = probe_layer(Oracle(toys.classifier(net), score="prob"), X, Y, "conv2")
    before = net.pool(net.act1(net.norm1(net.conv1(X))))
    layer = net.conv2(before).detach().requires_grad_()
    probability = net.head(net.act2(layer).mean(dim=(2, 3))).softmax(dim=1)
    (expected,) = torch.autograd.grad(probability[[0, 1], Y].sum(), layer)
    assert is_close(result.activations, layer.detach())
    assert (result.gradients - expected).abs().max() < 1e-15
    assert result.layer == "conv2"


def test_oracle_probe_is_probe_layer():
    model = small_classifier()
    method, function = Oracle(model).probe(X, Y, "conv2"), probe_layer(Oracle(model), X, Y, "conv2")
    assert torch.equal(method.activations, function.activations)
    assert torch.equal(method.gradients, function.gradients)


def test_probe_finds_last_spatial_layer():
    result = Oracle(small_classifier()).probe(X, Y)
    assert result.layer == "act2"
    assert result.activations.min() == 0


def test_probe_does_not_fold_norms():
    net = toys.small_net()
    result = Oracle(toys.classifier(net)).probe(X, Y, "norm1")
    assert is_close(result.activations, net.norm1(net.conv1(X)).detach())
    assert not is_close(net.conv1(X), net.norm1(net.conv1(X)))
    assert is_close(Oracle(toys.classifier(net)).probe(X, Y, "conv1").activations, net.conv1(X))


def test_probe_uses_contrast_classes():
    against = torch.tensor([[0], [2]])
    model = small_classifier()
    targets = Oracle(model).probe(X, Y, "conv2").gradients
    contrasts = Oracle(model).probe(X, against[:, 0], "conv2").gradients
    result = Oracle(model, against=against).probe(X, Y, "conv2").gradients
    assert is_close(result, targets - contrasts, 1e-15)


class Repeated(nn.Module):
    """A layer that runs twice, and one whose output is modified in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1).double()
        self.other = nn.Conv2d(3, 3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.conv(self.conv(x)))
        x += 1
        return (x**2).mean(dim=(2, 3))


def test_repeated_layer_is_read_at_last_run():
    net, y = make_seeded(Repeated), torch.tensor([0, 1])
    result = Oracle(toys.classifier(net)).probe(X, y, "conv")
    layer = net.conv(net.conv(X)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(((net.other(layer) + 1) ** 2).mean(dim=(2, 3))[[0, 1], y].sum(), layer)
    assert is_close(result.activations, layer.detach())
    assert (result.gradients - expected).abs().max() < 1e-15


def test_output_is_read_before_in_place_change():
    net, y = make_seeded(Repeated), torch.tensor([0, 1])
    result = Oracle(toys.classifier(net)).probe(X, y, "other")
    assert is_close(result.activations, net.other(net.conv(net.conv(X))).detach())


def test_unknown_layer_suggests_names():
    for layer, hint in (
        ("conv3", "did you mean 'conv"),
        ("zzzzzz", "use a name such as 'act1' or 'pool' or 'conv2' or 'act2'; "),
    ):
        with pytest.raises(UsageError) as error:
            Oracle(small_classifier()).probe(X, Y, layer)
        assert str(error.value).startswith(f"the model has no layer {layer!r}; {hint}")


def test_empty_layer_name_is_refused():
    with pytest.raises(UsageError) as error:
        Oracle(small_classifier()).probe(X, Y, "")
    assert str(error.value) == (
        "the model has no layer ''; use a name such as 'act1' or 'pool' or 'conv2' or 'act2'; "
        '"xplain list layers" lists all'
    )


def test_layer_without_space_is_refused():
    with pytest.raises(UsageError, match="layer 'head' has no spatial output"):
        Oracle(small_classifier()).probe(X, Y, "head")


class Unused(nn.Module):
    """A layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net()
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_unused_layer_is_refused():
    with pytest.raises(UsageError, match="layer 'unused'"):
        Oracle(toys.classifier(make_seeded(Unused))).probe(X, Y, "unused")


class DeadEnd(nn.Module):
    """A spatial layer on which the logits do not depend."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net()
        self.dead_end = nn.Conv2d(3, 3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        self.dead_end(x)
        return self.net(x)


def test_layer_without_influence_is_refused():
    with pytest.raises(UsageError, match="the score does not depend on layer 'dead_end'"):
        Oracle(toys.classifier(make_seeded(DeadEnd))).probe(X, Y, "dead_end")


def count_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_probe_removes_hooks():
    model = small_classifier()
    oracle = Oracle(model)
    oracle.probe(X, Y)
    oracle.probe(X, Y, "conv2")
    with pytest.raises(UsageError):
        oracle.probe(X, Y, "head")
    with pytest.raises(RuntimeError, match="index 99"):
        oracle.probe(X, torch.tensor([3, 99]), "conv2")
    for fold in (True, False):
        assert count_hooks(inference_copy(model, fold=fold)) == 0
    assert count_hooks(model) == 0


def test_probe_removes_hooks_after_model_error():
    memory = {"limit": 100}

    class Raising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = toys.small_net()

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            if len(x) > memory["limit"]:
                raise KeyError("in the user's model")
            return out

    model = toys.classifier(Raising())
    oracle = Oracle(model)
    x, y = toys.images(3), torch.tensor([3, 1, 0])
    oracle.probe(x, y, "net.conv2")
    memory["limit"] = 2
    with pytest.raises(KeyError, match="in the user's model"):
        oracle.probe(x, y, "net.conv2")
    assert count_hooks(inference_copy(model, fold=False)) == 0
    assert oracle.probe(x[:2], y[:2], "net.conv2").activations.shape == (2, 12, 4, 5)


def test_probe_without_gradients_runs_no_backward():
    model, x, y = small_classifier(), toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    oracle = Oracle(model, images=5, batch_size=2)
    result = oracle.probe(x, y, "conv2", differentiate=False)
    assert result.gradients.shape == (5, 0, 4, 5)
    assert torch.equal(result.activations, Oracle(model).probe(x, y, "conv2").activations)
    assert oracle.cost == Cost(forwards=5, checks=1)
    assert oracle.image_rows.tolist() == [[1, 0]] * 5
    oracle.probe(x, y, "conv2")
    assert oracle.image_rows.tolist() == [[2, 1]] * 5


def test_probe_arranges_tokens_by_image_size():
    sizes = [(8, 10), (8, 6), (6, 10)]
    oracle = Oracle(toys.classifier(toys.token_net(), preprocessing=Preprocessing(size=sizes[0])))
    for (height, width), layer in product(sizes, ("blocks.1", "auto")):
        result = oracle.probe(toys.images(2, height, width), torch.tensor([0, 1]), layer)
        assert result.activations.shape == (2, 12, height // 2, width // 2)


def test_weighted_layers_follow_execution_order():
    oracle = Oracle(small_classifier())
    assert weighted_layers(oracle, X) == [("conv1", "norm1"), ("conv2",), ("head",)]
    assert oracle.cost == Cost(checks=1)
