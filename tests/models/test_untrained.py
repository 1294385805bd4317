"""Untrained weights: the same at every call, with activations of moderate size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xplain
from xplain.core.errors import UsageError
from xplain.models.checkpoints import hash_tensors


def test_an_untrained_network_is_the_same_at_every_call_and_changes_no_random_state():
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
def test_its_probabilities_are_not_saturated(name):
    made = xplain.load_classifier(name, "cpu", "random")
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    probabilities = made(x).softmax(dim=1)
    assert 1e-3 < float(probabilities.detach().max()) < 0.5
    (gradient,) = torch.autograd.grad(probabilities.amax(), x)
    assert float(gradient.abs().max()) > 1e-8


@pytest.mark.parametrize("name", ["vit_b_32", "timm:mixer_s32_224"])
def test_a_head_that_begins_as_zeros_is_drawn(name):
    """Its logits depend on the image, and its weights are recorded as they are."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    made = xplain.load_classifier(name, "cpu", "random")
    x = torch.rand(1, 3, *made.size, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(made(x)[0].amax(), x)
    assert float(gradient.abs().max()) > 1e-6
    assert made.weights.sha256 == hash_tensors(made.model)


def test_modules_keep_their_own_weights():
    with pytest.raises(UsageError, match="leave --weights random to models by name"):
        xplain.load_classifier(nn.Linear(3, 2), "cpu", "random")
