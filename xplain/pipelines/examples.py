"""Overlays of the best and worst explanations of a run, for its report page."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xplain.core.config import EvaluateConfig, RenderOptions
from xplain.core.files import write_file
from xplain.core.run_store import read_run, settings_digest
from xplain.data.datasets import split_labels
from xplain.data.folders import SkippedFiles
from xplain.data.images import read_model_input
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.oracle.runtime import inference_session, load_model
from xplain.pipelines.attribution import resolve_methods
from xplain.pipelines.batches import read_items
from xplain.pipelines.method_run import MethodRun
from xplain.reports.band_pictures import show_bands
from xplain.reports.render import draw, read_record


class Example(NamedTuple):
    """An example image: item key, metric value and explained class."""

    key: str
    value: float
    target: int


def write_examples(config: EvaluateConfig, selected: Collection[str] | None = None, count: int = 4) -> None:
    """Render the ``count`` best and worst explanations of the first method, ranked by the first metric, to RUN/gallery.

    The record of each overlay is embedded in its file. The maps are recomputed, so the run need not save them. Overlays that already show
    these explanations are kept.

    selected: keys of the images to choose from, or None for all images.
    """
    folder = config.output / "gallery"
    description, records = read_run(config.output)
    method = next(iter(description["methods"]))
    metric = next((label for label, entry in description["metrics"].items() if _ranks_images(entry)), None)
    if metric is None:  # no per-image metric of which a direction is better
        return
    mark = settings_digest(description["methods"][method], description["metrics"][metric])
    examples = [
        Example(record["key"], record["value"], record["target"])
        for record in records
        if record["mark"] == mark and record["value"] is not None and (selected is None or record["key"] in selected)
    ]
    chosen = select_examples(examples, description["metrics"][metric]["better"] == "higher", count)
    if not _are_drawn(folder, chosen):
        _draw_all(config, folder, chosen, method, metric)


def _ranks_images(metric: Mapping[str, Any]) -> bool:
    """Return whether a metric, as ``run.json`` describes it, has one value per image of which higher or lower ones are better."""
    return "scope" not in metric and metric["better"] != "neither"


def _are_drawn(folder: Path, selected: Mapping[str, Sequence[Example]]) -> bool:
    """Return whether the directory already contains the overlays of these explanations."""
    wanted = {(place, example.key, example.value) for place, examples in selected.items() for example in examples}
    records = [read_record(path) or {} for path in folder.glob("*.png")]
    return {(record.get("place"), record.get("key"), record.get("value")) for record in records} == wanted


def _draw_all(
    config: EvaluateConfig, folder: Path, selected: Mapping[str, Sequence[Example]], label: str, metric: str
) -> None:
    """Replace the content of a directory with overlays of these explanations."""
    classifier = load_model(config.model, config.pixels, config.target)
    methods = resolve_methods(config.methods, config.score, classifier, config.layer, config.layout)
    method = next((method for method in methods if method.label == label), None)
    if method is None:  # requested by an earlier command only
        return
    shutil.rmtree(folder, ignore_errors=True)
    items = read_items(config, classifier, SkippedFiles())  # noted before
    if config.target == "label":
        items = split_labels(items)
    sources = {item.key: item.source for item in items}
    for place, examples in selected.items():
        for rank, example in enumerate(examples):
            if example.key in sources:
                record = {"key": example.key, "metric": metric, "value": example.value, "place": place}
                content = _draw(config, classifier, method, sources[example.key], example.target, record)
                write_file(folder / f"{place}-{rank}.png", content)


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
    """Render an overlay and return it as PNG bytes."""
    pixels = read_model_input(source.read(), source.name, classifier.preprocessing).pixels
    content = pixels[None].to(classifier.dtype)
    targets = torch.tensor([target], device=classifier.device)
    with inference_session(classifier):
        result = method.attribute(classifier, content.to(classifier.device), targets, config.compute, drawn_for=content)
    values = result.values[0].float().cpu().numpy()
    record = {**record, **classifier.class_names.describe(target)}
    return draw("overlay", show_bands(pixels.numpy(), config.pixels.bands), values, RenderOptions(), record)
