"""The flow of ``xplain evaluate``: every method and metric on every image in one pass, kept item by item."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xplain.config import Choice, EvaluateConfig
from xplain.datasets import Item, choose_items, read_dataset, shard
from xplain.engine import Runtime, images_at_once, predict, run_method
from xplain.errors import Failed, InputError, UsageError
from xplain.files import write_file
from xplain.images import Loaded, decode_image, preprocess, read_ahead
from xplain.models import Classifier, load_classifier
from xplain.plans import Measure, plan_metrics, plan_works, take_measures
from xplain.records import Work, describe_cost, describe_run, fingerprint
from xplain.registry import METHODS
from xplain.render import Look, draw, read_record
from xplain.store import SCHEMA, Store, read_run
from xplain.targets import check_logits

CONTROL = "random"  # in every run: a method that does not beat it explains nothing
Advance = Callable[[int, int], None]


def evaluate(config: EvaluateConfig, advance: Advance = lambda done, total: None) -> Iterator[Failed]:
    """Do what is missing in the run directory; yields each image that failed. ``advance(done, total)`` counts images.

    Raises an XplainError for what is wrong with the request as a whole.
    """
    for choice in config.methods:
        METHODS.get(choice.name).resolve(dict(choice.params))
    measures = plan_metrics(config.protocol, config.metrics)
    classifier = load_classifier(
        config.compute.model,
        config.compute.device,
        config.compute.weights,
        config.compute.classes,
        config.compute.image_size,
    )
    works = plan_works(with_control(config.methods), config.score, classifier)
    items = choose_items(read_dataset(config.dataset, classifier, config.labels), config.limit, config.per_class)
    if config.target == "label" and all(item.label is None for item in items):
        raise UsageError("--target label needs labels", "give class folders or --labels")
    mine = shard(items, *config.shard)
    with Store.open(config.output, config.shard[0], describe(config, classifier, works, measures, items)) as store:
        run = Evaluation(config, classifier, works, measures, store)
        todo = [item for item in mine if run.missing(item)]
        by_source = {id(item.source): item for item in todo}
        done = len(mine) - len(todo)
        advance(done, len(mine))
        blank = torch.zeros(1, 3, *classifier.size, device=classifier.device)
        size = max(run.at_once(work, blank) for work in works)
        for group in read_ahead([item.source for item in todo], classifier.preprocessing, size):
            yield from (each for each in group if isinstance(each, Failed))
            if pairs := [(by_source[id(each.source)], each) for each in group if isinstance(each, Loaded)]:
                yield from run.evaluate_group(pairs)
            done += len(group)
            advance(done, len(mine))


def wait_for_ranks(rank_of: tuple[int, int]) -> bool:
    """Wait until all processes of a torchrun launch are here; true on the first, which then summarises."""
    rank, world = rank_of
    if world > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=timedelta(days=7))
        dist.barrier()
        dist.destroy_process_group()
    return rank == 0


def write_gallery(config: EvaluateConfig, count: int = 4) -> None:
    """Overlays of the ``count`` best and worst explanations of the first method by the first metric, into RUN/gallery.

    Each holds a record of what it shows. They are drawn anew, so that a run need not keep its maps.
    """
    folder = config.output / "gallery"
    description, records = read_run(config.output)
    first, metric = next(iter(description["methods"])), next(iter(description["metrics"]))
    found = [r for r in records if (r.get("method"), r.get("metric")) == (first, metric) and r["value"] is not None]
    found.sort(key=lambda r: r["value"], reverse=description["metrics"][metric]["better"] == "higher")
    places = {"best": found[: min(count, len(found) // 2)], "worst": found[::-1][: min(count, len(found) // 2)]}
    wanted = {(place, r["key"], r["value"]) for place, chosen in places.items() for r in chosen}
    there = [read_record(path) or {} for path in folder.glob("*.png")]
    if {(record.get("place"), record.get("key"), record.get("value")) for record in there} == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    compute = config.compute
    classifier = load_classifier(compute.model, compute.device, compute.weights, compute.classes, compute.image_size)
    work = next(
        (work for work in plan_works(with_control(config.methods), config.score, classifier) if work.label == first),
        None,
    )
    sources = {item.key: item.source for item in read_dataset(config.dataset, classifier, config.labels)}
    if work is None:
        return
    for place, chosen in places.items():
        for rank, record in enumerate(chosen):
            pixels = preprocess(decode_image(sources[record["key"]].read(), record["key"]), classifier.preprocessing)
            x, y = (
                pixels[None].to(classifier.device, classifier.dtype),
                torch.tensor([record["target"]], device=classifier.device),
            )
            runtime = Runtime(compute.seed, compute.precision, compute.batch_size)
            result = run_method(classifier, work.spec, work.settings, x, y, None, work.score, runtime, work.references)
            shown = {"key": record["key"], "metric": metric, "value": record["value"], "place": place}
            shown |= classifier.describe_class(record["target"])
            image = (pixels.numpy().transpose(1, 2, 0) * 255).round().astype("uint8")
            content = draw("overlay", image, result.values[0].float().cpu().numpy(), Look(), shown)
            write_file(folder / f"{place}-{rank}.png", content)


def with_control(methods: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The methods, and the random control behind them."""
    return methods if any(choice.name == CONTROL for choice in methods) else (*methods, Choice(CONTROL))


def describe(
    config: EvaluateConfig,
    classifier: Classifier,
    works: Sequence[Work],
    measures: Sequence[Measure],
    items: Sequence[Item],
) -> dict[str, Any]:
    """What ``run.json`` holds. Only the fingerprint must agree when a run is continued."""
    facts = describe_run(config.compute, classifier)
    stable = {key: facts[key] for key in ("model", "preprocessing", "seed", "precision")}
    return {
        "schema": SCHEMA,
        "fingerprint": stable | {"target": config.target},
        "dataset": {
            "location": config.dataset,
            "items": len(items),
            "labelled": sum(item.label is not None for item in items),
        },
        "protocol": config.protocol,
        "methods": {work.label: work.describe() | {"deviations": work.spec.deviations} for work in works},
        "metrics": {each.label: each.describe() for each in measures},
        "environment": {"device": facts["device"], "versions": facts["versions"]},
    }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What every group of images of one run shares."""

    config: EvaluateConfig
    classifier: Classifier
    works: Sequence[Work]
    measures: Sequence[Measure]
    store: Store

    @cached_property
    def marks(self) -> dict[tuple[str, str], str]:
        """A digest of each method and metric with their settings and definition versions."""
        return {
            (work.label, each.label): fingerprint(work.describe(), each.describe())[:16]
            for work in self.works
            for each in self.measures
        }

    @property
    def runtime(self) -> Runtime:
        """How methods and metrics are run."""
        compute = self.config.compute
        return Runtime(compute.seed, compute.precision, compute.batch_size)

    def at_once(self, work: Work, images: Tensor) -> int:
        """Images that fill a model call."""
        return images_at_once(self.classifier, work.spec, work.settings, images, self.config.compute.batch_size)

    def missing(self, item: Item) -> set[str]:
        """The labels of the methods that some metric lacks for an item."""
        return {work for (work, _), mark in self.marks.items() if not self.store.has(item.key, mark)}

    def evaluate_group(self, pairs: Sequence[tuple[Item, Loaded]]) -> Iterator[Failed]:
        """Predict once, then run each method on the images that lack it, and the metrics on its attributions."""
        images = torch.stack([each.pixels for _, each in pairs]).to(self.classifier.device, self.classifier.dtype)
        logits, _ = predict(self.classifier, images, self.runtime)
        finite = check_logits(logits).tolist()
        usable = []
        for i, (item, each) in enumerate(pairs):
            if not finite[i]:
                yield Failed(
                    item.key, InputError(f"the model's logits for {item.key!r} are not finite", "check the weights")
                )
            elif self.config.target == "label" and item.label is None:
                yield Failed(item.key, InputError(f"{item.key!r} has no label", "leave it out"))
            else:
                usable.append(i)
                self._note(item, each, logits[i])
        if not usable:
            return
        own = [pairs[i][0].label if self.config.target == "label" else None for i in range(len(pairs))]
        best = logits.argmax(dim=1)
        y = best if self.config.target != "label" else best.new_tensor([-1 if k is None else k for k in own])
        for work in self.works:
            todo = [i for i in usable if work.label in self.missing(pairs[i][0])]
            size = self.at_once(work, images)
            for start in range(0, len(todo), size):
                some = todo[start : start + size]
                self._score([pairs[i][0] for i in some], work, images[some], y[some])

    def _note(self, item: Item, each: Loaded, logits: Tensor) -> None:
        """What is true of an image whatever the method: its hash, label and prediction."""
        if self.store.has(item.key, "item"):
            return
        probability, index = logits.double().softmax(dim=0).max(dim=0)
        self.store.add(
            {
                "key": item.key,
                "mark": "item",
                "sha256": each.digest,
                "label": item.label,
                "predicted": int(index),
                "probability": float(probability),
            }
        )

    def _score(self, items: Sequence[Item], work: Work, x: Tensor, y: Tensor) -> None:
        """One method on images that go together; its attributions serve all metrics."""
        result = run_method(
            self.classifier, work.spec, work.settings, x, y, None, work.score, self.runtime, work.references
        )
        keys = tuple(item.key for item in items)
        for each in take_measures(self.classifier, work, self.measures, x, result, self.runtime, keys):
            mark = self.marks[work.label, each.measure.label]
            for i, item in enumerate(items):
                if not self.store.has(item.key, mark):
                    self.store.add(
                        {"key": item.key, "mark": mark, "method": work.label, "metric": each.measure.label}
                        | each.read(i)
                        | {"target": int(y[i]), "cost": describe_cost(result, i)}
                    )
