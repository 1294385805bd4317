"""Explain and evaluate random small networks: ``python -m tests.tools.stress --count 10000``.

Each number stands for a network, a method and a metric. xplain must either refuse the case with a one-line error, or return a map
and a value that agree with the evaluation of each image by itself. Everything else is a fault, and the script exits with code 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import get_context

import torch
from torch import Tensor

import xplain
from tests.helpers.random_networks import Case, load, random_case
from tests.helpers.state import state
from xplain.core.errors import ModelNote, XplainError
from xplain.core.registry import METHODS, METRICS
from xplain.pipelines.compatibility import minimal_settings

TOLERANCE = 1e-6  # relative to the largest value, in float64
# Metrics that need boxes, files or training.
OTHER_METRICS = frozenset({"pointing-game", "roar", "label-randomisation", "parameter-randomisation"})
MINIMAL_METRICS = {
    "deletion": {"steps": 4},
    "insertion": {"steps": 4},
    "difference": {"steps": 4},
    "morf": {"steps": 4},
    "lerf": {"steps": 4},
    "sensitivity-n": {"masks": 4, "grid": 4},
    "infidelity": {"perturbations": 4},
    "max-sensitivity": {"samples": 2},
}
CURVES = ("deletion", "morf", "lerf")  # curves that start at the image itself


class FaultError(Exception):
    """The result of a case is wrong."""


def run_case(seed: int) -> str:
    """Return the outcome of a case: ``agrees`` or ``refused: ...``. Raises FaultError, or the error that reached the user."""
    case = random_case(seed)
    draw = random.Random(seed)
    spec = draw.choice(list(METHODS))
    metric = draw.choice([metric for metric in METRICS if metric.name not in OTHER_METRICS])
    before = state(case.model)
    outcome = "agrees"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelNote)
            classifier = load(case)
        _check_model(case, classifier)
        attribution = _check_method(case, classifier, spec)
        _check_metric(case, classifier, spec.name, metric.name, attribution)
    except XplainError as error:
        _need(len(str(error).splitlines()) == 1, f"the error has several lines: {error}")
        outcome = f"refused: {error}"
    _need(state(case.model) == before, "the module has changed")
    return outcome


def describe_case(seed: int) -> str:
    """Return the network, the method and the metric of a case."""
    draw = random.Random(seed)
    spec = draw.choice(list(METHODS))
    metric = draw.choice([metric for metric in METRICS if metric.name not in OTHER_METRICS])
    return f"{random_case(seed).description}: {spec.name}, {metric.name}"


def _check_model(case: Case, classifier: xplain.Classifier) -> None:
    _need(classifier.output.activation == case.activation, f"activation {classifier.output.activation}")
    with torch.no_grad():
        expected = case.logits(case.images)
        difference = classifier(case.images) - expected
        if "log-softmax" in case.description:  # a constant per image does not matter
            difference = difference - difference.mean(dim=1, keepdim=True)
    _need(float(difference.abs().max()) < TOLERANCE, "logits")


def _check_method(case: Case, classifier: xplain.Classifier, spec) -> xplain.Attribution:
    images = case.images
    settings = minimal_settings(spec, images.shape[2:])
    if "stride" in spec.parameters:
        settings |= {"window": 4, "stride": 4}
    attribution = xplain.attribute(classifier, images, spec.name, **settings)
    values = attribution.values
    _need(values.shape[1] in (1, images.shape[1]) and values.shape[2:] == images.shape[2:], f"shape {values.shape}")
    _need(bool(values.isfinite().all()), "the map is not finite")
    if spec.slopes:
        flagged = torch.zeros(len(images), dtype=torch.bool)
        for mask in attribution.flags.values():
            flagged |= mask
        is_zero = (values == 0).flatten(1).all(dim=1)
        _need(not bool((is_zero & ~flagged).any()), "the map is zero without a warning")
    for i in range(len(images)):
        alone = xplain.attribute(classifier, images[i : i + 1], spec.name, **settings)
        _need(int(alone.target) == int(attribution.target[i]), "another target")
        _need(_distance(alone.values, values[i : i + 1]) < TOLERANCE, f"the map of image {i} by itself differs")
    return attribution


def _check_metric(
    case: Case, classifier: xplain.Classifier, method: str, metric: str, attribution: xplain.Attribution
) -> None:
    options = MINIMAL_METRICS.get(metric, {})
    images, values, targets = case.images, attribution.values, attribution.target
    score = xplain.measure(classifier, images, values, metric, target=targets, method=method, **options)
    undefined = torch.zeros(len(images), dtype=torch.bool)
    for mask in score.undefined.values():
        undefined |= mask
    _need(bool((score.values.isnan() == undefined).all()), "NaN without a reason")
    for i in range(len(images)):
        row = slice(i, i + 1)
        alone = xplain.measure(
            classifier, images[row], values[row], metric, target=targets[row], method=method, **options
        )
        same = _distance(alone.values, score.values[row]) < TOLERANCE or bool(undefined[i] and alone.values.isnan())
        _need(same, f"{metric} of image {i} by itself: {float(alone.values)}, not {float(score.values[i])}")
    if metric in CURVES and score.curve is not None:
        with torch.no_grad():
            expected = case.probabilities(images).gather(1, targets[:, None])[:, 0]
        _need(_distance(score.curve[:, 0].to(expected), expected) < TOLERANCE, f"{metric} does not start at the image")


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return float((actual - expected).abs().max()) / scale


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise FaultError(message)


def try_case(seed: int) -> tuple[int, str]:
    """Return the number and the outcome of a case, ``FAULT: ...`` for a fault."""
    torch.set_num_threads(1)
    try:
        return seed, run_case(seed)
    except FaultError as error:
        return seed, f"FAULT: {error} [{describe_case(seed)}]"
    except Exception as error:
        return seed, f"FAULT: {type(error).__name__}: {error} [{describe_case(seed)}]"


def run_cases(seeds: Sequence[int], processes: int) -> Iterator[tuple[int, str]]:
    """Yield the number and the outcome of each case."""
    if processes == 1:
        yield from map(try_case, seeds)
        return
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(try_case, seeds, chunksize=20)


def main(arguments: Sequence[str]) -> int:
    """Run the cases, print every fault and the number of each outcome, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.stress", description=__doc__)
    parser.add_argument("--count", type=int, default=10000, help="number of cases (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--refusals", action="store_true", help="print the refusals too")
    options = parser.parse_args(arguments)
    outcomes: Counter[str] = Counter()
    for seed, outcome in run_cases(range(options.first, options.first + options.count), options.processes):
        kind = outcome.partition(":")[0]
        outcomes[kind] += 1
        if kind == "FAULT" or (options.refusals and kind == "refused"):
            print(seed, outcome, flush=True)
    print(*(f"{count} {kind}" for kind, count in sorted(outcomes.items())), sep=", ")
    return int(outcomes["FAULT"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
