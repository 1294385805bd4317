"""Random small networks of many architectures, output kinds, channel counts and wrappers, each from one seed."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import xplain
from tests.helpers.random_architectures import ARCHITECTURES, TRACEABLE, WIDTH, ToTokens
from tests.helpers.random_outputs import OUTPUTS, Output
from tests.helpers.random_wrappers import WRAPPERS
from xplain.core.errors import ModelNote

CHANNELS = (1, 2, 3, 3, 3, 4, 12)
SIZES = ((8, 8), (8, 12), (12, 8), (16, 16))
NORMALIZATIONS = ("attributes", "attributes", "options", "0..255", "own buffers", "none")


class WithEnd(nn.Module):
    """A network and the functions that make its output: a probability, a shape, a container."""

    def __init__(self, features: nn.Module, head: nn.Module, ends: list[Callable[..., object]]) -> None:
        super().__init__()
        self.features, self.head = features, head
        self.ends = ends
        self.final = nn.ModuleList(end for end in ends if isinstance(end, nn.Module))

    def forward(self, x: Tensor) -> object:
        output = self.head(self.features(x))
        for end in self.ends:
            output = end(output)
        return output


class SelfNormalizing(WithEnd):
    """A network that normalizes images itself, by buffers with the usual names."""

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and the std (C, 1, 1)."""
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, x: Tensor) -> object:
        return super().forward((x - self.mean) / self.std)


@dataclass(frozen=True)
class Case:
    """A random network with images.

    architecture, description: of the network; the description has all that was drawn. output: its end.
    model: the module that a user has. options: for ``load_classifier``. images: (2, C, H, W) in float64.
    plain: a network of the same values without a wrapper, which returns them as they are.
    is_shifted: the expected logits differ from those of ``plain`` by a constant per image.
    tolerance: relative to the largest value, for equal computations.
    """

    architecture: str
    description: str
    output: Output
    model: nn.Module
    options: dict[str, Any]
    plain: nn.Module
    images: Tensor
    is_shifted: bool
    tolerance: float

    @property
    def is_random(self) -> bool:
        """Whether two forward passes differ."""
        return self.architecture == "random dropout"

    @property
    def mixes_rows(self) -> bool:
        """Whether the rows of a call change one another."""
        return self.architecture == "batch statistics"

    @property
    def activation(self) -> str:
        """The expected activation of the outputs."""
        return self.output.activation

    def logits(self, images: Tensor) -> Tensor:
        """Return the expected logits (B, classes), computed row by row."""
        pixels = images
        if not isinstance(self.plain, SelfNormalizing):
            mean, std = (torch.tensor(values, dtype=images.dtype) for values in (self.plain.mean, self.plain.std))
            pixels = (images - mean[:, None, None]) / std[:, None, None]
        rows = [self.plain(row) for row in pixels.to(next(self.plain.parameters()).dtype).split(1)]
        values = torch.cat(rows).to(images.dtype)
        return torch.cat([-values, values], dim=1) if self.activation == "binary" else values

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

    def load(self) -> xplain.Classifier:
        """Return the classifier of the user's module."""
        return xplain.load_classifier(self.model, device="cpu", **self.options)

    def load_plain(self) -> xplain.Classifier:
        """Return the classifier of the plain network, with the activation and thresholds told."""
        options = {name: self.options[name] for name in ("threshold",) if name in self.options}
        activation = "sigmoid" if self.activation == "binary" else self.activation
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelNote)
            return xplain.load_classifier(self.plain, device="cpu", activation=activation, **options)


def random_case(seed: int) -> Case:
    """Return the case with this number. The global random state is not changed."""
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _make_case(draw)


def _make_case(draw: random.Random) -> Case:
    channels, size = draw.choice(CHANNELS), draw.choice(SIZES)
    architecture = draw.choice(list(ARCHITECTURES))
    features = ARCHITECTURES[architecture](draw, channels, size)
    output_name = draw.choice(list(OUTPUTS))
    output = OUTPUTS[output_name](draw)
    head = nn.Linear(WIDTH, output.columns)
    head.weight.data *= 4
    normalization = draw.choice(NORMALIZATIONS)
    images = torch.rand(2, channels, *size, dtype=torch.float64) * 0.9 + 0.05
    mean, std = _draw_normalization(draw, channels, normalization)
    kind = SelfNormalizing if normalization == "own buffers" else WithEnd
    network = kind(features, head, output.ends).double().eval().requires_grad_(draw.random() < 0.8)
    _randomize_norms(network)
    if kind is SelfNormalizing:
        network.set_normalization(mean[:, None, None], std[:, None, None])
    wrapper = draw.choice(list(WRAPPERS))
    if wrapper == "traced" and (architecture not in TRACEABLE or not output.is_tensor):
        wrapper = "bare"
    plain = _make_plain(network, mean, std, size)
    wrapped = WRAPPERS[wrapper](network, images)
    dtype = next(network.parameters()).dtype
    plain.to(dtype).to(torch.float64 if dtype == torch.float64 else torch.float32)  # half precision is run in float32
    options = dict(output.options)
    is_sized = draw.random() < 0.96 or architecture == "tokens"  # attention is slow at the usual size
    if is_sized:
        wrapped.owner.size = size
    if normalization in ("attributes", "0..255"):
        factor = 255 if normalization == "0..255" else 1
        wrapped.owner.mean, wrapped.owner.std = (mean * factor).tolist(), (std * factor).tolist()
    if normalization == "options":
        options |= {"mean": mean.tolist(), "std": std.tolist()}
    if "activation" in options and draw.random() < 0.5:
        wrapped.owner.activation = options.pop("activation")
    told = "" if is_sized else " (not told)"
    parts = [architecture, output_name, f"{channels} channels", f"{size[0]} x {size[1]}{told}", normalization, wrapper]
    tolerance = 1e-6 if next(plain.parameters()).dtype == torch.float64 else 1e-3
    is_shifted = output.is_shifted or (wrapper == "traced" and "softmax" in output_name)
    description = ", ".join(parts)
    return Case(architecture, description, output, wrapped.model, options, plain, images, is_shifted, tolerance)


def _draw_normalization(draw: random.Random, channels: int, kind: str) -> tuple[Tensor, Tensor]:
    """Return the mean and the std (C,) of the expected normalization."""
    if kind == "none":
        return torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    mean = [draw.uniform(0.3, 0.6) for _ in range(channels)]
    std = [draw.uniform(0.2, 0.4) for _ in range(channels)]
    return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)


def _make_plain(network: nn.Module, mean: Tensor, std: Tensor, size: tuple[int, int]) -> nn.Module:
    """Return a copy of the network without its end and with its tokens in the order of rows."""
    plain = type(network)(copy.deepcopy(network.features), copy.deepcopy(network.head), []).eval()
    if isinstance(network, SelfNormalizing):
        plain.set_normalization(network.mean, network.std)
    else:
        plain.mean, plain.std = mean.tolist(), std.tolist()
    plain.size = size
    for module in plain.modules():
        if isinstance(module, ToTokens):
            module.order, module.at_end = "rows", False
    return plain


def _randomize_norms(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
