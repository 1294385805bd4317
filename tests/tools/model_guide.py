"""Make the tables of models and methods from the results of ``tests.tools.model_matrix``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tests.helpers.model_zoo import MODELS, SIDE
from xplain.core.registry import METHODS
from xplain.reports.tables import markdown_table

# Parts of the texts of refusals that name a layer, and what stands for them in the table of reasons.
NAMES = (
    (r" in [\w.]+(?=; )", ""),
    (r"weights of [\w.]+ have shape [\dx ]+ for 1 image", "weights of a layer have another shape"),
    (r"forward pass: [^;]+;", "forward pass;"),
)

HEADING = """# Models and methods

This table is written by `python -m tests.tools.model_matrix`, which runs every method on a model of each kind, with random weights.
Each of the {pairs} pairs of {models} models and {methods} methods either gives finite maps that repeat to the byte, at the cost that the
method claims, equal for an image alone and in a batch, and (CAM and attention maps) with their cells where the image shows them, or is
refused in one line, which `xplain list methods -m MODEL` prints: {outcomes}.

Images have {side} x {side} pixels, or the side in parentheses. `hf:`, `clip:` and `python:` models are small networks of that kind.
"""


@dataclass(frozen=True)
class PairResult:
    """The result of a method on a model. outcome: fits, refused or broken. text: the reason, if it does not fit."""

    model: str
    method: str
    outcome: str
    text: str = ""


Results = Mapping[str, Mapping[str, PairResult]]  # by model and method


def guide_page(results: Results) -> str:
    """Return the page of the guide: the table of models, and the reasons of the refusals."""
    outcomes = Counter(result.outcome for by_method in results.values() for result in by_method.values())
    heading = HEADING.format(
        pairs=outcomes.total(),
        models=len(results),
        methods=len(list(METHODS)),
        outcomes=", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()),
        side=SIDE,
    )
    return f"{heading}\n{models_table(results)}\n\n## Reasons\n\n{reasons_table(results)}\n"


def models_table(results: Results) -> str:
    """Return a table with a row per set of refusing methods, with its models and their image sizes if not SIDE."""
    models_by_refusals: dict[str, list[str]] = {}
    for name, by_method in results.items():
        refused = [f"`{result.method}`" for result in by_method.values() if result.outcome == "refused"]
        size = "" if MODELS[name] == SIDE else f" ({MODELS[name]})"
        models_by_refusals.setdefault(", ".join(refused) or "none", []).append(f"`{name}`{size}")
    rows = [[", ".join(models), refused] for refused, models in models_by_refusals.items()]
    return markdown_table(["models", "methods that refuse them"], rows)


def reasons_table(results: Results) -> str:
    """Return a table of the texts of the refusals, each with its methods and the number of models."""
    pairs_by_text: dict[str, list[PairResult]] = {}
    for by_method in results.values():
        for result in by_method.values():
            if result.outcome == "refused":
                text = without_names(result.text.removeprefix(result.method).strip())
                pairs_by_text.setdefault(text, []).append(result)
    rows = []
    for text, pairs in pairs_by_text.items():
        methods = dict.fromkeys(f"`{pair.method}`" for pair in pairs)
        rows.append([text, ", ".join(methods), str(len({pair.model for pair in pairs}))])
    return markdown_table(["reason and way out", "methods", "models"], rows)


def without_names(text: str) -> str:
    """Return the text of a refusal without the names of layers and their sizes, which differ between models."""
    for pattern, replacement in NAMES:
        text = re.sub(pattern, replacement, text)
    return text


def full_table(results: Results) -> str:
    """Return a table of methods by models, and a table of the reasons why methods do not fit."""
    words = {"fits": "fits", "refused": "–", "broken": "BROKEN"}
    rows = []
    for spec in METHODS:
        outcomes = []
        for by_method in results.values():
            result = by_method.get(spec.name)
            outcomes.append("?" if result is None else words[result.outcome])
        rows.append([spec.name, *outcomes])
    reasons = []
    for by_method in results.values():
        reasons += [[result.model, result.method, result.text] for result in by_method.values() if result.text]
    table = markdown_table(["method", *results], rows)
    return table + "\n\n" + markdown_table(["model", "method", "why not"], reasons)
