"""The machine-readable account of one explanation."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from PIL import features
from torch import Tensor

import xplain
from xplain.core.config import Compute
from xplain.core.registry import MethodSpec
from xplain.core.types import Attribution, ScoreKind
from xplain.data.images import LoadedImage
from xplain.models import Classifier

TOP = 5  # predictions in a record
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow")


@dataclass(frozen=True, eq=False)
class Work:
    """A method that is to be run: settings checked; ``label`` is the name that its files carry."""

    spec: MethodSpec
    settings: dict[str, Any]
    references: Tensor | None
    score: ScoreKind
    label: str

    @property
    def rows(self) -> int:
        """Forward rows an image, at most."""
        return self.spec.cost(**self.settings)[0]

    def describe(self) -> dict[str, Any]:
        """Method, parameters and score as they stand in a record."""
        return {
            "method": self.spec.name,
            "params": self.settings,
            "score": self.score,
            "method_version": self.spec.version,
        }


def describe_run(compute: Compute, classifier: Classifier) -> dict[str, Any]:
    """What is the same for every explanation of a run."""
    return {
        "model": {"name": classifier.name, "weights": asdict(classifier.weights)}
        | ({"notes": classifier.notes} if classifier.notes else {}),
        "preprocessing": asdict(classifier.preprocessing)
        | {"mean": classifier.mean.flatten().tolist(), "std": classifier.std.flatten().tolist()},
        "seed": compute.seed,
        "precision": compute.precision,
        "device": str(classifier.device),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"xplain": xplain.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        if name in sys.modules or name == "pillow":
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
    if webp := features.version("webp"):  # what aic and sic measure information with
        found["libwebp"] = webp
    return found


def describe_target(classifier: Classifier, index: int, probabilities: Tensor) -> dict[str, Any]:
    """A class with its wnid, name and probability; probabilities: (classes,)."""
    return classifier.class_names.describe(index) | {"probability": float(probabilities[index])}


def describe_prediction(classifier: Classifier, probabilities: Tensor) -> list[dict[str, Any]]:
    """The TOP classes, the most probable first; probabilities: (classes,)."""
    best = probabilities.topk(min(TOP, len(probabilities))).indices.tolist()
    return [describe_target(classifier, index, probabilities) for index in best]


def describe_explanation(
    each: LoadedImage,
    work: Work,
    classifier: Classifier,
    logits: Tensor,
    contrasts: Sequence[int],
    result: Attribution,
    at: int,
) -> dict[str, Any]:
    """What differs from one explanation to the next; ``at`` is the image's place in ``result``. logits: (classes,)."""
    assert result.target is not None
    probabilities = logits.double().softmax(dim=0)
    gap = result.gap
    completeness = None
    if result.expected is not None and gap is not None:
        completeness = {"expected": float(result.expected[at]), "sum": float(result.total[at]), "gap": float(gap[at])}
    details = {
        name: value[at].tolist() for name, value in result.details.items() if name not in ("forwards", "backwards")
    }
    return {
        "input": each.source.name,
        "sha256": each.digest,
        **work.describe(),
        "target": describe_target(classifier, int(result.target[at]), probabilities),
        "against": [describe_target(classifier, index, probabilities) for index in contrasts],
        "prediction": describe_prediction(classifier, probabilities),
        "cost": describe_cost(result, at),
        "completeness": completeness,
        "details": details | result.facts,
        "rounding": work.spec.rounding or None,
        "warnings": [text for text, mask in result.flags.items() if bool(mask[at])],
    }


def describe_cost(result: Attribution, at: int) -> dict[str, float]:
    """Rows of one image, and its share of the seconds."""
    return {name: round(float(result.details[name][at])) for name in ("forwards", "backwards")} | {
        "seconds": round(result.cost.seconds / len(result.values), 4)
    }
