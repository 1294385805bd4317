"""Logits of rewritten forward passes: the tolerance, and the refusals of models that are random or change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.oracle.same_logits import has_same_logits

LOGITS = torch.tensor([[2.0, -4.0, 0.5]], dtype=torch.float64)
RANDOM = "requires a model that returns the same logits in every call, but the model is random in evaluation mode"
HINT = "use F.dropout with training=self.training, or use saliency, integrated-gradients or rise"


@pytest.mark.parametrize("scale", [1.0, 0.01])  # the tolerance is relative to the largest logit, or to 1
@pytest.mark.parametrize(
    ("dtype", "loose", "tolerance"),
    [
        (torch.float64, False, 1e-9),
        (torch.float32, False, 5e-3),
        (torch.float32, True, 5e-2),
        (torch.float64, True, 5e-2),
    ],
)
def test_tolerance_is_relative(dtype, loose, tolerance, scale):
    expected = (LOGITS * scale).to(dtype)
    limit = tolerance * max(4 * scale, 1)
    for factor, is_same in ((0.9, True), (-0.9, True), (1.1, False), (-1.1, False)):
        actual = expected.clone()
        actual[0, 2] += factor * limit
        assert has_same_logits(actual, expected, loose=loose) == is_same


@pytest.mark.parametrize("actual", [LOGITS[:, :2], LOGITS * torch.nan, LOGITS * torch.inf])
def test_other_shapes_and_infinity_differ(actual):
    assert not has_same_logits(actual, LOGITS, loose=True)


class RandomAttention(toys.Attend):
    """An attention with dropout in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.inner.in_proj_weight, self.inner.in_proj_bias)[:, None].chunk(3, dim=-1)
        return x + self.inner.out_proj(F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)[:, 0])


@pytest.mark.parametrize("method", ["attention-rollout", "attention-relevance", "legrad", "grad-eclip"])
def test_attention_methods_refuse_random_models(method):
    net = toys.token_net()
    net.blocks = nn.Sequential(RandomAttention(12, 3, "fused"), RandomAttention(12, 3, "fused")).double().eval()
    classifier = toys.classifier(net, preprocessing=Preprocessing(size=(8, 10)))
    with pytest.raises(UsageError, match=f"^{method} {RANDOM}; {HINT}$"):
        xplain.attribute(classifier, toys.images(1), method)


class Noisy(nn.Module):
    """A network with dropout in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + 0.1 * torch.rand(1, dtype=x.dtype)


@pytest.mark.parametrize("method", ["lrp", "deeplift"])
def test_propagation_methods_refuse_random_models(method):
    classifier = toys.classifier(Noisy().eval(), preprocessing=Preprocessing(size=(8, 10)))
    with pytest.raises(UsageError, match=f"^{method} {RANDOM}; {HINT}$"):
        xplain.attribute(classifier, toys.images(1), method)
