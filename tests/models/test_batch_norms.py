"""Batch norms in front of tokens: the gradient of one image is that of the image in a batch, in every precision."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import ModelNote
from xplain.data.preprocessing import Preprocessing
from xplain.models.batch_norms import protect_norms

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}


class Tokens(nn.Module):
    """A convolution, a norm, and the mean of the tokens that are made of its output."""

    size = 16

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), norm, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(tokens.tanh().mean(dim=1))


class ScaledNorm(nn.BatchNorm2d):
    """A subclass with its own forward pass, as timm's are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Renamed(nn.BatchNorm2d):
    """A subclass that changes nothing."""


def make(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    network = Tokens(norm)
    if getattr(norm, "running_var", None) is not None:
        norm.running_var.uniform_(0.5, 1.5)
        norm.running_mean.uniform_(-0.5, 0.5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


NORMS = {
    "batch norm": lambda: nn.BatchNorm2d(8),
    "subclass": lambda: Renamed(8),
    "subclass with forward": lambda: ScaledNorm(8),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
}


def gradient(network: nn.Module, images: Tensor) -> Tensor:
    x = images.clone().requires_grad_()
    return torch.autograd.grad(network(x)[:, 1].sum(), x)[0]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def test_torch_gradient_of_one_row_is_wrong():
    """If this fails, torch has been repaired, and the protection can go."""
    network, x = make(nn.BatchNorm2d(8)), toys.images(2, 16, 16).float()
    assert relative_error(gradient(network, x[:1]), gradient(network, x)[:1]) > 0.5


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", list(NORMS))
def test_protected_norm_gradient_of_one_row(kind, dtype):
    network, x = make(NORMS[kind]()).to(dtype), toys.images(2, 16, 16).to(dtype)
    expected = gradient(network, x)
    protect_norms(network)
    assert relative_error(gradient(network, x[:1]), expected[:1]) < TOLERANCE[dtype]
    assert torch.equal(gradient(network, x), expected)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", list(NORMS))
@pytest.mark.parametrize(
    ("method", "options"), [("saliency", {}), ("integrated-gradients", {"steps": 1}), ("layer-cam", {"layer": "conv"})]
)
def test_attribution_of_one_image_equals_exact_batch(kind, dtype, method, options):
    network, x = make(NORMS[kind]()).to(dtype), toys.images(2, 16, 16)
    classifier = xplain.Classifier(network, name="toy", preprocessing=Preprocessing((16, 16), 16))
    alone = xplain.attribute(classifier, x[:1], method, target=1, **options).values
    exact = xplain.Classifier(copy.deepcopy(network).double(), name="toy", preprocessing=Preprocessing((16, 16), 16))
    among = xplain.attribute(exact, x.to(dtype).double(), method, target=1, **options).values[:1]
    assert relative_error(alone, among) < 2 * TOLERANCE[dtype]


class Images(nn.Module):
    """A norm of tokens that were rearranged to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Linear(12, 8), nn.BatchNorm2d(8)
        self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        row_stride = 8 if len(x) == 1 else 512  # as torch's reshapes leave it
        images = tokens.as_strided((len(x), 8, 8, 8), (row_stride, 1, 64, 8))
        return self.norm(images).square().mean(dim=(2, 3))


def test_protected_norm_input_of_one_row():
    torch.manual_seed(0)
    network, x = Images().eval(), toys.images(2, 16, 16).float()
    expected = gradient(network, x)
    protect_norms(network)
    assert relative_error(gradient(network, x[:1]), expected[:1]) < 1e-5


class Functional(Tokens):
    """``Tokens`` with the function instead of the module, which cannot be protected."""

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        y = F.batch_norm(self.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return self.head(y.flatten(2).transpose(1, 2).tanh().mean(dim=1))


def test_wrong_gradient_of_one_row_is_found():
    torch.manual_seed(0)
    network, x = Functional(nn.BatchNorm2d(8)).eval(), toys.images(2, 16, 16).float()
    network.norm.running_var.uniform_(0.5, 1.5)
    nn.init.uniform_(network.norm.weight, 0.5, 1.5)
    expected = gradient(network, x)
    with pytest.warns(ModelNote, match="the gradient of an image alone differs from its gradient in a batch"):
        classifier = xplain.load_classifier(network, "cpu")
    assert classifier.checks.describe() == {"needs_two_rows": True}
    alone = xplain.attribute(classifier, x[:1], "saliency", target=1)
    assert relative_error(alone.values, expected[:1]) < 1e-5
    assert (alone.values.shape, alone.cost.forwards) == ((1, 3, 16, 16), 2)


def test_protect_norms_keeps_names_and_types():
    network = make(ScaledNorm(8))
    expected = network(toys.images(1, 16, 16).float())
    protect_norms(network)
    protect_norms(network)
    assert isinstance(network.norm, ScaledNorm)
    assert type(network.norm).__name__ == "ScaledNorm"
    assert torch.equal(network(toys.images(1, 16, 16).float()), expected)


def test_unused_norm_output_has_no_gradient():
    network = make(nn.BatchNorm2d(8))
    protect_norms(network)
    x = toys.images(1, 16, 16).float().requires_grad_()
    network.norm(network.conv(x))
    dead = torch.ops.aten.detach(network.norm(network.conv(x))).sum() + x.sum()
    assert torch.equal(torch.autograd.grad(dead, x)[0], torch.ones_like(x))
