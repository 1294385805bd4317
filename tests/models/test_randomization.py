"""Copies of a classifier that forget layer by layer, and nothing else."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.models.checkpoints import hash_tensors
from xplain.models.optimize import _COPIES, inference_copy, optimize_for_inference
from xplain.models.randomization import randomize_layers, reinitialize

LAYERS = [("conv1", "norm1"), ("conv2",), ("head",)]
X = toys.images(2)


def classifier():
    return toys.classifier(toys.small_net(2))


def changed(made, own) -> list[str]:
    """Which entries of the state differ."""
    before = own.state_dict()
    return [
        name.removeprefix("model.") for name, each in made.state_dict().items() if not torch.equal(each, before[name])
    ]


CONV1 = ["conv1.weight", "conv1.bias", "norm1.weight", "norm1.bias"]
CONV2 = ["conv2.weight", "conv2.bias"]
HEAD = ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("stages", "cascade", "expected"),
    [
        (3, True, [HEAD, CONV2 + HEAD, CONV1 + CONV2 + HEAD]),
        (3, False, [HEAD, CONV2, CONV1]),
        (2, True, [CONV2 + HEAD, CONV1 + CONV2 + HEAD]),
        (2, False, [CONV2 + HEAD, CONV1]),
        (1, True, [CONV1 + CONV2 + HEAD]),
    ],
)
def test_randomize_layers_changes_last_first(stages, cascade, expected):
    own = classifier()
    before = {name: each.clone() for name, each in own.state_dict().items()}
    random_state = torch.get_rng_state()
    assert [changed(each, own) for each in randomize_layers(own, LAYERS, 0, stages, cascade=cascade)] == expected
    assert all(torch.equal(each, before[name]) for name, each in own.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_randomize_layers_draw_is_reproducible():
    own = classifier()
    whole, again, other = (
        list(randomize_layers(own, LAYERS, seed, 3, cascade=cascade))
        for seed, cascade in ((5, True), (5, False), (6, True))
    )
    assert torch.equal(whole[2].model.conv2.weight, whole[1].model.conv2.weight)
    assert torch.equal(whole[2].model.conv2.weight, again[1].model.conv2.weight)
    assert not torch.equal(whole[2].model.conv2.weight, other[2].model.conv2.weight)
    twins = toys.classifier(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double())
    (made,) = randomize_layers(twins, [("0",), ("1",)], 0, 1, cascade=True)
    assert not torch.equal(made.model[0].weight, made.model[1].weight)


def test_reinitialize_uses_reset_parameters():
    conv, norm = nn.Conv2d(3, 50, 3), nn.BatchNorm2d(4)
    for tensor in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.fill_(7.0)
    norm.num_batches_tracked += 3
    reinitialize(conv, 0)
    reinitialize(norm, 0)
    bound = 27**-0.5  # uniform up to 1 / sqrt(values that go in)
    assert 0.98 * bound < conv.weight.detach().abs().max().item() <= bound
    assert 0.8 * bound < conv.bias.detach().abs().max().item() <= bound
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([1] * 4, [0] * 4)
    assert (norm.running_mean.tolist(), norm.running_var.tolist(), int(norm.num_batches_tracked)) == (
        [7] * 4,
        [7] * 4,
        3,
    )


class Own(nn.Module):
    """A parameter of its own, and an initialiser that would reach into a child."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(1, 3, 10_000))
        self.child = nn.Linear(2, 2)

    def reset_parameters(self) -> None:
        self.child.reset_parameters()


def test_reinitialize_keeps_mean_and_std():
    module = Own()
    scale, child = module.scale.detach().clone(), module.child.weight.detach().clone()
    reinitialize(module, 0)
    assert not torch.equal(module.scale, scale)
    assert module.scale.detach().mean().item() == pytest.approx(2, abs=0.03)
    assert module.scale.detach().std().item() == pytest.approx(float(scale.std()), rel=0.03)
    assert torch.equal(module.child.weight, child)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm])
def test_randomize_layers_with_weight_norm(wrap):
    own = toys.classifier(nn.Sequential(wrap(nn.Conv2d(3, 2, 1)), nn.Flatten(), nn.Linear(160, 2)).double())
    x: Tensor = X[:1]
    own(x)
    before = [x.detach().clone() for x in own.model[0].parameters()]
    names = [name for name, _ in own.model.named_modules() if name == "0" or name.endswith("weight")]
    (made,) = randomize_layers(own, [tuple(names)], 0, 1, cascade=True)
    made(x)
    after = list(made.model[0].parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_randomized_copies_can_be_folded():
    for made in randomize_layers(classifier(), LAYERS, 0, 3, cascade=True):
        ready = optimize_for_inference(made)
        assert not any(isinstance(each, nn.BatchNorm2d) for each in ready.modules())
        toys.assert_same(ready(X).detach(), made(X).detach())


def test_randomized_copies_are_freed():
    own = classifier()
    inference_copy(own)
    gc.collect()  # what other tests left is not counted
    kept = len(_COPIES)
    seen = []
    for made in randomize_layers(own, LAYERS, 0, 3, cascade=True):
        seen += [weakref.ref(made), weakref.ref(inference_copy(made)), weakref.ref(inference_copy(made, fold=False))]
    del made
    gc.collect()
    assert [each() for each in seen] == [None] * 9
    assert len(_COPIES) == kept


def test_untrained_model_is_reproducible():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (xplain.load_classifier("mobilenet_v3_small", "cpu", "random") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights.source == "random"
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not any(module.training for module in first.modules())
    assert {m.momentum for m in first.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18"])
def test_untrained_model_is_not_saturated(name):
    made = xplain.load_classifier(name, "cpu", "random")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    probabilities = made(x).softmax(dim=1)
    assert 1e-3 < float(probabilities.detach().max()) < 0.5
    (gradient,) = torch.autograd.grad(probabilities.amax(), x)
    assert float(gradient.abs().max()) > 1e-8


@pytest.mark.parametrize("name", ["vit_b_32", "timm:mixer_s32_224"])
def test_untrained_zero_head_is_drawn(name):
    """Its logits depend on the image, and its weights are recorded as they are."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    made = xplain.load_classifier(name, "cpu", "random")
    x = torch.rand(1, 3, *made.size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(made(x)[0].amax(), x)
    assert float(gradient.abs().max()) > 1e-6
    assert made.weights.sha256 == hash_tensors(made.model)


def test_random_weights_reject_modules():
    with pytest.raises(UsageError, match="'Linear' does not support --weights random"):
        xplain.load_classifier(nn.Linear(3, 2), "cpu", "random")
