"""Random small networks from images to features: convolutions, tokens, recurrent layers and what users write by hand."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.helpers.toys import Attend

WIDTH = 8
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Softplus, nn.ELU, nn.Hardswish)
# Modules that can be traced by torch.jit for any number of rows.
TRACEABLE = frozenset(
    {"convolutions", "residual blocks", "depth-wise convolutions", "dilated", "transposed", "perceptron", "linear"}
)


class Features(nn.Module):
    """A stem, a body and a pooling from images (B, C, H, W) to features (B, WIDTH)."""

    def __init__(self, stem: nn.Module, body: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.pool = stem, body, pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.body(self.stem(x)))


class Residual(nn.Module):
    """A module added to its input, in place if ``in_place``."""

    def __init__(self, inner: nn.Module, *, in_place: bool = False) -> None:
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.in_place:
            y += x
            return y
        return x + y


class SqueezeExcitation(nn.Module):
    """Channels multiplied by gates that are computed from their means, without a gradient if ``detached``."""

    def __init__(self, *, detached: bool = False) -> None:
        super().__init__()
        self.gate, self.detached = nn.Conv2d(WIDTH, WIDTH, 1), detached

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.gate(means.detach() if self.detached else means).sigmoid()


class HandWrittenReLU(nn.Module):
    """A ReLU written as a product with a mask, as in many research codes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x > 0)


class Dropout(nn.Module):
    """Dropout that ignores the evaluation mode, a frequent mistake."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


class GlobalMean(nn.Module):
    """The mean over the positions of (B, WIDTH, H, W) or over the tokens of (B, N, WIDTH)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1)


class GlobalMax(nn.Module):
    """The maximum over the positions of (B, WIDTH, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(2, 3))


class ToTokens(nn.Module):
    """Positions of (B, WIDTH, H, W) as tokens (B, N, WIDTH) in an order, with class tokens in front or at the end."""

    def __init__(self, prefix: int, *, order: str = "rows", at_end: bool = False) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.order, self.at_end = order, at_end

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "columns":
            x = x.transpose(2, 3)
        tokens = x.flatten(2).transpose(1, 2)
        if self.order == "shuffled":
            tokens = tokens[:, torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(3))]
        prefix = self.prefix.expand(len(x), -1, -1)
        return torch.cat([tokens, prefix] if self.at_end else [prefix, tokens], dim=1)


class Positions(nn.Module):
    """Learned positions added to (B, WIDTH, h, w), which fix the size of the images."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(1, WIDTH, height, width) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.values


class RowsRNN(nn.Module):
    """A recurrent layer over the rows of (B, WIDTH, H, W); returns its last state (B, WIDTH)."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.inner = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.mean(dim=3).transpose(1, 2))[0][:, -1]


def _convolutions(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    activation = draw.choice(ACTIVATIONS)
    norm = draw.choice([nn.Identity, lambda: nn.BatchNorm2d(WIDTH), lambda: nn.GroupNorm(2, WIDTH)])
    pool = draw.choice([nn.Identity, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2)])
    body = nn.Sequential(norm(), activation(), pool(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), activation())
    return Features(_stem(channels, bias=draw.random() < 0.7), body, draw.choice([GlobalMean, GlobalMax])())


def _residual(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    activation, in_place = draw.choice(ACTIVATIONS), draw.random() < 0.3
    blocks = [
        Residual(nn.Sequential(_conv(), nn.BatchNorm2d(WIDTH), activation()), in_place=in_place) for _ in range(2)
    ]
    return Features(_stem(channels, stride=2), nn.Sequential(*blocks), GlobalMean())


def _depthwise(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    gate = SqueezeExcitation(detached=draw.random() < 0.4)
    body = nn.Sequential(_conv(groups=WIDTH), nn.SiLU(), gate, nn.Conv2d(WIDTH, WIDTH, 1))
    return Features(_stem(channels, stride=draw.choice([1, 2])), body, GlobalMean())


def _hand_written(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    return Features(_stem(channels), nn.Sequential(HandWrittenReLU(), _conv(), HandWrittenReLU()), GlobalMean())


def _in_place(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True), _conv(), nn.ReLU(inplace=True))
    return Features(_stem(channels), body, GlobalMean())


def _weight_norm(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(draw.choice(ACTIVATIONS)(), weight_norm(_conv()), nn.ReLU())
    return Features(_stem(channels), body, GlobalMean())


def _dilated(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2), nn.BatchNorm2d(WIDTH), nn.ReLU())
    return Features(_stem(channels), body, draw.choice([GlobalMean, GlobalMax])())


def _transposed(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2), nn.BatchNorm2d(WIDTH), nn.ReLU())
    return Features(_stem(channels, stride=2), body, GlobalMean())


def _dropout(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(nn.ReLU(), nn.Dropout2d(0.5), _conv(), nn.Dropout(0.3))
    return Features(_stem(channels), body, GlobalMean())


def _random(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    return Features(_stem(channels), nn.Sequential(nn.ReLU(), Dropout(), _conv()), GlobalMean())


def _batch_statistics(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(nn.BatchNorm2d(WIDTH, track_running_stats=False), nn.ReLU(), _conv(), nn.ReLU())
    return Features(_stem(channels), body, GlobalMean())


def _tokens(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    kind = draw.choice(["module", "fused", "manual"])
    order = draw.choice(["rows", "rows", "columns", "shuffled"])
    to_tokens = ToTokens(draw.choice([0, 1, 2]), order=order, at_end=draw.random() < 0.2)
    body = nn.Sequential(to_tokens, Attend(WIDTH, 2, kind), Attend(WIDTH, 2, kind))
    return Features(nn.Conv2d(channels, WIDTH, draw.choice([2, 4]), stride=4), body, GlobalMean())


def _tokens_with_positions(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    kind = draw.choice(["module", "fused", "manual"])
    stem = nn.Sequential(nn.Conv2d(channels, WIDTH, 2, stride=2), Positions(size[0] // 2, size[1] // 2))
    body = nn.Sequential(ToTokens(draw.choice([0, 1])), Attend(WIDTH, 2, kind), Attend(WIDTH, 4, kind))
    return Features(stem, body, GlobalMean())


def _recurrent(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    body = nn.Sequential(nn.ReLU(), RowsRNN(draw.choice([nn.GRU, nn.LSTM, nn.RNN])))
    return Features(_stem(channels), body, nn.Identity())


def _perceptron(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    activation = draw.choice(ACTIVATIONS)()
    body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, WIDTH), activation)
    return Features(nn.Identity(), body, nn.Identity())


def _linear(draw: random.Random, channels: int, size: tuple[int, int]) -> nn.Module:
    return Features(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, WIDTH))


def _stem(channels: int, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, WIDTH, 3, padding=1, **options)


def _conv(**options) -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, padding=1, **options)


# A draw, the number of channels and the size (height, width) of the images -> features.
ARCHITECTURES: dict[str, Callable[[random.Random, int, tuple[int, int]], nn.Module]] = {
    "convolutions": _convolutions,
    "residual blocks": _residual,
    "depth-wise convolutions": _depthwise,
    "hand-written ReLUs": _hand_written,
    "in-place ReLUs": _in_place,
    "weight norm": _weight_norm,
    "dilated": _dilated,
    "transposed": _transposed,
    "dropout": _dropout,
    "random dropout": _random,
    "batch statistics": _batch_statistics,
    "tokens": _tokens,
    "tokens with positions": _tokens_with_positions,
    "recurrent": _recurrent,
    "perceptron": _perceptron,
    "linear": _linear,
}
