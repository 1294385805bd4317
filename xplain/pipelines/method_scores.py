"""Choose the score that a method explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from xplain.core.errors import emit_note
from xplain.core.registry import MethodSpec, Spec
from xplain.core.types import ScoreKind
from xplain.methods.smooth import parse_inner_method
from xplain.models.outputs import OutputKind
from xplain.oracle.scores import available_score, check_score
from xplain.pipelines.arguments import check_choice


def find_own_score(spec: MethodSpec, params: Mapping[str, Any]) -> ScoreKind | None:
    """Return the score that the parameters of a method choose, or those of the method that it runs, or None. Raises UsageError."""
    own, others = split_score(spec, params)
    if own is None and "run" in spec.needs:
        text = spec.resolve(others)["method"]
        return split_score(*parse_inner_method(text))[0]
    return own


def split_score(spec: Spec, params: Mapping[str, Any]) -> tuple[ScoreKind | None, dict[str, Any]]:
    """Return the score that the parameters of a method choose, or None, and the other parameters. Raises UsageError if it is unknown."""
    others = dict(params)
    if "score" in spec.parameters or "score" not in others:
        return None, others
    score = others.pop("score")
    check_choice("score", score, get_args(ScoreKind))
    return score, others


def choose_score(spec: MethodSpec, score: ScoreKind | None, output: OutputKind) -> ScoreKind:
    """Return the requested score, or the default of the method. Raises UsageError if the model's output does not have it."""
    if score is not None:
        check_score(score, output)
        return score
    available = available_score(spec.score, output)
    if available != spec.score:
        emit_note("the model returns values without probabilities; explaining the value of the target")
    return available
