"""Overlays of the best and worst explanations of a run, for its report page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xplain.core.config import EvaluateConfig
from xplain.core.files import write_file
from xplain.core.options import RenderOptions
from xplain.core.run_store import read_run, settings_digest
from xplain.data.datasets import Item, split_labels
from xplain.data.folders import SkippedFiles
from xplain.data.images import read_model_input
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.oracle.runtime import inference_session, load_model
from xplain.pipelines.attribution import resolve_methods
from xplain.pipelines.batches import read_items
from xplain.pipelines.evaluation_plan import EvaluationPlan
from xplain.pipelines.file_names import file_label
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.progress import OnProgress, ProgressCounter, ignore_progress
from xplain.reports.band_pictures import show_bands
from xplain.reports.class_texts import class_name
from xplain.reports.control import CONTROL
from xplain.reports.groups import ItemGroups
from xplain.reports.render import draw, read_record


class Example(NamedTuple):
    """An example image: item key, metric value, explained class, and whether the model is right, or None without a label."""

    key: str
    value: float
    target: int
    correct: bool | None = None


Places = Mapping[str, Sequence[Example]]  # the examples of a method by place, ``best`` or ``worst``


def write_examples(
    config: EvaluateConfig,
    selected: Collection[str] | None = None,
    count: int = 4,
    *,
    plan: EvaluationPlan | None = None,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Render the best and worst explanations of each method, ranked by the first metric, to RUN/gallery.

    The record of each overlay is embedded in its file. The maps are recomputed one by one, so that resumed and sharded runs have the same
    pictures and the run need not save the maps. Overlays that already show these explanations are kept.

    selected: keys of the images to choose from, or None for all images.
    count: at most so many best and as many worst explanations of the first method. Other methods have at most an eighth of the images of
    each, and at least one.
    plan: of the command that computed the run, whose model and engine are used; without it, the model is loaded.
    on_progress: counts overlays.
    """
    description, records = read_run(config.output)
    metric = next((label for label, entry in description["metrics"].items() if _ranks_images(entry)), None)
    if metric is None:  # no per-image metric of which a direction is better
        return
    examples = _read_examples(description, records, metric, selected)
    is_higher = description["metrics"][metric]["better"] == "higher"
    first = next(iter(description["methods"]))
    chosen = {
        label: select_examples(entries, is_higher, count if label == first else min(count, max(len(entries) // 8, 1)))
        for label, entries in examples.items()
    }
    drawn = _read_drawn(config.output / "gallery", metric)
    missing = {label: places for label, places in chosen.items() if drawn.get(label, set()) != _signatures(places)}
    if missing:
        _draw_all(config, missing, metric, first, plan, on_progress)


def _ranks_images(metric: Mapping[str, Any]) -> bool:
    """Return whether a metric, as ``run.json`` describes it, has one value per image of which higher or lower ones are better."""
    return "scope" not in metric and metric["better"] != "neither"


def _read_examples(
    description: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    metric: str,
    selected: Collection[str] | None,
) -> dict[str, list[Example]]:
    """Return the images with a value of the metric, for each method but the control, unless that is the first."""
    shown = [
        label
        for position, (label, entry) in enumerate(description["methods"].items())
        if position == 0 or entry["method"] != CONTROL
    ]
    label_by_mark = {
        settings_digest(description["methods"][label], description["metrics"][metric]): label for label in shown
    }
    groups = ItemGroups(description["fingerprint"].get("target") == "label")
    examples: dict[str, list[Example]] = {label: [] for label in shown}
    for record in records:
        if record["mark"] == "item":
            groups.add(record)
        elif (
            record["mark"] in label_by_mark
            and record["value"] is not None
            and (selected is None or record["key"] in selected)
        ):
            example = Example(record["key"], record["value"], record["target"])
            examples[label_by_mark[record["mark"]]].append(example)
    return {
        label: [example._replace(correct=groups.correct.get(example.key)) for example in entries]
        for label, entries in examples.items()
    }


def _signatures(places: Places) -> set[tuple[Any, ...]]:
    """Return what identifies the overlays of examples."""
    return {
        (place, example.key, example.value, example.correct)
        for place, examples in places.items()
        for example in examples
    }


def _read_drawn(folder: Path, metric: str) -> dict[str, set[tuple[Any, ...]]]:
    """Return what identifies the overlays in a directory, by method. Those of earlier versions, which name no method, are left out."""
    drawn: dict[str, set[tuple[Any, ...]]] = {}
    for path in folder.glob("*.png"):
        record = read_record(path) or {}
        if "method" in record and record.get("metric") == metric:
            signature = (record.get("place"), record.get("key"), record.get("value"), record.get("correct"))
            drawn.setdefault(record["method"], set()).add(signature)
    return drawn


def _draw_all(
    config: EvaluateConfig,
    chosen: Mapping[str, Places],
    metric: str,
    first: str,
    plan: EvaluationPlan | None,
    on_progress: OnProgress,
) -> None:
    """Replace the overlays of methods by those of these explanations."""
    folder = config.output / "gallery"
    classifier = load_model(config.model, config.pixels, config.target) if plan is None else plan.classifier
    methods = resolve_methods(config.methods, config.score, classifier, config.layer, config.layout)
    items = read_items(config, classifier, SkippedFiles())  # noted before
    if config.target == "label":
        items = split_labels(items)
    item_by_key = {item.key: item for item in items}
    methods = [method for method in methods if method.label in chosen]  # others keep the overlays of an earlier command
    total = sum(len(examples) for method in methods for examples in chosen[method.label].values())
    counter = ProgressCounter(on_progress, total)
    with inference_session(classifier, None if plan is None else plan.engine):
        for method in methods:
            _remove_overlays(folder, method.label, first)
            suffix = "" if method.label == first else f".{file_label(method.label)}"
            numbered = [
                (place, *pair) for place, examples in chosen[method.label].items() for pair in enumerate(examples)
            ]
            for place, rank, example in numbered:
                item = item_by_key.get(example.key)
                if item is not None:
                    record = {"key": example.key, "metric": metric, "value": example.value, "place": place}
                    record |= {"method": method.label, "correct": example.correct}
                    record |= _describe_labels(classifier, item, example)
                    content = _draw(config, classifier, method, item.source, example.target, record)
                    write_file(folder / f"{place}-{rank}{suffix}.png", content)
                counter.advance(1)


def _remove_overlays(folder: Path, label: str, first: str) -> None:
    """Delete the overlays of a method. Those of earlier versions, which name no method, are of the first."""
    for path in folder.glob("*.png"):
        if (read_record(path) or {}).get("method", first) == label:
            path.unlink()


def _describe_labels(classifier: Classifier, item: Item, example: Example) -> dict[str, list[str]]:
    """Return the names of the true classes of an image about which the model is wrong, else {}."""
    if example.correct is not False:
        return {}
    labels = item.labels if item.labels is not None else (item.label,)
    names = [classifier.class_names.describe(label) for label in labels if label is not None]
    return {"labels": [class_name(name) for name in names]}


def select_examples(examples: Sequence[Example], higher: bool, count: int) -> dict[str, list[Example]]:
    """Return the best and worst examples, sorted by value and then by name. The two lists do not overlap."""
    sign = -1 if higher else 1
    ordered = sorted(examples, key=lambda example: (sign * example.value, example.key))
    count = min(count, len(ordered) // 2)
    return {"best": ordered[:count], "worst": ordered[::-1][:count]}


def _draw(
    config: EvaluateConfig,
    classifier: Classifier,
    method: MethodRun,
    source: ImageSource,
    target: int,
    record: Mapping[str, Any],
) -> bytes:
    """Render an overlay and return it as PNG bytes. Called inside ``inference_session``."""
    pixels = read_model_input(source.read(), source.name, classifier.preprocessing).pixels
    content = pixels[None].to(classifier.dtype)
    targets = torch.tensor([target], device=classifier.device)
    result = method.attribute(classifier, content.to(classifier.device), targets, config.compute, drawn_for=content)
    values = result.values[0].float().cpu().numpy()
    record = {**record, **classifier.class_names.describe(target)}
    return draw("overlay", show_bands(pixels.numpy(), config.pixels.bands), values, RenderOptions(), record)
