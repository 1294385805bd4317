"""Small models with attributions in closed form, and small random networks; all in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

import xplain
from xplain.data.preprocessing import Preprocessing

torch.set_num_threads(1)  # for tensors this small, threads only wait for each other

MEAN, STD = (0.45, 0.5, 0.4), (0.25, 0.2, 0.3)


class Linear(nn.Module):
    """Logits W x + b for images (B, C, H, W); ``weight`` (classes, C, H, W)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight) + self.bias


class Function(nn.Module):
    """A model whose logits are a function of the images; its parameter sets the type to float64."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Hidden(torch.autograd.Function):
    """The identity, by a custom function that propagation rules do not detect."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class SmallNet(nn.Module):
    """Convolution, batch norm, ReLU, max-pool, convolution, ReLU, mean, linear; evaluation statistics are not trivial."""

    def __init__(
        self, classes: int = 5, *, norm: bool = True, bias: bool = True, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.act1 = activation()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, bias=bias)
        self.act2 = activation()
        self.head = nn.Linear(12, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.norm1(self.conv1(x))))
        return self.head(self.act2(self.conv2(x)).mean(dim=(2, 3)))


class Attend(nn.Module):
    """A residual attention of tokens (B, N, K), in one of three common implementations; the third one stores its ``weights``."""

    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.norm = nn.LayerNorm(width)
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)
        self.weights = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(x)
        if self.kind == "module":
            return x + self.inner(z, z, z, need_weights=False)[0]
        q, k, v = nn.functional.linear(z, self.inner.in_proj_weight, self.inner.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (tensor.unflatten(2, (self.heads, -1)).transpose(1, 2) for tensor in (q, k, v))
        if self.kind == "fused":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            self.weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1)
            mixed = self.weights @ v
        return x + self.inner.out_proj(mixed.transpose(1, 2).flatten(2))


class TokenNet(nn.Module):
    """Convolutions to a grid of tokens, two attentions, and a linear head on the class token, or on the mean of the patches."""

    def __init__(self, classes: int = 5, *, kind: str = "fused", average: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.act1 = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.prefix = nn.Parameter(torch.randn(1, 2, 12))  # a class token and a register
        self.blocks = nn.Sequential(Attend(12, 3, kind), Attend(12, 3, kind))
        self.head = nn.Linear(12, classes)
        self.average = average

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv2(self.pool(self.act1(self.norm1(self.conv1(x))))).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.prefix.expand(len(x), -1, -1), patches], dim=1))
        return self.head(tokens[:, 2:].mean(dim=1) if self.average else tokens[:, 0])


def token_net(seed: int = 0, **options) -> nn.Module:
    """Return a TokenNet with random weights in float64; its queries and keys are large enough for uneven attention."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenNet(**options).double().eval()
        for block in model.blocks:
            block.inner.in_proj_weight.data *= 3
    return model


def small_net(seed: int = 0, *, scale: float = 3.0, **options) -> nn.Module:
    """Return a SmallNet with random weights in float64; ``scale`` spreads the logits, so that probabilities differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallNet(**options).double().eval()
        if isinstance(model.norm1, nn.BatchNorm2d):
            for tensor in (model.norm1.running_mean, model.norm1.bias.data):
                tensor.normal_(0, 0.3)
            for tensor in (model.norm1.running_var, model.norm1.weight.data):
                tensor.uniform_(0.5, 1.5)
        model.head.weight.data *= scale
    return model


def classifier(model: nn.Module, **options) -> xplain.Classifier:
    """Return the module as a classifier on the CPU."""
    return xplain.Classifier(model, name="toy", **options).eval()


def images(count: int = 2, height: int = 8, width: int = 10, seed: int = 1, channels: int = 3) -> Tensor:
    """Return random images (count, channels, height, width) in float64, between 0.1 and 0.9."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, dtype=torch.float64, generator=generator) * 0.8 + 0.1


@contextmanager
def any_range() -> Iterator[None]:
    """Let ``attribute`` and ``measure`` take numbers outside [0, 1], as networks in closed form do."""
    with patch("xplain.pipelines.arguments.check_range"):
        yield


def normalise(x: Tensor) -> Tensor:
    """Return images (..., 3, H, W) normalized by MEAN and STD."""
    mean, std = (torch.tensor(values, dtype=x.dtype)[:, None, None] for values in (MEAN, STD))
    return (x - mean) / std


def with_pixels(model: nn.Module) -> tuple[xplain.Classifier, Callable[[Tensor], Tensor]]:
    """Return a classifier that normalizes by MEAN and STD, and a function that computes the same logits of pixels."""
    made = classifier(model, mean=MEAN, std=STD, preprocessing=Preprocessing.for_size(12))
    return made, lambda x: model(normalise(x))


def watch(made: xplain.Classifier) -> list[int]:
    """Return a list that grows by the number of rows of every call with images of ``images()``; call this before the first use."""
    rows: list[int] = []

    def note(_: object, inputs: tuple[Tensor, ...], __: object) -> None:
        if inputs[0].shape[-2:] == (8, 10):
            rows.append(len(inputs[0]))

    made.register_forward_hook(note)
    return rows


def warned(attribution: xplain.Attribution, words: str) -> list[bool]:
    """Return for each image whether the warning that contains ``words`` applies to it."""
    (mask,) = (mask for text, mask in attribution.flags.items() if words in text)
    return mask.tolist()


def assert_same(actual: Tensor, expected: Tensor, rtol: float = 1e-9) -> None:
    """Assert equality to ``rtol``; small entries, which cancellation affects, to ``rtol`` / 1000 of the largest one."""
    atol = rtol / 1000 * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_dtype=False)


def band_weights(channels: int, side: int = 16) -> Tensor:
    """Return the weights (3, C, side, side) float64 of a linear model."""
    generator = torch.Generator().manual_seed(channels)
    return torch.randn(3, channels, side, side, generator=generator, dtype=torch.float64) / side


def band_net(channels: int, side: int = 16) -> nn.Module:
    """Return a network of two convolutions for images of any number of channels, float64, with ``size``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(channels)
        layers = [
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        ]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)).double().eval()
    with torch.no_grad():
        model[-1].weight *= 6
    model.size = side
    return model
