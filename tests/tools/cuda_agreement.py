"""Compare every method and metric on a device with the CPU in float64, on small networks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import xplain
import xplain.methods  # registers them
import xplain.metrics
from tests.contracts import quick
from tests.helpers import toys
from xplain.core.errors import ModelNote, UsageError, XplainError, first_line
from xplain.core.registry import METHODS, METRICS, MethodSpec, Spec
from xplain.core.types import Precision

SIDE = 16
# Errors relative to the largest value: at most this, or this many times the error of float32 on the CPU.
TOLERANCE, FACTOR = 1e-4, 20
LARGE = 1e-2  # an error of the CPU that says that float64 is no standard: the metric draws other weights; float32 is compared instead
LOWER_PRECISIONS: tuple[Precision, ...] = ("tf32", "bf16")
BOXES = torch.tensor([[[2.0, 2.0, 9.0, 9.0]], [[0.0, 0.0, 5.0, 5.0]]], dtype=torch.float64)
SETTINGS: dict[str, dict[str, Any]] = {
    "isa": {"block": 256},
    "sensitivity-n": {"fractions": "20+60"},
    "aic": {"thresholds": "5+60", "min_probability": 0},
    "sic": {"thresholds": "5+60", "min_probability": 0},
    "road": {"percentiles": "30+70"},
    "road-morf": {"percentiles": "30+70"},
    "road-lerf": {"percentiles": "30+70"},
    "parameter-randomisation": {"stages": 2},
}


@dataclass(frozen=True)
class Agreement:
    """The agreement of a method or metric on a network with the CPU in float64.

    error, cpu_error: of float32 on the device and on the CPU, relative to the largest value; None if the method was not run.
    difference: of float32 on the device from float32 on the CPU, relative to the largest value.
    is_judged: the error must be small; signed steps and orders amplify rounding otherwise.
    is_repeatable: a second run on the device gave the same bytes.
    cosines: cosine similarity at lower precisions, by precision.
    problem: why it failed, or the reason for which the method does not fit the network; empty if all is well.
    """

    network: str
    name: str
    error: float | None = None
    cpu_error: float | None = None
    difference: float = 0.0
    is_judged: bool = True
    is_repeatable: bool = True
    cosines: dict[str, float] | None = None
    refusal: str = ""
    problem: str = ""

    @property
    def failure(self) -> str:
        """What is wrong, or ""."""
        if self.problem or self.error is None or self.cpu_error is None:
            return self.problem
        if not self.is_repeatable:
            return "a second run gave other bytes"
        if self.is_judged and self.cpu_error > LARGE and not self.difference <= LARGE:
            return f"the difference from the CPU in float32 is {self.difference:.1e}"
        if self.is_judged and not self.error <= max(TOLERANCE, FACTOR * self.cpu_error):
            return f"the error is {self.error:.1e}, that of the CPU in float32 {self.cpu_error:.1e}"
        return ""

    def describe(self) -> dict[str, Any]:
        """Return the record."""
        return asdict(self) | {"failure": self.failure}


def make_networks() -> dict[str, nn.Module]:
    """Return small networks in float64 by name."""
    networks = {"convolutional": toys.small_net(), "transformer": toys.token_net()}
    for network in networks.values():
        network.size = SIDE
    return networks


def compare_all(
    device: str, names: Sequence[str] | None = None, networks: Sequence[str] | None = None
) -> Iterator[Agreement]:
    """Yield the agreement of each method and metric of single images on each network.

    names: methods and metrics to compare, None for all. networks: names of networks, None for all.
    """
    warnings.simplefilter("ignore", ModelNote)
    specs = [*METHODS, *(spec for spec in METRICS if spec.scope == "image")]
    for network_name, network in make_networks().items():
        if networks is not None and network_name not in networks:
            continue
        trio = _Trio(network, device)
        for spec in specs:
            if names is None or spec.name in names:
                yield trio.compare(network_name, spec)


class _Trio:
    """A network in float64 on the CPU, in float32 on the CPU, and in float32 on the device."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self.exact = xplain.load_classifier(network, "cpu", activation="softmax")
        network = copy.deepcopy(network).float()  # the classifier shares its parameters
        self.on_cpu = xplain.load_classifier(network, "cpu", activation="softmax")
        self.on_device = xplain.load_classifier(network, device, activation="softmax")
        self.images = toys.images(2, SIDE, SIDE)
        self.targets = torch.tensor([0, 1])
        self.maps = xplain.attribute(self.exact, self.images, "saliency", target=self.targets).values

    def compare(self, network: str, spec: Spec) -> Agreement:
        """Return the agreement of a method or metric. Errors are part of the result."""
        try:
            expected = self._run(self.exact, spec)
        except UsageError as error:
            return Agreement(network, spec.name, refusal=str(error))
        try:
            actual, again = self._run(self.on_device, spec), self._run(self.on_device, spec)
            lower = {precision: self._run(self.on_device, spec, precision) for precision in LOWER_PRECISIONS}
            on_cpu = self._run(self.on_cpu, spec)
        except (XplainError, RuntimeError, TypeError) as error:
            return Agreement(network, spec.name, problem=f"{type(error).__name__}: {first_line(error)}")
        return Agreement(
            network,
            spec.name,
            _relative_error(actual, expected),
            _relative_error(on_cpu, expected),
            _relative_error(actual, on_cpu),
            is_judged=not (isinstance(spec, MethodSpec) and spec.rounding),
            is_repeatable=torch.equal(actual.nan_to_num(), again.nan_to_num()),
            cosines={precision: _cosine(values, expected) for precision, values in lower.items()},
        )

    def _run(self, classifier: xplain.Classifier, spec: Spec, precision: Precision = "fp32") -> Tensor:
        """Return the attributions or values on the CPU."""
        boxes = {"boxes": BOXES} if "boxes" in spec.parameters else {}
        settings = quick(spec) | SETTINGS.get(spec.name, {}) | boxes
        options = {"target": self.targets, "precision": precision, **settings}
        images = self.images.to(classifier.dtype)
        if isinstance(spec, MethodSpec):
            return xplain.attribute(classifier, images, spec.name, **options).values.cpu()
        return xplain.measure(classifier, images, self.maps, spec.name, method="saliency", **options).values.cpu()


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite if other values are NaN."""
    if not torch.equal(actual.isnan(), expected.isnan()):
        return float("inf")
    actual, expected = actual.double().nan_to_num(), expected.double().nan_to_num()
    scale = float(expected.abs().max())
    return float((actual - expected).abs().max()) / (scale or 1.0)


def _cosine(actual: Tensor, expected: Tensor) -> float:
    actual, expected = (values.double().flatten().nan_to_num() for values in (actual, expected))
    return float(torch.cosine_similarity(actual, expected, dim=0))
