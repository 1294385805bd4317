"""Choose the score that a method explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xplain.core.errors import UsageError, emit_note
from xplain.core.registry import MethodSpec, Spec
from xplain.core.scores import ContrastScore
from xplain.core.types import ScoreKind
from xplain.methods.smooth import parse_inner_method
from xplain.models.outputs import OutputKind
from xplain.oracle.scores import available_score, check_score
from xplain.pipelines.arguments import check_score_text


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
    return check_score_text(others.pop("score")), others


def choose_score(spec: MethodSpec, score: ScoreKind | None, output: OutputKind) -> ScoreKind:
    """Return the requested score, or the default of the method.

    Raises UsageError if the model's output does not have it, and for ``contrast`` if the method has contrast classes of its own.
    """
    if score is not None:
        if ContrastScore.parse(score) is not None and "against" in spec.needs:
            raise UsageError(
                f"{spec.name} is not defined for score=contrast, because it compares with false classes itself",
                "choose them with against, and use another score",
            )
        check_score(score, output)
        return score
    available = available_score(spec.score, output)
    if available != spec.score:
        emit_note("the model returns values without probabilities; explaining the value of the target")
    return available
