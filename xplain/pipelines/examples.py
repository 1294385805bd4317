"""Overlays of the best and worst explanations of a run, for its report page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xplain.core.config import EvaluateConfig, RenderOptions
from xplain.core.files import write_file
from xplain.core.run_store import read_run, settings_digest
from xplain.data.datasets import read_dataset
from xplain.data.folders import SkippedFiles
from xplain.data.images import decode_image
from xplain.data.preprocessing import preprocess
from xplain.data.sources import ImageSource
from xplain.models import Classifier
from xplain.oracle.runtime import load_model
from xplain.pipelines.attribution import MethodRun, resolve_methods
from xplain.reports.render import draw, read_record, to_pixels


class Example(NamedTuple):
    """An explained image: the key of its item, its value of the metric, and the explained class."""

    key: str
    value: float
    target: int


def write_examples(config: EvaluateConfig, count: int = 4) -> None:
    """Draw the ``count`` best and worst explanations of the first method by the first metric into RUN/gallery.

    Each overlay contains a record of what it shows. They are computed again, so that a run need not save its maps; existing overlays
    of the same explanations are kept.
    """
    folder = config.output / "gallery"
    description, records = read_run(config.output)
    method = next(iter(description["methods"]))
    metric = next((label for label, entry in description["metrics"].items() if "scope" not in entry), None)
    if metric is None:  # no metric of single images
        return
    mark = settings_digest(description["methods"][method], description["metrics"][metric])
    examples = [
        Example(record["key"], record["value"], record["target"])
        for record in records
        if record["mark"] == mark and record["value"] is not None
    ]
    selected = select_examples(examples, description["metrics"][metric]["better"] == "higher", count)
    if not _are_drawn(folder, selected):
        _draw_all(config, folder, selected, method, metric)


def _are_drawn(folder: Path, selected: Mapping[str, Sequence[Example]]) -> bool:
    """Return whether the overlays in a folder show these explanations."""
    wanted = {(place, example.key, example.value) for place, examples in selected.items() for example in examples}
    records = [read_record(path) or {} for path in folder.glob("*.png")]
    return {(record.get("place"), record.get("key"), record.get("value")) for record in records} == wanted


def _draw_all(
    config: EvaluateConfig, folder: Path, selected: Mapping[str, Sequence[Example]], label: str, metric: str
) -> None:
    """Replace the content of a folder by overlays of these explanations."""
    classifier = load_model(config.model)
    methods = resolve_methods(config.methods, config.score, classifier)
    method = next((method for method in methods if method.label == label), None)
    if method is None:  # only an earlier command requested it
        return
    shutil.rmtree(folder, ignore_errors=True)
    items = read_dataset(config.dataset, classifier.class_names, config.labels, SkippedFiles())  # noted before
    sources = {item.key: item.source for item in items}
    for place, examples in selected.items():
        for rank, example in enumerate(examples):
            if example.key in sources:
                record = {"key": example.key, "metric": metric, "value": example.value, "place": place}
                content = _draw(config, classifier, method, sources[example.key], example.target, record)
                write_file(folder / f"{place}-{rank}.png", content)


def select_examples(examples: Sequence[Example], higher: bool, count: int) -> dict[str, list[Example]]:
    """Return the best and the worst by value, then by name; no example is both."""
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
    """Return one overlay as PNG bytes."""
    pixels = preprocess(decode_image(source.read(), source.name), classifier.preprocessing)
    images = pixels[None].to(classifier.device, classifier.dtype)
    targets = torch.tensor([target], device=classifier.device)
    result = method.attribute(classifier, images, targets, config.compute)
    values = result.values[0].float().cpu().numpy()
    record = {**record, **classifier.class_names.describe(target)}
    return draw("overlay", to_pixels(pixels.numpy()), values, RenderOptions(), record)
