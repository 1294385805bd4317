"""Measure how many times as fast as PyTorch OpenVINO computes the rows of a classifier, once per model and machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from xplain.models import Classifier
from xplain.models.channels import make_noise
from xplain.oracle.engines import use_engine
from xplain.oracle.openvino_cache import load_gain, save_gain
from xplain.oracle.openvino_engine import Kind, OpenVinoEngine
from xplain.oracle.oracle import Oracle
from xplain.oracle.runtime import inference_session

ROUNDS = 3
SLOW = 1.0  # a call that takes more seconds is timed once
log = logging.getLogger("xplain")


def find_gain(classifier: Classifier, engine: OpenVinoEngine, kind: Kind) -> float:
    """Return the time of PyTorch divided by that of the engine. The measured value is stored, so that later commands use the same one."""
    if kind not in engine.gains:
        key = engine.gain_key(kind)
        gain = load_gain(key)
        if gain is None:
            gain = measure_gain(classifier, engine, kind)
            save_gain(key, gain)
        log.debug("OpenVINO computes %s passes %.2f times as fast as PyTorch", kind, gain)
        engine.gains[kind] = gain
    return engine.gains[kind]


def measure_gain(classifier: Classifier, engine: OpenVinoEngine, kind: Kind) -> float:
    """Return the time of PyTorch divided by that of the engine, for one call on noise images. Median of rounds in which both take turns."""
    oracle = Oracle(classifier, precision=engine.precision)
    x = make_noise(classifier, oracle.rows_per_call(make_noise(classifier, 1)))
    y = torch.zeros(len(x), dtype=torch.long)

    def compute() -> Any:
        return oracle.logits(x) if kind == "forward" else oracle.gradients(x, y)

    def time_both() -> tuple[float, float]:
        torch_seconds = _time(compute)
        with use_engine(classifier, engine):
            return torch_seconds, _time(compute)

    ratios = []
    with torch.inference_mode(False), inference_session(classifier):
        time_both()  # warm up
        for _ in range(ROUNDS):
            torch_seconds, engine_seconds = time_both()
            ratios.append(torch_seconds / engine_seconds)
            if max(torch_seconds, engine_seconds) > SLOW:
                break
    return median(ratios)


def _time(compute: Callable[[], Any]) -> float:
    began = time.perf_counter()
    compute()
    return time.perf_counter() - began
