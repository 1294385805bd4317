"""Detect where the logits are in the output of a network, and which activation turns them into probabilities."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from xplain.core.errors import MODEL_ERRORS, InputError, device_error, first_line
from xplain.models.final_activation import ActivationCall, ActivationMode, FinalCall, Function, compute_activation
from xplain.models.last_linear import find_last_linear
from xplain.models.logits import find_logits, list_candidates
from xplain.models.output_graph import ends_in_formula, find_final_function
from xplain.models.output_reader import OutputReader
from xplain.models.output_request import (
    EndOfNetwork,
    OutputRequest,
    check_threshold,
    choose_activation,
    list_assumptions,
)
from xplain.models.outputs import OutputKind

SUM_TOLERANCE = 1e-3  # of the sum of the probabilities of exclusive classes
INDEPENDENT_SUM = 1e-2  # a sum farther from 1 than this is not of exclusive classes
CALL_TOLERANCE = 1e-5  # between the activation of the logits and the output of the network
ACTIVATION_MODULES = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid)

Run = Callable[[Tensor], object]  # images (B, C, H, W) -> the output of the network


@dataclass(frozen=True)
class DetectedOutput:
    """How to read the logits, what they mean, the number of classes, and the assumptions as text for the user."""

    reader: OutputReader
    kind: OutputKind
    classes: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _TracedRun:
    """A forward pass: the output, the values (rows, columns) in it, and the calls of activation functions, ``total`` of them.

    modules: the outputs of the modules of ACTIVATION_MODULES that ran once, by name.
    """

    output: object
    values: Tensor
    calls: list[ActivationCall]
    total: int
    modules: dict[str, Tensor]


@torch.inference_mode(mode=False)
def detect_output(
    model: nn.Module, run: Run, images: Tensor, request: OutputRequest, pair: object = None
) -> DetectedOutput:
    """Run the network on two and on three images of noise, and return what its outputs mean.

    run: function that returns the output of ``model``. images: (B, C, H, W), of a shape that the network accepts.
    pair: the output of the network for two images, if it is known.
    Raises InputError if the output has no logits or contradicts an attribute of the module, and UsageError if it contradicts an
    option.
    """
    run = _with_fixed_seed(run)
    if pair is None:
        with torch.no_grad():
            pair = run(make_noise(images, 2))
    entry, notes = _choose_entry(pair, 2, request)
    columns = find_logits(pair, 2, None, entry)[0].shape[1]
    noise = make_noise(images, 3)
    traced = _trace(model, run, noise, columns, entry)
    reader = OutputReader(entry, columns)
    end, bare_reader = _find_end(model, run, reader, noise, traced)
    activation, source = choose_activation(request, end, columns)
    if end.activation is not None and activation != "none" and (activation == "binary" or activation == end.activation):
        reader = bare_reader
    notes += _describe_inversion(reader)
    if activation == "binary":
        reader = replace(reader, is_binary=True)
        reader = find_last_linear(model, run, reader, noise, differentiate=traced.values.requires_grad)
    threshold = check_threshold(request, activation, columns)
    kind = OutputKind(activation, source, reader.final_call is not None, threshold, entry)
    notes += list_assumptions(request, activation, source, columns)
    return DetectedOutput(reader, kind, 2 if reader.is_binary else columns, notes)


def make_noise(images: Tensor, rows: int) -> Tensor:
    """Return uniform noise in [0, 1] of the shape, dtype and device of images (B, C, H, W), always the same."""
    noise = torch.rand((rows, *images.shape[1:]), generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    return noise.to(images.device)


def _with_fixed_seed(run: Run) -> Run:
    """Return the function with the same random draws in every call. The random state of the caller does not change."""

    def run_seeded(images: Tensor) -> object:
        with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
            torch.default_generator.manual_seed(0)
            if images.device.type == "cuda":
                torch.cuda.manual_seed(0)
            return run(images)

    return run_seeded


def describe_known_output(output: object, rows: int, request: OutputRequest) -> DetectedOutput | None:
    """Return the meaning of an output for ``rows`` images if the network is of a library.

    Returns None for any other network, and for a single logit, which needs ``detect_output``. Raises the errors of ``detect_output``.
    """
    if request.known_kind is None:
        return None
    values, entry = find_logits(output, rows, None, request.entry or "")
    columns = values.shape[1]
    activation, source = choose_activation(request, EndOfNetwork(), columns)
    if request.known_kind.activation == "binary" and request.source != "user":
        activation = "binary"  # the network returns the logits of both classes
    if columns == 1 and activation != "none":
        return None
    kind = OutputKind(activation, source, False, check_threshold(request, activation, columns), entry)
    return DetectedOutput(OutputReader(entry, columns), kind, columns)


def _trace(model: nn.Module, run: Run, images: Tensor, columns: int, entry: str) -> _TracedRun:
    """Run the network with gradients if it supports them, and record its activation functions.

    Raises InputError unless it returns logits (rows, columns) for three images, as it does for two.
    """
    try:
        return _trace_once(model, run, images, columns, entry, differentiate=True)
    except MODEL_ERRORS as error:  # such as for parameters that are modified in place
        if device_error(error):
            raise
    try:
        return _trace_once(model, run, images, columns, entry, differentiate=False)
    except MODEL_ERRORS as error:
        if device_error(error):
            raise
        message = f"the model accepts 2 images and fails for {len(images)} ({first_line(error)})"
        raise InputError(message, "accept any number of images") from None


def _trace_once(
    model: nn.Module, run: Run, images: Tensor, columns: int, entry: str, *, differentiate: bool
) -> _TracedRun:
    outputs: dict[str, list[Tensor]] = {}

    def record(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        outputs.setdefault(name, []).append(output)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if type(module) in ACTIVATION_MODULES:
                stack.callback(module.register_forward_hook(partial(record, name)).remove)
        stack.enter_context(torch.set_grad_enabled(differentiate))
        mode = stack.enter_context(ActivationMode(keep=True))
        output = run(images.detach().requires_grad_(differentiate))
    values, _ = find_logits(output, len(images), columns, entry)
    once = {name: tensors[0] for name, tensors in outputs.items() if len(tensors) == 1}
    return _TracedRun(output, values, mode.calls, mode.total, once)


def _choose_entry(output: object, rows: int, request: OutputRequest) -> tuple[str, list[str]]:
    """Return the entry of the output that holds the logits, and a note if that is not certain."""
    if request.entry is not None:
        return request.entry, []
    entry = find_logits(output, rows)[1]
    if entry in ("", "logits"):
        return entry, []
    candidates = list_candidates(output, rows)
    if len(candidates) == 1:
        return entry, [f"the model returns a {type(output).__name__}; using its entry {entry!r} as the logits"]
    shapes = [f"(B, {logits.shape[1]})" for logits in candidates.values()]
    listed = f"{', '.join(shapes[:-1])} and {shapes[-1]}"
    others = " or ".join(f"--logits {name}" for name in candidates if name != entry)
    return entry, [
        f"the model returns {len(shapes)} outputs, {listed}; using the first as the logits (set {others} for another)"
    ]


def _find_end(
    model: nn.Module, run: Run, reader: OutputReader, images: Tensor, traced: _TracedRun
) -> tuple[EndOfNetwork, OutputReader]:
    """Return the activation that the network ends in, and the reader of the logits before it."""
    for call in reversed(traced.calls):
        final_call = _match_call(call, traced)
        if final_call is None:
            continue
        bare_reader = replace(reader, final_call=final_call, final_module=_find_module(traced, call))
        function: Function = "sigmoid" if final_call.is_selected else call.function
        if _explains_output(run, bare_reader, images, function, traced.values, call.output.dtype):
            return EndOfNetwork(function), bare_reader
    end = _find_end_by_graph(traced.values)
    if end.function is None:
        end = _find_end_by_values(run, reader, images, traced.values)
    return end, replace(reader, inverted=end.function)


def _match_call(call: ActivationCall, traced: _TracedRun) -> FinalCall | None:
    """Return a call whose result is the output of the network, or of which the network returns one probability; else None."""
    values, result = traced.values.detach(), call.output.detach().to(traced.values.dtype)
    if result.numel() == values.numel():
        if not torch.equal(result.reshape(values.shape), values):
            return None
        return FinalCall(call.function, call.number, traced.total)
    if call.function != "softmax" or values.shape[1] > 1 or result.ndim != 2 or len(result) != len(values):
        return None
    if not bool((result == values).all(dim=0).any()):
        return None
    return FinalCall(call.function, call.number, traced.total, is_selected=True)


def _find_module(traced: _TracedRun, call: ActivationCall) -> str:
    """Return the name of the module that ran a call, or an empty text."""
    return next((name for name, output in traced.modules.items() if output is call.output), "")


@torch.no_grad()
def _explains_output(
    run: Run, reader: OutputReader, images: Tensor, function: Function, values: Tensor, dtype: torch.dtype
) -> bool:
    """Return whether the activation of the logits without the final call is the output of the network."""
    logits = reader.find(reader.run_without_activation(lambda: run(images)))
    tolerance = max(CALL_TOLERANCE, 4 * torch.finfo(dtype).eps)
    return torch.allclose(compute_activation(function, logits), values, rtol=tolerance, atol=tolerance)


def _find_end_by_graph(values: Tensor) -> EndOfNetwork:
    """Return the activation that the autograd graph ends in, if the values agree with it."""
    function = find_final_function(values)
    if function == "softmax" and values.shape[1] == 1 and bool((values < 1).any()):
        return EndOfNetwork("sigmoid")  # one probability of the softmax
    is_possible = {
        None: False,
        "softmax": _is_exclusive(values),
        "log_softmax": _is_exclusive(values.exp()),
        "sigmoid": _is_probability(values),
        "log_sigmoid": bool((values <= 0).all()),
    }
    return EndOfNetwork(function if is_possible[function] else None)


def _find_end_by_values(run: Run, reader: OutputReader, images: Tensor, values: Tensor) -> EndOfNetwork:
    """Return the activation that the values suggest, for a softmax or sigmoid that is written as a formula.

    A sigmoid is only assumed if the autograd graph ends in such a formula, because logits may lie in [0, 1] too.
    """
    if not _is_probability(values):
        return EndOfNetwork()
    with torch.no_grad():
        plain = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
        samples = torch.cat([values, reader.find(run(plain))])
    if samples.shape[1] > 1 and _is_exclusive(samples):
        return EndOfNetwork("softmax", "values")
    is_independent = samples.shape[1] == 1 or bool(((samples.sum(dim=1) - 1).abs() > INDEPENDENT_SUM).any())
    if is_independent and _is_probability(samples) and ends_in_formula(values):
        return EndOfNetwork("sigmoid", "values")
    return EndOfNetwork()


def _is_probability(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _is_exclusive(values: Tensor) -> bool:
    """Return whether all values are non-negative and every row sums to 1."""
    sums = values.double().sum(dim=1)
    return bool((values >= 0).all()) and bool(((sums - 1).abs() < SUM_TOLERANCE).all())


def _describe_inversion(reader: OutputReader) -> list[str]:
    """Return a note if the logits are computed from the output of the final activation."""
    if reader.inverted in (None, "log_softmax"):
        return []
    name = "softmax" if reader.inverted == "softmax" else "sigmoid"
    inverse = "logarithm" if reader.inverted == "softmax" else "logit"
    return [f"the model ends in a {name} that cannot be skipped; using the {inverse} of its output as the logits"]
