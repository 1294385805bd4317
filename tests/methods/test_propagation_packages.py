"""DeepLIFT and AttnLRP against tangermeme and lxt, if they are installed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.data.preprocessing import Preprocessing


class Attention(nn.Module):
    """A block of attention and a perceptron on the columns of (B, 4, N), from modules that packages hook.

    The weights are sigmoids: tangermeme's softmax has other multipliers, of the logarithms, than the steps exp and division.
    """

    def __init__(self, product: type[nn.Module]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embed, self.first = nn.Linear(4, 6), nn.LayerNorm(6)
            self.query, self.key, self.value = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.scores, self.squash, self.mix = product(), nn.Sigmoid(), product()
            self.second, self.up, self.act, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)
            self.third, self.head = nn.LayerNorm(6), nn.Linear(6, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        z = self.first(x)
        weights = self.squash(self.scores(self.query(z), self.key(z).transpose(1, 2)))
        x = x + self.mix(weights, self.value(z))
        x = x + self.down(self.act(self.up(self.second(x))))
        return self.head(self.third(x).mean(dim=1))


class Product(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first @ second


def one_hot_columns(count: int = 2, length: int = 5) -> Tensor:
    indices = torch.randint(4, (count, length), generator=torch.Generator().manual_seed(1))
    return nn.functional.one_hot(indices, 4).transpose(1, 2).double()


def test_deeplift_equals_tangermeme():
    package = pytest.importorskip("tangermeme.deep_lift_shap")
    x = one_hot_columns()
    theirs = package.deep_lift_shap(
        Attention(package.BilinearOp),
        x,
        target=1,
        references=torch.zeros_like(x)[:, None],
        device="cpu",
        dtype=torch.float64,
    )
    classifier = toys.classifier(
        Attention(Product), mean=(0.0,) * 4, std=(1.0,) * 4, preprocessing=Preprocessing(size=(1, 5))
    )
    ours = xplain.attribute(classifier, x[:, :, None], "deeplift", target=1)
    toys.assert_same(ours.values[:, :, 0], theirs.detach(), rtol=1e-8)
    assert float(ours.values.abs().max()) > 1e-2


@pytest.mark.parametrize("rule", ["attn-lrp", "zero"])
def test_attn_lrp_equals_lxt(rule):
    """The explicit rules of linear layers, products of matrices and softmaxes."""
    package = pytest.importorskip("lxt.explicit.functional")
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(3, 3, dtype=torch.float64, generator=generator) for _ in "qkv"]
    x = toys.images(2, 3, 4)

    def attend(x: Tensor, linear, product, softmax) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        query, key, value = (linear(tokens, weight) for weight in weights)
        return product(softmax(product(query, key.transpose(1, 2)), -1), value)[:, 2]

    leaf = x.clone().requires_grad_()
    output = attend(
        leaf,
        lambda a, w: package.linear_epsilon(a, w, None, 1e-9),
        lambda a, b: package.matmul(a, b, False, 1e-9),
        package.softmax,
    )
    start = torch.zeros_like(output)
    start[:, 1] = output.detach()[:, 1]
    (theirs,) = torch.autograd.grad(output, leaf, start)
    model = toys.Function(lambda x: attend(x, nn.functional.linear, torch.matmul, torch.softmax))
    classifier = toys.classifier(model, mean=(0.0,) * 3, std=(1.0,) * 3, preprocessing=Preprocessing(size=(3, 4)))
    ours = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, gamma=0.0).values
    toys.assert_same(ours, theirs, rtol=1e-5)
    assert float(theirs.abs().max()) > 1e-2
