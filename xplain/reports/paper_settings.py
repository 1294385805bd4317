"""Where a run differs from the settings of a paper's table: model, weights, image size, data set, target and score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xplain.core.request import UNTRAINED

DATASET_NAMES = {"ImageNet": ("imagenet", "ilsvrc")}  # names in paths; by default the name of the data set itself


@dataclass(frozen=True)
class PaperSettings:
    """Settings of a paper's table, as far as the paper or the file with the table states them.

    models: names of the models. dataset: name of the data set. images: their number.
    image_size: height and width in pixels; None for the model's own. target, score: as the options; score None for the methods' own.
    hardware: what the paper measured speed on.
    """

    models: tuple[str, ...] = ()
    dataset: str | None = None
    images: int | None = None
    image_size: int | None = None
    target: str = "auto"
    score: str | None = None
    hardware: str | None = None


def find_differences(settings: PaperSettings, summary: Mapping[str, Any]) -> list[str]:
    """Return a text for each setting in which a run of evaluate differs from the table.

    summary: as ``summarize_run`` returns it. A run without a model of its own differs in the data set only.
    """
    run = summary["run"]
    model, request = run["fingerprint"]["model"], run.get("request", {})
    if model is None:
        return _dataset_differences(settings, run["dataset"]["location"], None)
    size = run["fingerprint"].get("preprocessing", {}).get("size")
    weights = request.get("weights") or (UNTRAINED if model["weights"]["source"] == UNTRAINED else None)
    differences = model_differences(settings, model["name"], weights, request.get("image_size"), size)
    differences += _dataset_differences(settings, run["dataset"]["location"], summary["items"]["evaluated"])
    target = run["fingerprint"]["target"]
    if target != settings.target:
        differences.append(_differs("target", target, settings.target))
    score = request.get("score")
    if score != settings.score:
        differences.append(_differs("score", score or "the default", settings.score or "the default"))
    return differences


def model_differences(
    settings: PaperSettings, name: str, weights: str | None, asked_size: int | None, size: Any
) -> list[str]:
    """Return the differences of the model, its weights and its image size.

    weights: a file or UNTRAINED; None for the model's own. asked_size: the option --image-size. size: (height, width) of the model.
    """
    differences = []
    if settings.models and name not in settings.models:
        differences.append(_differs("model", name, ", ".join(settings.models)))
    if weights == UNTRAINED:
        differences.append(_differs("weights", "untrained", "trained"))
    elif weights is not None:
        differences.append(_differs("weights", weights, "the model's own"))
    sides = f"{size[0]} x {size[1]}" if size else "unknown"
    if settings.image_size is None and asked_size is not None:
        differences.append(_differs("image size", sides, "the model's own"))
    if settings.image_size is not None and list(size or ()) != [settings.image_size] * 2:
        differences.append(_differs("image size", sides, f"{settings.image_size} x {settings.image_size}"))
    return differences


def hardware_differences(settings: PaperSettings, hardware: str) -> list[str]:
    """Return the difference of the hardware, whose name must contain that of the table."""
    if settings.hardware is None or _letters(settings.hardware) in _letters(hardware):
        return []
    return [_differs("hardware", hardware, settings.hardware)]


def _dataset_differences(settings: PaperSettings, location: str, images: int | None) -> list[str]:
    """Return the differences of the data set, which its path must name, and of the number of images."""
    differences = []
    if settings.dataset is not None and not _names_dataset(location, settings.dataset):
        differences.append(_differs("data set", location, settings.dataset))
    if settings.images is not None and images is not None and images != settings.images:
        differences.append(_differs("images", str(images), str(settings.images)))
    return differences


def _names_dataset(location: str, dataset: str) -> bool:
    names = DATASET_NAMES.get(dataset, (_letters(dataset),))
    return any(name in _letters(location) for name in names)


def _letters(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return "".join(char for char in text.lower() if char.isalnum())


def _differs(setting: str, value: str, expected: str) -> str:
    return f"{setting} {value} (table: {expected})"


def difference_warning(differences: list[str]) -> str:
    """Return the text of a warning, or "" without differences."""
    return f"this run differs from the published table in {'; '.join(differences)}" if differences else ""
