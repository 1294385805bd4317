"""Explain and evaluate a random network, and check every result against other ways to compute it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

import xplain
from tests.helpers.random_networks import Case, random_case
from tests.helpers.random_questions import FirstValue, Question, draw_question
from tests.helpers.state import state
from xplain.core.errors import ModelNote, XplainError
from xplain.models.checks import RANDOM_FLAG

ROUNDING = 1e-12  # absolute: differences that are not compared further
TIES = ("blur-ig", "guided-ig")  # whose points have equal values or gradients, among which rounding chooses, also in float64
CURVES = ("deletion", "morf", "lerf")  # curves that start at the image itself
RANDOM_NOTE = "the model draws random numbers in evaluation mode"
MIXING_NOTE = "the rows of a call change one another"


class FaultError(Exception):
    """The result of a case is wrong."""


def run_case(seed: int) -> str:
    """Return the outcome of a case: ``agrees``, ``refused: ...`` or ``refused, unlike the plain network: ...``.

    Raises FaultError, or the error that reached the user.
    """
    case = random_case(seed)
    question = draw_question(case, random.Random(seed))
    before = state(case.model)
    run = _Run(case, question)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = run.check()
        except XplainError as error:
            outcome = _judge_refusal(run, error)
    _need(state(case.model) == before, "the module has changed")
    numerical = [str(note.message) for note in caught if note.category is RuntimeWarning and "xplain/" in note.filename]
    _need(not numerical, f"warnings: {numerical}")
    if not outcome.startswith("refused") or case.output.refusal == "":
        _check_notes(case, [str(note.message) for note in caught if note.category is ModelNote], outcome)
    return outcome


def describe_case(seed: int) -> str:
    """Return the network, the method and the metric of a case."""
    case = random_case(seed)
    return f"{case.description}: {draw_question(case, random.Random(seed)).description}"


def _judge_refusal(run: _Run, error: XplainError) -> str:
    """Return the outcome of a refused case."""
    case, question, text = run.case, run.question, str(error)
    _need(len(text.splitlines()) == 1 and bool(error.hint), f"not one line with a hint: {text}")
    expected = case.output.refusal
    _need(expected in text or not run.is_about_class, f"refused for another reason than {expected!r}: {text}")
    if expected or run.is_explained or (question.is_about_output and case.output.ends):
        return f"refused: {text}"
    try:
        _Run(case, question, case.load_plain).explain()
    except XplainError:
        return f"refused: {text}"
    return f"refused, unlike the plain network: {text}"


def _check_notes(case: Case, notes: list[str], outcome: str) -> None:
    for is_needed, text in ((case.is_random, RANDOM_NOTE), (case.mixes_rows, MIXING_NOTE)):
        _need(is_needed == any(text in note for note in notes), f"note on {text!r}: {not is_needed}, {outcome}")


class _Run:
    """The model of a case, and a question about it."""

    def __init__(self, case: Case, question: Question, load: Callable[[], xplain.Classifier] | None = None) -> None:
        self.case, self.question = case, question
        self.load = load or case.load
        self.is_explained = False

    @cached_property
    def classifier(self) -> xplain.Classifier:
        """The classifier, loaded at the first use."""
        return self.load()

    @cached_property
    def target(self) -> object:
        """The target function, or None if the target is a class."""
        if self.question.target == "function":
            return FirstValue()
        if self.question.target == "similar":
            return xplain.similarity(self.classifier, self.case.images[0].flip(2))
        return None

    @property
    def is_about_class(self) -> bool:
        """Whether a class is explained, and not a function of the output or a similarity, which need no classes."""
        return self.question.target not in ("function", "similar")

    def check(self) -> str:
        """Return ``agrees``. Raises FaultError if a result is wrong, and XplainError if the case is refused."""
        attribution = self.explain()
        self.is_explained = True
        _need(not self.case.output.refusal or not self.is_about_class, f"not refused: {self.case.output.refusal}")
        self._check_model()
        self._check_map(attribution)
        if not self.case.is_random:
            self._check_rows(attribution)
            self._check_plain(attribution)
        self._check_metric(attribution)
        return "agrees"

    def explain(self, rows: slice = slice(None)) -> xplain.Attribution:
        """Return the attribution of some of the images."""
        question, images = self.question, self.case.images[rows]
        classes = question.classes_of(rows) if self.target is None else {"target": self.target}
        return xplain.attribute(
            self.classifier, images, question.method.name, score=question.score, **classes, **question.settings
        )

    def _check_model(self) -> None:
        case, output = self.case, self.classifier.output
        _need(output.activation == case.activation, f"activation {output.activation}")
        _need(self.classifier.checks.is_random == case.is_random, "is random")
        _need(self.classifier.checks.mixes_rows == case.mixes_rows, "mixes rows")
        if case.is_random:
            return
        with torch.no_grad():
            logits = torch.cat([self.classifier(image[None].to(self.classifier.dtype)) for image in case.images])
            difference = logits - case.logits(case.images)
        if case.is_shifted:  # a constant per image does not matter
            difference = difference - difference.mean(dim=1, keepdim=True)
        _need(float(difference.abs().max()) < max(case.tolerance, 1e-6) * float(logits.abs().max()), "logits")

    def _check_map(self, attribution: xplain.Attribution) -> None:
        values, images = attribution.values, self.case.images
        _need(values.shape[1] in (1, images.shape[1]) and values.shape[2:] == images.shape[2:], f"shape {values.shape}")
        _need(bool(values.isfinite().all()), "the map is not finite")
        flagged = torch.zeros(len(images), dtype=torch.bool)
        for mask in attribution.flags.values():
            flagged |= mask
        is_zero = (values == 0).flatten(1).all(dim=1)
        _need(not bool((is_zero & ~flagged).any()), "the map is zero without a warning")
        is_flagged = bool(attribution.flags.get(RANDOM_FLAG, flagged[:0]).any())
        _need(is_flagged == self.case.is_random, "the flag of random models")

    def _check_rows(self, attribution: xplain.Attribution) -> None:
        for i in range(len(self.case.images)):
            row = slice(i, i + 1)
            alone = self.explain(row)
            _need(int(alone.target) == int(attribution.target[i]), "another target")
            if self._is_stable:
                distance = _distance(alone.values, attribution.values[row])
                _need(distance < self._tolerance, f"the map of image {i} by itself differs by {distance:.1e}")

    def _check_plain(self, attribution: xplain.Attribution) -> None:
        """Compare the map with that of the plain network, unless the question is about the output itself."""
        is_about_output = self.question.is_about_output and bool(self.case.output.ends)
        is_shifted = self.case.is_shifted and self.question.score not in ("prob", "log-prob", "margin")
        if is_about_output or is_shifted or not self._is_stable:
            return
        try:
            plain = _Run(self.case, self.question, self.case.load_plain).explain()
        except XplainError:
            return
        if ("stem" in plain.facts.get("layer", "")) != ("stem" in attribution.facts.get("layer", "")):
            return  # tokens in an unknown order: an earlier layer is used
        distance = _distance(plain.values, attribution.values)
        _need(distance < self._tolerance, f"the map of the plain network differs by {distance:.1e}")

    @property
    def _is_stable(self) -> bool:
        """Whether rounding changes maps little: it moves signs and ranks of some methods in float32."""
        is_exact = self.case.tolerance < 1e-5
        return (is_exact or not self.question.method.rounding) and self.question.method.name not in TIES

    @property
    def _tolerance(self) -> float:
        """The tolerance of maps. Relevance without biases consists of quotients that cancel."""
        return self.case.tolerance * (10 if self.question.settings.get("bias") == "drop" else 1)

    def _check_metric(self, attribution: xplain.Attribution) -> None:
        metric, targets, case = self.question.metric, attribution.target, self.case
        score = self._measure(attribution, slice(None))
        undefined = torch.zeros(len(case.images), dtype=torch.bool)
        for mask in score.undefined.values():
            undefined |= mask
        _need(bool((score.values.isnan() == undefined).all()), "NaN without a reason")
        if case.is_random:
            return
        for i in range(len(case.images)):
            alone, value = self._measure(attribution, slice(i, i + 1)).values, score.values[i : i + 1]
            same = bool(undefined[i] and alone.isnan()) or _distance(alone, value) < case.tolerance
            if metric == "error-rate" or self.question.metric_settings.get("relative"):  # a share, which may be rounding
                same = same or float((alone - value).abs()) < case.tolerance
            is_rerun = metric == "max-sensitivity" and not self._is_stable
            _need(same or is_rerun, f"{metric} of image {i} by itself: {float(alone)}, not {float(value)}")
        if metric in CURVES and score.curve is not None and self.target is None:
            with torch.no_grad():
                expected = case.probabilities(case.images).gather(1, targets[:, None])[:, 0]
            if self.question.metric_settings.get("relative"):
                return
            _need(_distance(score.curve[:, 0], expected) < case.tolerance, f"{metric} does not start at the image")

    def _measure(self, attribution: xplain.Attribution, rows: slice) -> xplain.Score:
        question = self.question
        settings = ",".join(f"{name}={value}" for name, value in question.settings.items())
        return xplain.measure(
            self.classifier,
            self.case.images[rows],
            attribution.values[rows],
            question.metric,
            target=attribution.target[rows] if self.target is None else self.target,
            method=question.method.name + (f":{settings}" if settings else ""),
            **question.metric_settings,
        )


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value; 0 if it is rounding."""
    difference = float((actual - expected).abs().max())
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return 0.0 if difference < ROUNDING else difference / scale


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise FaultError(message)
