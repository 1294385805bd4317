"""Choose the engine that computes the rows of a classifier: PyTorch or OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch

from xplain.core.errors import emit_note
from xplain.core.types import PYTORCH, EngineName, Precision
from xplain.models import Classifier
from xplain.models.optimize import inference_copy
from xplain.oracle.engines import Engine

if TYPE_CHECKING:
    from xplain.oracle.openvino_engine import OpenVinoEngine

# Rows from which the faster passes repay the conversion of a network, of those that gain from it: measured with
# ``tests.tools.engine_break_even`` on two idle cores. The choice must not depend on whether the converted network is stored, so that a
# command gives the same numbers each time.
FORWARD_ROWS = 2_500
GRADIENT_ROWS = 4_000
MIN_GAIN = 1.1  # how many times as fast as PyTorch ``auto`` demands
log = logging.getLogger("xplain")

# Engines by inference copy, precision and whether they compute gradients: a classifier that has changed gets another one. None: there is
# no engine for it.
_ENGINES: WeakKeyDictionary[Classifier, dict[tuple[Precision, bool], OpenVinoEngine | None]] = WeakKeyDictionary()


class PlannedRows(NamedTuple):
    """The rows that a command will compute: forward passes alone, and gradients."""

    forwards: int
    gradients: int

    def __add__(self, other: object) -> PlannedRows:
        assert isinstance(other, PlannedRows)
        return PlannedRows(self.forwards + other.forwards, self.gradients + other.gradients)

    def times(self, count: int) -> PlannedRows:
        """Return the rows of ``count`` repetitions."""
        return PlannedRows(self.forwards * count, self.gradients * count)


NO_ROWS = PlannedRows(0, 0)


def choose_engine(
    classifier: Classifier,
    name: EngineName,
    precision: Precision,
    rows: PlannedRows = NO_ROWS,
    recorded: Mapping[str, str] | None = None,
) -> Engine | None:
    """Return the engine for a command, or None for PyTorch.

    name: ``openvino`` uses it if possible, and emits a note if not. ``auto`` uses it if the planned rows repay the conversion, for the
        passes in which it is faster than PyTorch.
    precision: OpenVINO computes everything in fp32, forward passes only in bf16, and nothing in tf32.
    recorded: the engines of a run that ``auto`` continues.
    """
    if name == "torch" or (name == "auto" and recorded == PYTORCH):
        return None
    gradients = precision == "fp32" and (name == "openvino" or rows.gradients >= GRADIENT_ROWS)
    if name == "auto":
        if recorded is not None:
            gradients = precision == "fp32" and recorded.get("gradients") == "openvino"
        elif rows.forwards < FORWARD_ROWS and not gradients:
            return None
    obstacle = _find_obstacle(classifier, precision)
    engine: OpenVinoEngine | None = None
    if not obstacle:
        with torch.inference_mode(False):
            copy = inference_copy(classifier)
        engines = _ENGINES.setdefault(copy, {})
        if (precision, gradients) not in engines:
            engines[precision, gradients], obstacle = _make_engine(classifier, precision, gradients)
        engine = engines[precision, gradients]
    if engine is None:
        reason = obstacle or "OpenVINO cannot compute this model"
        _report(name, f"--engine openvino is not used: {reason}; PyTorch computes the rows")
        return None
    if obstacle:
        _report(name, f"--engine openvino computes forward passes only: {obstacle}; PyTorch computes the gradients")
    return _keep_faster(classifier, engine) if name == "auto" and recorded is None else engine


def _keep_faster(classifier: Classifier, engine: OpenVinoEngine) -> OpenVinoEngine | None:
    """Return the engine without the passes in which it is not clearly faster than PyTorch, or None if nothing is left."""
    from xplain.oracle.engine_gain import find_gain

    if engine.has_gradients:
        if find_gain(classifier, engine, "gradient") >= MIN_GAIN:
            return engine
        engine = engine.without_gradients()
    return engine if find_gain(classifier, engine, "forward") >= MIN_GAIN else None


def _report(name: EngineName, text: str) -> None:
    """Emit a note if the user asked for the engine, and a debug message otherwise."""
    if name == "openvino":
        emit_note(text)
    else:
        log.debug(text)


def _make_engine(classifier: Classifier, precision: Precision, gradients: bool) -> tuple[OpenVinoEngine | None, str]:
    """Return an engine and why it computes no gradients, or None and the reason."""
    from xplain.oracle.openvino_engine import EngineError, OpenVinoEngine

    try:
        engine = OpenVinoEngine(classifier, gradients=gradients, precision=precision)
    except EngineError as error:
        return None, str(error)
    return engine, engine.gradient_problem


def _find_obstacle(classifier: Classifier, precision: Precision) -> str:
    """Return why OpenVINO cannot compute a classifier, or "" if nothing is known that prevents it."""
    checks = classifier.checks
    if classifier.device.type != "cpu":
        return f"it computes on the CPU, and the model is on {classifier.device}"
    if precision == "tf32":
        return "it computes in fp32 and bf16, not tf32"
    if classifier.dtype != torch.float32:
        return f"it computes in float32, and the model is in {str(classifier.dtype).removeprefix('torch.')}"
    if classifier.is_black_box:
        return "the model can only be called"
    if classifier.pending_inspection is not None or classifier.classes is None:
        return "the size of the images is not known yet"
    if checks.is_random or checks.mixes_rows or checks.needs_two_rows:
        return "the rows of the model depend on chance or on each other"
    if find_spec("openvino") is None:
        return "openvino is not installed (pip install 'xplain-vision[openvino]')"
    return ""


def describe_engine(engine: Engine | None) -> dict[str, str]:
    """Return the engine of forward passes and that of gradients, for records."""
    return dict(PYTORCH) if engine is None else engine.describe()
