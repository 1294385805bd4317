"""Randomizing the layers of a classifier, and untrained weights."""

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


def make_classifier():
    return toys.classifier(toys.small_net(2))


def changed_names(copied, trained) -> list[str]:
    """Return the names of the parameters and buffers that differ."""
    before = trained.state_dict()
    return [
        name.removeprefix("model.")
        for name, tensor in copied.state_dict().items()
        if not torch.equal(tensor, before[name])
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
    trained = make_classifier()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    random_state = torch.get_rng_state()
    copies = randomize_layers(trained, LAYERS, 0, stages, cascade=cascade)
    assert [changed_names(copied, trained) for copied in copies] == expected
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_randomize_layers_draw_is_reproducible():
    trained = make_classifier()
    cascading = list(randomize_layers(trained, LAYERS, 5, 3, cascade=True))
    independent = list(randomize_layers(trained, LAYERS, 5, 3, cascade=False))
    other_seed = list(randomize_layers(trained, LAYERS, 6, 3, cascade=True))
    assert torch.equal(cascading[2].model.conv2.weight, cascading[1].model.conv2.weight)
    assert torch.equal(cascading[2].model.conv2.weight, independent[1].model.conv2.weight)
    assert not torch.equal(cascading[2].model.conv2.weight, other_seed[2].model.conv2.weight)
    twins = toys.classifier(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double())
    (copied,) = randomize_layers(twins, [("0",), ("1",)], 0, 1, cascade=True)
    assert not torch.equal(copied.model[0].weight, copied.model[1].weight)


def test_reinitialize_uses_reset_parameters():
    conv, norm = nn.Conv2d(3, 50, 3), nn.BatchNorm2d(4)
    for tensor in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.fill_(7.0)
    norm.num_batches_tracked += 3
    reinitialize(conv, 0)
    reinitialize(norm, 0)
    bound = 27**-0.5  # uniform up to 1 / sqrt(fan_in)
    assert 0.98 * bound < conv.weight.detach().abs().max().item() <= bound
    assert 0.8 * bound < conv.bias.detach().abs().max().item() <= bound
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([1] * 4, [0] * 4)
    assert (norm.running_mean.tolist(), norm.running_var.tolist()) == ([7] * 4, [7] * 4)
    assert int(norm.num_batches_tracked) == 3


class CustomReset(nn.Module):
    """A module with a parameter and a child, whose ``reset_parameters`` changes the child only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(1, 3, 10_000))
        self.child = nn.Linear(2, 2)

    def reset_parameters(self) -> None:
        self.child.reset_parameters()


def test_reinitialize_keeps_mean_and_std():
    module = CustomReset()
    scale, child = module.scale.detach().clone(), module.child.weight.detach().clone()
    reinitialize(module, 0)
    assert not torch.equal(module.scale, scale)
    assert module.scale.detach().mean().item() == pytest.approx(2, abs=0.03)
    assert module.scale.detach().std().item() == pytest.approx(float(scale.std()), rel=0.03)
    assert torch.equal(module.child.weight, child)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.weight_norm])
def test_randomize_layers_with_weight_norm(wrap):
    trained = toys.classifier(nn.Sequential(wrap(nn.Conv2d(3, 2, 1)), nn.Flatten(), nn.Linear(160, 2)).double())
    x: Tensor = X[:1]
    trained(x)
    before = [x.detach().clone() for x in trained.model[0].parameters()]
    names = [name for name, _ in trained.model.named_modules() if name == "0" or name.endswith("weight")]
    (copied,) = randomize_layers(trained, [tuple(names)], 0, 1, cascade=True)
    copied(x)
    after = list(copied.model[0].parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_randomized_copies_can_be_folded():
    for copied in randomize_layers(make_classifier(), LAYERS, 0, 3, cascade=True):
        optimized = optimize_for_inference(copied)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in optimized.modules())
        toys.assert_same(optimized(X).detach(), copied(X).detach())


def test_randomized_copies_are_freed():
    trained = make_classifier()
    inference_copy(trained)
    gc.collect()  # free the copies of other tests
    count = len(_COPIES)
    references = []
    for copied in randomize_layers(trained, LAYERS, 0, 3, cascade=True):
        references += [
            weakref.ref(copied),
            weakref.ref(inference_copy(copied)),
            weakref.ref(inference_copy(copied, fold=False)),
        ]
    del copied
    gc.collect()
    assert [reference() for reference in references] == [None] * 9
    assert len(_COPIES) == count


def test_untrained_model_is_reproducible():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = xplain.load_classifier("mobilenet_v3_small", "cpu", "random")
    second = xplain.load_classifier("mobilenet_v3_small", "cpu", "random")
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights.source == "random"
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not any(module.training for module in first.modules())
    assert {module.momentum for module in first.modules() if isinstance(module, nn.BatchNorm2d)} == {0.01}


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18"])
def test_untrained_model_is_not_saturated(name):
    classifier = xplain.load_classifier(name, "cpu", "random")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    probabilities = classifier(x).softmax(dim=1)
    assert 1e-3 < float(probabilities.detach().max()) < 0.5
    (gradient,) = torch.autograd.grad(probabilities.amax(), x)
    assert float(gradient.abs().max()) > 1e-8


@pytest.mark.parametrize("name", ["vit_b_32", "timm:mixer_s32_224"])
def test_untrained_zero_head_is_drawn(name):
    """The logits depend on the image, and the recorded hash is that of the drawn weights."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    classifier = xplain.load_classifier(name, "cpu", "random")
    x = torch.rand(1, 3, *classifier.size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(classifier(x)[0].amax(), x)
    assert float(gradient.abs().max()) > 1e-6
    assert classifier.weights.sha256 == hash_tensors(classifier.model)


def test_random_weights_reject_modules():
    with pytest.raises(UsageError, match="'Linear' does not support --weights random"):
        xplain.load_classifier(nn.Linear(3, 2), "cpu", "random")
