"""Pictures of a run's most and least faithful explanations, for its report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from xplain.core.config import EvaluateConfig, RenderOptions
from xplain.core.files import write_file
from xplain.core.run_store import read_run, settings_digest
from xplain.data.datasets import read_dataset
from xplain.data.images import decode_image
from xplain.data.preprocessing import preprocess
from xplain.data.sources import Source
from xplain.models import Classifier
from xplain.oracle.runtime import Runtime, load_model
from xplain.pipelines.plans import plan_works, run_work
from xplain.pipelines.records import Work
from xplain.reports.render import draw, read_record, to_pixels

Shown = tuple[str, float, int]  # key, value, target


def write_gallery(config: EvaluateConfig, count: int = 4) -> None:
    """Overlays of the ``count`` best and worst explanations of the first method by the first metric, into RUN/gallery.

    Each holds a record of what it shows. They are drawn anew, so that a run need not keep its maps; those that are there already stay.
    """
    folder = config.output / "gallery"
    description, records = read_run(config.output)
    first = next(iter(description["methods"]))
    metric = next((name for name, each in description["metrics"].items() if "scope" not in each), None)
    if metric is None:  # none that looks at single images
        return
    mark = settings_digest(description["methods"][first], description["metrics"][metric])
    found = [(r["key"], r["value"], r["target"]) for r in records if r["mark"] == mark and r["value"] is not None]
    places = choose_shown(found, description["metrics"][metric]["better"] == "higher", count)
    if not _are_there(folder, places):
        _draw_all(config, folder, places, first, metric)


def _are_there(folder: Path, places: Mapping[str, Sequence[Shown]]) -> bool:
    """Whether the pictures in a folder are of these explanations."""
    wanted = {(place, key, value) for place, chosen in places.items() for key, value, _ in chosen}
    there = [read_record(path) or {} for path in folder.glob("*.png")]
    return {(record.get("place"), record.get("key"), record.get("value")) for record in there} == wanted


def _draw_all(
    config: EvaluateConfig, folder: Path, places: Mapping[str, Sequence[Shown]], method: str, metric: str
) -> None:
    """Draw these explanations of a method, in place of what the folder holds."""
    classifier = load_model(config.compute)
    works = plan_works(config.methods, config.score, classifier)
    work = next((work for work in works if work.label == method), None)
    if work is None:  # asked for by an earlier command only
        return
    shutil.rmtree(folder, ignore_errors=True)
    sources = {item.key: item.source for item in read_dataset(config.dataset, classifier.class_names, config.labels)}
    for place, chosen in places.items():
        for rank, (key, value, target) in enumerate(chosen):
            if key in sources:
                shown = {"key": key, "metric": metric, "value": value, "place": place}
                content = _draw(config, classifier, work, sources[key], target, shown)
                write_file(folder / f"{place}-{rank}.png", content)


def choose_shown(found: Sequence[Shown], higher: bool, count: int) -> dict[str, list[Shown]]:
    """The best and the worst by value, then by name; none is both."""
    ordered = sorted(found, key=lambda each: (-each[1] if higher else each[1], each[0]))
    count = min(count, len(ordered) // 2)
    return {"best": ordered[:count], "worst": ordered[::-1][:count]}


def _draw(
    config: EvaluateConfig, classifier: Classifier, work: Work, source: Source, target: int, shown: Mapping[str, Any]
) -> bytes:
    """One overlay as PNG bytes."""
    pixels = preprocess(decode_image(source.read(), source.name), classifier.preprocessing)
    x = pixels[None].to(classifier.device, classifier.dtype)
    y = torch.tensor([target], device=classifier.device)
    result = run_work(classifier, work, x, y, None, Runtime.of(config.compute))
    record = {**shown, **classifier.class_names.describe(target)}
    return draw("overlay", to_pixels(pixels.numpy()), result.values[0].float().cpu().numpy(), RenderOptions(), record)
