"""SmoothGrad around any method: its attributions at noisy copies of the image, averaged."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor

from xplain.core.config import Choice
from xplain.core.papers import Paper
from xplain.core.parameters import Bounds, Steps, TextFormat
from xplain.core.registry import METHODS, MethodSpec, method
from xplain.core.rng import Streams
from xplain.core.types import Attribution
from xplain.oracle import Oracle

NAME = "smooth"


class RunMethod(Protocol):
    """Run the inner method on points (R, C, H, W); row: (R,) the image to which each point belongs."""

    def __call__(self, points: Tensor, row: Tensor) -> Attribution: ...


def parse_inner_method(text: str) -> tuple[MethodSpec, dict[str, Any]]:
    """Return the spec and the parameters of ``NAME[:key=value[+key=value]]``. Raises UsageError."""
    choice = Choice.parse(text.replace("+", ","))
    return METHODS.get(choice.name), dict(choice.params)


def _check_inner_method(text: str) -> None:
    """Raise ValueError for smooth itself, and UsageError for an unknown method or parameter."""
    spec, params = parse_inner_method(text)
    if spec.name == NAME:
        raise ValueError(text)
    spec.resolve({key: value for key, value in params.items() if key != "score" or key in spec.parameters})


InnerMethod = Annotated[
    str, TextFormat("another method, NAME[:key=value[+key=value]], such as ig:steps=20", _check_inner_method)
]


def _settings_of_inner(method: str) -> tuple[MethodSpec, dict[str, Any]]:
    spec, params = parse_inner_method(method)
    own = {key: value for key, value in params.items() if key != "score" or key in spec.parameters}
    return spec, spec.resolve(own)


def _cost(method: str, samples: int, **_: object) -> tuple[int, int]:
    """Return the (forward, backward) rows per image."""
    spec, settings = _settings_of_inner(method)
    forwards, backwards = spec.cost(**settings)
    return samples * forwards, samples * backwards


def _parallel(method: str, samples: int, **_: object) -> int:
    spec, settings = _settings_of_inner(method)
    return samples * spec.parallel(**settings)


@method(
    NAME,
    paper=Paper(
        "SmoothGrad: removing noise by adding noise",
        "Daniel Smilkov, Nikhil Thorat, Been Kim, Fernanda Viégas, Martin Wattenberg",
        2017,
        "",
        "1706.03825",
    ),
    access="outputs",
    limits="Axioms are those of the method for kind=mean, and none for other kinds.",
    violates=frozenset({"sensitivity-a"}),
    cost=_cost,
    at_most=True,
    draws="smoothgrad",
    parallel=_parallel,
    deviations="Noisy copies are not clamped to [0, 1]. kind=variance is the population variance. The target, and baselines that depend on "
    "the image (blur, uniform), are those of the clean image.",
)
def smooth(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    rng: Streams,
    run: RunMethod,
    method: InnerMethod = "saliency",
    samples: Steps = 10,
    noise: Annotated[float, Bounds(low=0)] = 0.15,
    kind: Literal["mean", "absolute", "square", "variance"] = "mean",
) -> Attribution:
    """Average the attributions of another method over noisy copies of the image.

    φ_i = attributions of x + ε_i, ε_i ~ N(0, σ²), σ = noise · (max x - min x) per image. Random numbers of the method depend on the noisy
    copy. The score, its default and the access to the model are those of the method. With kind=mean the sum is the mean of the
    expected sums, if the method has them. ``details`` hold the share of the copies for which the method raised each of its flags.

    x: images (B, C, H, W) in [0, 1].
    y: target classes (B,).
    method: the method, with its parameters separated by plus signs, such as ``ig:steps=20+baseline=white``.
    samples: number of copies.
    noise: standard deviation of the noise, as a fraction of the value range of the image.
    kind: quantity to average: ``mean`` for φ_i, ``absolute`` for |φ_i|, ``square`` for φ_i² or ``variance`` for (φ_i - mean φ)².
    """
    value_range = x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)
    sigma = (noise * value_range)[:, None]
    moments = _Moments(kind, samples)
    for block in oracle.blocks(x, samples):
        images, row = block.images, block.image_indices(x.device)
        draws = rng.take(images).normal(block.point_indices(x.device), tuple(x.shape[1:]), x.dtype)
        points = x[images, None] + sigma[images] * draws
        moments.add(run(points.flatten(0, 1), row), row, len(x))
    return moments.summarize()


class _Moments:
    """Sums over the samples of each image."""

    def __init__(self, kind: str, samples: int) -> None:
        self.kind, self.samples = kind, samples
        self.sums: dict[str, Tensor] = {}
        self.shares: dict[str, Tensor] = {}

    def add(self, result: Attribution, row: Tensor, count: int) -> None:
        """Add the attributions of a block; row: (R,) image of each, out of ``count`` images."""
        values = result.values.double()
        quantities = {"values": values.abs() if self.kind == "absolute" else values}
        if self.kind in ("square", "variance"):
            quantities["squares"] = values**2
        if result.expected is not None:
            quantities["expected"] = result.expected.double()
        for name, quantity in quantities.items():
            self.sums[name] = _add_rows(self.sums.get(name), quantity, row, count)
        for text, mask in result.flags.items():
            self.shares[text] = _add_rows(self.shares.get(text), mask.double(), row, count)
        self.dtype = result.values.dtype

    def summarize(self) -> Attribution:
        """Return the attribution of all images."""
        means = {name: total / self.samples for name, total in self.sums.items()}
        values = means["squares"] if self.kind == "square" else means["values"]
        if self.kind == "variance":
            values = (means["squares"] - means["values"] ** 2).clamp(min=0)
        shares = {text: total / self.samples for text, total in self.shares.items()}
        return Attribution(
            values.to(self.dtype),
            expected=means.get("expected") if self.kind == "mean" else None,
            details=shares,
            flags={f"for some noisy copies: {text}": share > 0 for text, share in shares.items()},
        )


def _add_rows(total: Tensor | None, values: Tensor, row: Tensor, count: int) -> Tensor:
    """Return ``total`` (count, ...), zero if None, plus the values (R, ...) of each image."""
    if total is None:
        total = torch.zeros(count, *values.shape[1:], dtype=values.dtype, device=values.device)
    return total.index_add_(0, row, values)
