"""Compute forward passes and gradients of a classifier by OpenVINO on the CPU, after a check against PyTorch."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

import xplain
from xplain.core.types import Precision
from xplain.models import Classifier
from xplain.models.channels import make_noise
from xplain.models.checkpoints import hash_tensors
from xplain.models.optimize import inference_copy
from xplain.oracle.linear_scores import Transform, list_transforms, score_weights
from xplain.oracle.openvino_cache import discard_graph, load_graph, save_graph
from xplain.oracle.openvino_graphs import convert_forward, convert_gradient, load_openvino
from xplain.oracle.openvino_rows import RowGraph

NAME = "openvino"
Kind = Literal["forward", "gradient"]
# Bounds of the check: the largest difference of logits, relative to their largest deviation from the mean of the row; the relative
# error of gradients in the median of the rows, and of each row. Gradients jump where an activation is cut off.
LOGIT_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 1e-3
ROW_TOLERANCE = 0.1
# Bounds of the check in bf16, against PyTorch in fp32: of logits as above, and the largest difference of probabilities. On the images
# of the check, EfficientNet-Lite0 has 0.05 and 0.02, as PyTorch's bf16 has; on 40 photographs both have 0.03 and 0.05 to 0.06.
BF16_LOGIT_TOLERANCE = 0.1
BF16_PROBABILITY_TOLERANCE = 0.05
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # in descriptions of functions


class EngineError(Exception):
    """The engine cannot compute a classifier; the message is the reason."""


class OpenVinoEngine:
    """Compute the rows of one classifier by OpenVINO. Images of another size or type are left to PyTorch.

    precision: of the arithmetic. In bf16 it computes forward passes only.
    gradient_problem: why PyTorch computes the gradients, or "".
    gains: how many times as fast as PyTorch it computes each kind of pass, where that is known.
    """

    def __init__(self, classifier: Classifier, *, gradients: bool, precision: Precision = "fp32") -> None:
        """Convert the classifier, or load the stored graphs.

        gradients: also compute gradients, if the network's gradient converts; PyTorch computes them otherwise, and always in bf16.
        precision: fp32 or bf16.
        Raises EngineError if OpenVINO is not installed, the processor has no bf16 arithmetic, the network does not convert or
        compile, or the logits do not agree with PyTorch.
        """
        self.precision: Precision = precision
        model = inference_copy(classifier)  # not kept: engines are stored by their inference copy
        probe = _make_probe(model)
        self._shape = probe.shape[1:]
        self._classes = classifier.classes or 0
        self._output = classifier.output
        self._transforms = list_transforms(classifier.output)
        try:
            self._openvino = load_openvino()
            self._core = self._openvino.Core()
            self._facts = self._describe_environment()
        except (ImportError, RuntimeError, OSError) as error:
            raise EngineError(f"openvino cannot be used: {_first_line(error)}") from None
        if precision == "bf16" and not self._computes_in_bf16():
            raise EngineError("the processor has no bf16 arithmetic")
        self._threads = torch.get_num_threads()
        self._keys: dict[Kind, str] = {}
        self.gains: dict[Kind, float] = {}
        with torch.inference_mode(False):
            self._forward = self._prepare("forward", model, probe)
            self._gradient: RowGraph | None = None
            self.gradient_problem = "" if precision == "fp32" else "it computes gradients in fp32 only"
            if gradients and precision == "fp32":
                try:
                    self._gradient = self._prepare("gradient", model, probe)
                except EngineError as error:
                    self.gradient_problem = str(error)

    def logits(self, x: Tensor) -> Tensor | None:
        """Return the logits (rows, classes) of images (rows, C, H, W), or None for images of another size or type."""
        return self._forward.run(x)[0] if self._fits(x) else None

    def gradients(self, x: Tensor, y: Tensor, score: str, contrasts: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Return logits (rows, classes) and gradients (rows, C, H, W), or None if PyTorch must compute them."""
        if self._gradient is None or not self._fits(x):
            return None
        weights = score_weights(y, score, contrasts, self._output, self._classes)
        if weights is None:
            return None
        logits, gradients = self._gradient.run(x, weights)
        return logits, gradients

    def describe(self) -> dict[str, str]:
        """Return the engine of forward passes and that of gradients."""
        return {"forwards": NAME, "gradients": "torch" if self._gradient is None else NAME}

    @property
    def has_gradients(self) -> bool:
        """Whether it computes gradients."""
        return self._gradient is not None

    def without_gradients(self) -> OpenVinoEngine:
        """Return an engine that leaves the gradients to PyTorch."""
        other = copy.copy(self)
        other._gradient = None
        return other

    def gain_key(self, kind: Kind) -> str:
        """Return the name of the stored speed of a graph, which depends on the number of threads."""
        return f"{self._keys[kind]}-{self._threads}"

    def _fits(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and x.shape[1:] == self._shape and x.device.type == "cpu"

    def _computes_in_bf16(self) -> bool:
        """Return whether the processor has instructions for bf16. OpenVINO also emulates them, which is slower than fp32."""
        return "BF16" in self._facts["capabilities"].split() and torch.cpu._is_avx512_bf16_supported()

    def _describe_environment(self) -> dict[str, str]:
        """Return what a stored graph depends on besides the model. Raises RuntimeError without a CPU device."""
        return {
            "openvino": self._openvino.get_version(),
            "torch": torch.__version__,
            "xplain": xplain.__version__,
            "processor": self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            "capabilities": " ".join(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        }

    def _key(self, kind: str, model: Classifier) -> str:
        """Return the name of the stored graph of a kind."""
        parts = {
            "kind": kind,
            "precision": self.precision,
            "size": list(self._shape),
            "weights": hash_tensors(model),
            "normalization": [model.mean.flatten().tolist(), model.std.flatten().tolist()],
            "modules": str(model),
            "reader": repr(model.reader),
            "transforms": list(self._transforms),
            "output": repr(model.output),
            **self._facts,
        }
        text = ADDRESS.sub("", json.dumps(parts, sort_keys=True))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _prepare(self, kind: Kind, model: Classifier, probe: Tensor) -> RowGraph:
        """Return the compiled graph, stored or converted. A stored one that fails the check is converted again. Raises EngineError."""
        key = self._keys[kind] = self._key(kind, model)
        stored = load_graph(self._openvino, self._core, key)
        if stored is not None:
            rows, problem = self._check(kind, stored, model, probe)
            if not problem:
                return rows
            discard_graph(key)
        try:
            graph = self._convert(kind, model, probe[:1])
        except Exception as error:  # of any type: the network or an operation is not supported
            raise EngineError(f"the network does not convert: {type(error).__name__}: {_first_line(error)}") from None
        rows, problem = self._check(kind, graph, model, probe)
        if problem:
            raise EngineError(problem)
        save_graph(self._openvino, graph, key)
        return rows

    def _convert(self, kind: Kind, model: Classifier, image: Tensor) -> Any:
        if kind == "forward":
            return convert_forward(model, image)
        return convert_gradient(model, image, list(self._transforms.values()), self._classes)

    def _check(self, kind: Kind, graph: Any, model: Classifier, probe: Tensor) -> tuple[RowGraph, str]:
        """Return the compiled graph, and what is wrong with it or ""."""
        rows = RowGraph(self._openvino, self._core, graph, self._threads, self.precision)
        try:
            if kind == "forward":
                return rows, _check_logits(rows, model, probe, self.precision)
            return rows, _check_gradients(rows, model, probe, list(self._transforms.values()))
        except RuntimeError as error:
            return rows, f"the graph does not run: {_first_line(error)}"


def _check_logits(graph: RowGraph, model: Classifier, probe: Tensor, precision: Precision) -> str:
    """Return what is wrong with the logits of the probe, or "". They are compared with PyTorch's in fp32, whatever the precision."""
    with torch.no_grad():
        expected = model(model.to_memory_format(probe)).float()
    actual = graph.run(probe)[0]
    if precision == "fp32":
        return _compare_logits(actual, expected, LOGIT_TOLERANCE)
    problem = _compare_logits(actual, expected, BF16_LOGIT_TOLERANCE)
    difference = (model.output.probabilities(actual) - model.output.probabilities(expected)).abs().max()
    if not problem and model.output.has_probabilities and not difference <= BF16_PROBABILITY_TOLERANCE:
        problem = f"its probabilities in bf16 differ from PyTorch's in fp32 by {float(difference):.1g}"
    return problem


def _check_gradients(graph: RowGraph, model: Classifier, probe: Tensor, transforms: Sequence[Transform]) -> str:
    """Return what is wrong with the logits or gradients of the probe, or "".

    Row k has the transform k of the logit of its top class. Errors are relative to the gradient of the logit, because that of a
    probability near 1 vanishes.
    """
    x = probe.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(model.to_memory_format(x))
        values = torch.stack([transform(logits) for transform in transforms], dim=1)
        weights = torch.zeros_like(values)
        rows, top = torch.arange(len(x)), logits.argmax(dim=1)
        weights[rows, rows % len(transforms), top] = 1.0
        (expected,) = torch.autograd.grad((values * weights).sum(), x, retain_graph=True)
        (scale,) = torch.autograd.grad(logits.gather(1, top[:, None]).sum(), x)
    actual_logits, actual = graph.run(probe, weights)
    problem = _compare_logits(actual_logits, logits.detach(), LOGIT_TOLERANCE)
    errors = (actual - expected).flatten(1).norm(dim=1) / scale.flatten(1).norm(dim=1).clamp_min(1e-30)
    if not problem and not (errors.median() <= GRADIENT_TOLERANCE and errors.max() <= ROW_TOLERANCE):
        problem = f"its gradients differ from PyTorch's by {float(errors.median()):.1g}"
    return problem


def _make_probe(classifier: Classifier) -> Tensor:
    """Return images (6, C, H, W) in [0, 1] of different contrast and brightness."""
    noise = make_noise(classifier, 6)
    noise[2:4] = noise[2:4] ** 3
    noise[4:] = 0.4 + 0.2 * noise[4:]
    return noise


def _compare_logits(actual: Tensor, expected: Tensor, tolerance: float) -> str:
    """Return what is wrong with logits (rows, classes), or "". tolerance: of the difference, relative to the spread of a row."""
    centers = expected.mean(dim=1, keepdim=True) if expected.shape[1] > 1 else 0
    spread = (expected - centers).abs().max()
    error = (actual - expected).abs().max() / spread
    return "" if error <= tolerance else f"its logits differ from PyTorch's by {float(error):.1g} of their spread"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
