"""Load ONNX models (``onnx:FILE``) through onnxruntime (extra ``onnx``), for methods and metrics that need no gradient.

An ONNX file is data: no code in it is run. Custom operator libraries are never loaded, and external data is read from the folder of
the file only.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xplain.core.errors import InputError, UsageError, device_error, emit_note, first_line
from xplain.models.black_box import BlackBox
from xplain.models.channels import SHAPE_ERRORS
from xplain.models.checkpoints import describe_weights_file
from xplain.models.classifier import Classifier, Weights
from xplain.models.custom_models import wrap_module
from xplain.models.onnx_graph import OnnxGraph, read_onnx_graph
from xplain.models.outputs import Activation, OutputKind

PREFIX = "onnx:"
CPU = torch.device("cpu")
INPUT_TYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}
# The activations of the operators at the end of a graph.
ACTIVATIONS: dict[str, Activation] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
FATAL_ERRORS_ONLY = 4  # log_severity_level: other errors are raised
SMALLEST = 2.0**-149  # the smallest positive float32
LARGEST = 1 - 2.0**-25  # below the largest float32 under 1, to which greater probabilities round


class OnnxNetwork(BlackBox):
    """An ONNX graph with one input (B, C, H, W) or (B, H, W, C).

    Outputs that end in a softmax or a sigmoid become logits: log p, or log p - log(1 - p).

    activation: of the output that holds the logits, if the graph ends in one.
    size, mean, std, labels: as for modules; from the graph and its metadata, where they are known.
    """

    def __init__(self, path: Path, graph: OnnxGraph) -> None:
        super().__init__()
        self.path = path
        self.opset = graph.opset
        session = self._open_session(CPU)
        self._sessions = {CPU: session}
        self.input = _find_input(session, path)
        self.dtype = INPUT_TYPES[self.input.type]
        self.fixed_rows, *sides = map(_to_fixed_side, self.input.shape)
        self.channels_last = _has_channels_last(sides)
        channels, height, width = (sides[2], sides[0], sides[1]) if self.channels_last else sides
        if channels is not None:
            self.channels = channels
        if height is not None and width is not None:
            self.size = (height, width)
        self.operators = {output.name: graph.last_operator(output.name) for output in session.get_outputs()}
        candidates = [output.name for output in session.get_outputs() if output.type in INPUT_TYPES]
        logits = candidates[0] if len(candidates) == 1 else "logits"
        self.last_operator = self.operators.get(logits, "")
        if self.last_operator in ACTIVATIONS:
            self.activation = ACTIVATIONS[self.last_operator]
        for name, value in _read_metadata(session.get_modelmeta().custom_metadata_map).items():
            setattr(self, name, value)

    def _open_session(self, device: torch.device) -> Any:
        """Return an onnxruntime session on a device. Raises InputError if the graph is not supported."""
        runtime = _import_onnxruntime(self.path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = FATAL_ERRORS_ONLY
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        try:
            return runtime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no common base class
            message = f"cannot load the ONNX model {str(self.path)!r} (opset {self.opset}): {first_line(error)}"
            hint = "use standard operators that onnxruntime supports"
            raise device_error(error) or InputError(message, hint) from None

    def _session_on(self, device: torch.device) -> Any:
        """Return the session for images on a device: on CUDA if onnxruntime supports it, otherwise on the CPU."""
        if device.type == "cuda" and device not in self._sessions:
            is_supported = "CUDAExecutionProvider" in _import_onnxruntime(self.path).get_available_providers()
            self._sessions[device] = self._open_session(device) if is_supported else self._sessions[CPU]
            if not is_supported:
                emit_note("this onnxruntime does not support CUDA; the model runs on the CPU")
        return self._sessions.get(device, self._sessions[CPU])

    def call(self, images: Tensor) -> object:
        """Return the outputs as a tensor, or as a dictionary if there are several."""
        device = images.device
        if self.channels_last:
            images = images.permute(0, 2, 3, 1)
        pixels = images.to("cpu", self.dtype).contiguous().numpy()
        try:
            values = self._session_on(device).run(None, {self.input.name: pixels})
        except Exception as error:
            if "allocate memory" in str(error):
                raise MemoryError(first_line(error)) from None
            raise
        outputs = {
            name: _to_logits(value, operator)
            for (name, operator), value in zip(self.operators.items(), values, strict=True)
        }
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))


def load_onnx(name: str) -> Classifier:
    """Load the model called ``onnx:FILE``.

    Raises UsageError if onnxruntime is not installed, and InputError if the file is missing or not supported.
    """
    path = Path(name.removeprefix(PREFIX))
    _import_onnxruntime(path)
    graph = read_onnx_graph(path)
    data_files = [_find_data_file(path, location) for location in graph.external_files]
    network = OnnxNetwork(path, graph)
    classifier = wrap_module(network, name, None)
    if network.dtype == torch.float64:
        classifier.double()
    classifier.weights = Weights(str(path), _hash_files(path, data_files))
    if network.last_operator in ACTIVATIONS:
        classifier.output = OutputKind(ACTIVATIONS[network.last_operator], source="graph")
    _check_rows(classifier, network)
    classifier.notes += _describe_assumptions(network)
    return classifier


def _import_onnxruntime(path: Path) -> Any:
    """Return onnxruntime. Raises UsageError if it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise UsageError(
            f"the model {PREFIX + str(path)!r} requires onnxruntime",
            "install it with: pip install 'xplain-vision[onnx]'",
        ) from None


def _find_data_file(path: Path, location: str) -> Path:
    """Return the file of external data. Raises InputError if it is missing or outside the folder of the model."""
    folder = path.parent.resolve()
    target = (folder / location).resolve() if "\0" not in location else folder
    if Path(location).is_absolute() or not target.is_relative_to(folder) or target == folder:
        raise InputError(
            f"{str(path)!r} refers to data outside its folder: {location!r}", "save the data beside the model"
        )
    if not target.is_file():
        raise InputError(f"the data file {location!r} of {str(path)!r} not found", "put it beside the model")
    return target


def _hash_files(path: Path, data_files: list[Path]) -> str:
    """Return the SHA-256 of a model file, or with external data the SHA-256 of the digests of all its files."""
    digests = [describe_weights_file(file).sha256 for file in (path, *data_files)]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _find_input(session: Any, path: Path) -> Any:
    """Return the description of the graph's only input. Raises InputError unless it is a floating-point batch of images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"{str(path)!r} has {len(inputs)} inputs ({names})", "export a model that takes images only")
    (value,) = inputs
    if value.type not in INPUT_TYPES:
        raise InputError(
            f"the input {value.name!r} of {str(path)!r} is {value.type}, not floating point",
            "export the model without the conversion of the pixels",
        )
    if len(value.shape) != 4:
        raise InputError(
            f"the input {value.name!r} of {str(path)!r} has shape {value.shape}, not (images, channels, height, width)",
            "use an image classifier",
        )
    return value


def _to_fixed_side(side: object) -> int | None:
    """Return a side of the input's shape, or None if it may have any length."""
    return side if isinstance(side, int) and side > 0 else None


def _has_channels_last(sides: list[int | None]) -> bool:
    """Return whether the sides of an input after the batch are height, width, channels: the last is 1 or 3, the first is not."""
    return sides[2] in (1, 3) and sides[0] not in (1, 3)


def _read_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the entries ``mean``, ``std`` and ``labels``; labels are also found under ``names`` (Ultralytics)."""
    values = {key: _parse_metadata(key, metadata[key]) for key in ("mean", "std", "labels", "names") if key in metadata}
    names = values.pop("names", None)
    if names is not None and "labels" not in values:
        values["labels"] = list(names.values()) if isinstance(names, dict) else names
    return values


def _parse_metadata(key: str, text: str) -> Any:
    """Return a value of the metadata: JSON, a Python literal, or numbers or names between commas. Raises InputError."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    parts = [part.strip() for part in text.split(",")]
    if key == "labels":
        return parts
    raise InputError(f"the metadata {key!r} of the ONNX model is {text[:60]!r}", "write a list of numbers")


def _to_logits(value: Any, operator: str) -> Any:
    """Return the logits of probabilities that a softmax or sigmoid made, in double precision; other outputs unchanged."""
    if operator not in ("Softmax", "Sigmoid"):
        return value
    probabilities = torch.from_numpy(value).double()
    if operator == "Softmax":
        return probabilities.clamp(min=SMALLEST).log()
    return probabilities.clamp(SMALLEST, LARGEST).logit()


def _check_rows(classifier: Classifier, network: OnnxNetwork) -> None:
    """Set ``fixed_rows`` to one if a graph of any number of rows accepts one image per call only."""
    if network.fixed_rows is not None:
        return
    channels = getattr(network, "channels", classifier.channels)
    noise = torch.rand((2, channels, *classifier.size), generator=torch.Generator().manual_seed(0))
    try:
        network(noise.to(classifier.dtype))
    except SHAPE_ERRORS:
        try:
            network(noise[:1].to(classifier.dtype))
        except SHAPE_ERRORS:
            return  # it is not the number of rows
        network.fixed_rows = 1


def _describe_assumptions(network: OnnxNetwork) -> list[str]:
    """Return notes on what was assumed about the network."""
    notes = []
    if network.channels_last:
        notes.append(f"the input {network.input.name!r} has its channels last")
    if network.last_operator == "Softmax":
        notes.append("the model output is a softmax; using its logarithm as the logits")
    if network.last_operator == "Sigmoid":
        notes.append("the model output is a sigmoid; using log p - log(1 - p) as the logits")
    return notes
