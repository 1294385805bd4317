"""Random small networks of many architectures, output kinds, channel counts and wrappers, in float64, each from one seed."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import xplain
from tests.helpers.toys import Attend

WIDTH = 8
CHANNELS = (1, 2, 3, 3, 3, 4, 12)
SIZES = ((8, 8), (8, 12), (12, 8), (16, 16))
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Softplus)


class Features(nn.Module):
    """A stem, a body and a pooling from images (B, C, H, W) to features (B, WIDTH)."""

    def __init__(self, stem: nn.Module, body: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.pool = stem, body, pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.body(self.stem(x)))


class Residual(nn.Module):
    """A module added to its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class SqueezeExcitation(nn.Module):
    """Channels multiplied by gates that are computed from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class HandWrittenReLU(nn.Module):
    """A ReLU written as a product with a mask, as in many research codes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x > 0)


class GlobalMean(nn.Module):
    """The mean over the positions of (B, WIDTH, H, W) or over the tokens of (B, N, WIDTH)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) if x.ndim == 4 else x.mean(dim=1)


class ToTokens(nn.Module):
    """Positions of (B, WIDTH, H, W) as tokens (B, N, WIDTH), behind ``prefix`` class tokens."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(1, prefix, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.prefix.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)


class Checkpointed(nn.Module):
    """A module whose activations are computed again in the backward pass."""

    def __init__(self, inner: nn.Module, *, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class WithEnd(nn.Module):
    """A network and the function that makes its output: a probability, a shape, a container."""

    def __init__(self, features: nn.Module, head: nn.Module, ends: list[Callable[..., object]]) -> None:
        super().__init__()
        self.features, self.head, self.ends = features, head, ends

    def forward(self, x: Tensor) -> object:
        output = self.head(self.features(x))
        for end in self.ends:
            output = end(output)
        return output


@dataclass(frozen=True)
class Case:
    """A random network with images.

    description: architecture, output, channels and wrapper. model: the module that a user has. options: for ``load_classifier``.
    logits: from images in [0, 1] to the expected logits (B, classes). activation: the expected activation of the outputs.
    images: (2, C, H, W) in float64.
    """

    description: str
    model: nn.Module
    options: dict[str, str]
    logits: Callable[[Tensor], Tensor]
    activation: str
    images: Tensor

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the expected probabilities (B, classes), or the values of a model without probabilities."""
        logits = self.logits(images)
        match self.activation:
            case "softmax":
                return logits.softmax(dim=1)
            case "none":
                return logits
            case _:
                return logits.sigmoid()


def random_case(seed: int) -> Case:
    """Return the case with this number. The global random state is not changed."""
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _make_case(draw)


def _make_case(draw: random.Random) -> Case:
    channels, size = draw.choice(CHANNELS), draw.choice(SIZES)
    name = draw.choice(list(ARCHITECTURES))
    features = ARCHITECTURES[name](draw, channels)
    output = draw.choice(list(OUTPUTS))
    classes, ends, options, activation = OUTPUTS[output](draw)
    head = nn.Linear(WIDTH, classes)
    head.weight.data *= 4
    network = WithEnd(features, head, ends)
    network.double().eval().requires_grad_(draw.random() < 0.8)
    _randomize_norms(network)
    mean, std = [draw.uniform(0.3, 0.6) for _ in range(channels)], [draw.uniform(0.2, 0.4) for _ in range(channels)]
    wrapper = draw.choice(list(WRAPPERS))
    inner, model = WRAPPERS[wrapper](network)
    inner.size, inner.mean, inner.std = size, mean, std
    if "activation" in options and draw.random() < 0.5:
        inner.activation = options.pop("activation")

    def logits(images: Tensor) -> Tensor:
        columns = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
        shift, scale = columns
        raw = head(features((images - shift) / scale))
        return torch.cat([-raw, raw], dim=1) if activation == "binary" else raw

    images = torch.rand(2, channels, *size, dtype=torch.float64) * 0.9 + 0.05
    description = f"{name}, {output}, {channels} channels, {size[0]} x {size[1]}, {wrapper}"
    return Case(description, model, options, logits, activation, images)


def _randomize_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)


def _convolutions(draw: random.Random, channels: int) -> nn.Module:
    activation = draw.choice(ACTIVATIONS)
    norm = draw.choice([nn.Identity, lambda: nn.BatchNorm2d(WIDTH), lambda: nn.GroupNorm(2, WIDTH)])
    pool = draw.choice([nn.Identity, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2)])
    body = nn.Sequential(norm(), activation(), pool(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), activation())
    return Features(nn.Conv2d(channels, WIDTH, 3, padding=1, bias=draw.random() < 0.7), body, GlobalMean())


def _residual(draw: random.Random, channels: int) -> nn.Module:
    activation = draw.choice(ACTIVATIONS)
    blocks = [
        Residual(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), activation()))
        for _ in range(2)
    ]
    return Features(nn.Conv2d(channels, WIDTH, 3, stride=2, padding=1), nn.Sequential(*blocks), GlobalMean())


def _depthwise(draw: random.Random, channels: int) -> nn.Module:
    body = nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH), nn.SiLU(), SqueezeExcitation(), nn.Conv2d(WIDTH, WIDTH, 1)
    )
    return Features(nn.Conv2d(channels, WIDTH, 3, stride=draw.choice([1, 2]), padding=1), body, GlobalMean())


def _hand_written(draw: random.Random, channels: int) -> nn.Module:
    body = nn.Sequential(HandWrittenReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), HandWrittenReLU())
    return Features(nn.Conv2d(channels, WIDTH, 3, padding=1), body, GlobalMean())


def _tokens(draw: random.Random, channels: int) -> nn.Module:
    kind = draw.choice(["module", "fused", "manual"])
    body = nn.Sequential(ToTokens(draw.choice([0, 1, 2])), Attend(WIDTH, 2, kind), Attend(WIDTH, 2, kind))
    return Features(nn.Conv2d(channels, WIDTH, 4, stride=4), body, GlobalMean())


def _perceptron(draw: random.Random, channels: int) -> nn.Module:
    body = nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, WIDTH), draw.choice(ACTIVATIONS)()
    )
    return Features(nn.Identity(), body, nn.Identity())


def _linear(draw: random.Random, channels: int) -> nn.Module:
    return Features(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, WIDTH))


ARCHITECTURES: dict[str, Callable[[random.Random, int], nn.Module]] = {
    "convolutions": _convolutions,
    "residual blocks": _residual,
    "depth-wise convolutions": _depthwise,
    "hand-written ReLUs": _hand_written,
    "tokens": _tokens,
    "perceptron": _perceptron,
    "linear": _linear,
}

Output = tuple[int, list[Callable[..., object]], dict[str, str], str]


def _as_dictionary(output: Tensor) -> dict[str, Tensor]:
    return {"embedding": output.new_zeros(len(output), 3, 2), "logits": output}


OUTPUTS: dict[str, Callable[[random.Random], Output]] = {
    "logits": lambda draw: (draw.choice([2, 3, 5]), [], {}, "softmax"),
    "softmax": lambda draw: (draw.choice([2, 3, 5]), [nn.Softmax(dim=1)], {}, "softmax"),
    "functional softmax": lambda draw: (3, [lambda z: z.softmax(dim=-1)], {}, "softmax"),
    "log-softmax": lambda draw: (3, [nn.LogSoftmax(dim=1)], {}, "softmax"),
    "dictionary": lambda draw: (4, [_as_dictionary], {}, "softmax"),
    "tuple": lambda draw: (4, [lambda z: (z, z.new_zeros(len(z), 2, 3))], {}, "softmax"),
    "label logits": lambda draw: (draw.choice([2, 4]), [], {"activation": "sigmoid"}, "sigmoid"),
    "label probabilities": lambda draw: (draw.choice([2, 4]), [nn.Sigmoid()], {}, "sigmoid"),
    "one logit": lambda draw: (1, [], {}, "binary"),
    "one logit, squeezed": lambda draw: (1, [lambda z: z[:, 0]], {}, "binary"),
    "one probability": lambda draw: (1, [torch.sigmoid], {}, "binary"),
    "one probability, squeezed": lambda draw: (1, [torch.sigmoid, lambda p: p.squeeze(1)], {}, "binary"),
    "one value": lambda draw: (1, [], {"activation": "none"}, "none"),
    "values": lambda draw: (3, [], {"activation": "none"}, "none"),
}

WRAPPERS: dict[str, Callable[[nn.Module], tuple[nn.Module, nn.Module]]] = {
    "bare": lambda network: (network, network),
    "sequential": lambda network: (outer := nn.Sequential(OrderedDict(inner=network)), outer),
    "parallel": lambda network: (network, nn.DataParallel(network)),
    "checkpointed": lambda network: (_checkpoint(network, reentrant=False), network),
    "checkpointed, reentrant": lambda network: (_checkpoint(network, reentrant=True), network),
}


def _checkpoint(network: nn.Module, *, reentrant: bool) -> nn.Module:
    network.features.body = Checkpointed(network.features.body, reentrant=reentrant)
    return network


def load(case: Case) -> xplain.Classifier:
    """Return the classifier of a case."""
    return xplain.load_classifier(case.model, device="cpu", **case.options)
