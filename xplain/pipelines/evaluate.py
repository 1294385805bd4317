"""The flow of ``xplain evaluate``: every method and metric on every image in one pass, kept item by item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xplain.core.array_store import ArrayStore
from xplain.core.config import EvaluateConfig
from xplain.core.errors import Failure, InputError, UsageError
from xplain.core.run_store import SCHEMA, RunStore, fingerprint, settings_digest
from xplain.core.types import Attribution, Cost
from xplain.data.datasets import Item, choose_items, read_dataset, shard
from xplain.data.images import LoadedImage, read_ahead
from xplain.models import Classifier
from xplain.oracle.runtime import Runtime, inference_session, load_model, predict
from xplain.pipelines.batches import look_at, not_finite
from xplain.pipelines.plans import (
    Measure,
    check_methods,
    images_a_call,
    plan_metrics,
    plan_works,
    run_work,
    take_measures,
    with_control,
)
from xplain.pipelines.records import Work, describe_cost, describe_run

Advance = Callable[[int, int], None]


def evaluate(config: EvaluateConfig, advance: Advance = lambda done, total: None) -> Iterator[Failure]:
    """Do what is missing in the run directory; yields each image that failed. ``advance(done, total)`` counts images.

    Only metrics of single images are measured; those that train on the data set are ``xplain.pipelines.roar``'s.

    Raises an XplainError for what is wrong with the request as a whole.
    """
    check_methods(config.methods)
    measures = [each for each in plan_metrics(config.protocol, config.metrics) if each.spec.scope == "image"]
    if not measures:
        return
    classifier = load_model(config.compute)
    works = plan_works(with_control(config.methods), config.score, classifier)
    items = choose_items(
        read_dataset(config.dataset, classifier.class_names, config.labels), config.limit, config.per_class
    )
    if config.target == "label" and all(item.label is None for item in items):
        raise UsageError("--target label needs labels", "give class folders or --labels")
    mine = shard(items, *config.shard)
    description = describe(config, classifier, works, measures, items)
    with inference_session(classifier), RunStore.open(config.output, config.shard[0], description) as store:
        yield from Evaluation(config, classifier, works, measures, store).run(mine, advance)


def check_models(requests: Sequence[EvaluateConfig]) -> None:
    """Load the model of each request once, so that one that cannot be used is known before the others have run for hours."""
    for config in requests:
        load_model(config.compute)


def count_classes(classifier: Classifier) -> int:
    """How many logits the model has."""
    blank = torch.zeros(1, 3, *classifier.size, device=classifier.device, dtype=classifier.dtype)
    return predict(classifier, blank, Runtime())[0].shape[1]


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
        "classes": count_classes(classifier),
        "accuracy": None if classifier.accuracy is None else asdict(classifier.accuracy),
        "protocol": config.protocol,
        "methods": {work.label: work.describe() | {"deviations": work.spec.deviations} for work in works},
        "metrics": {each.label: each.describe() | {"axis": each.spec.axis} for each in measures},
        "environment": {"device": facts["device"], "versions": facts["versions"]},
    }


@dataclass(frozen=True, eq=False)
class Seen:
    """An image that was read, as an item of the data set."""

    item: Item
    image: LoadedImage


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What every group of images of one run shares."""

    config: EvaluateConfig
    classifier: Classifier
    works: Sequence[Work]
    measures: Sequence[Measure]
    store: RunStore

    @cached_property
    def marks(self) -> dict[tuple[str, str], str]:
        """A digest of each method and metric with their settings and definition versions."""
        return {
            (work.label, each.label): settings_digest(work.describe(), each.describe())
            for work in self.works
            for each in self.measures
        }

    @cached_property
    def map_marks(self) -> dict[str, str]:
        """A digest of each method with its settings."""
        return {work.label: fingerprint(work.describe())[:16] for work in self.works}

    @property
    def runtime(self) -> Runtime:
        """How methods and metrics are run."""
        return Runtime.of(self.config.compute)

    def lacks(self, item: Item, work: Work) -> bool:
        """Whether something is to be done on an item with a method."""
        map_lacks = self.maps.lacks(item.key, work.label, self.map_marks[work.label])
        return map_lacks or any(self._lacks(item.key, work, each) for each in self.measures)

    @cached_property
    def maps(self) -> ArrayStore:
        """The raw attributions that are kept."""
        return ArrayStore(self.config.output / "maps" if self.config.save_maps else None, "attribution")

    @cached_property
    def curves(self) -> ArrayStore:
        """The whole curves that are kept."""
        return ArrayStore(self.config.output / "curves" if self.config.save_curves else None, "curve")

    def run(self, items: Sequence[Item], advance: Advance) -> Iterator[Failure]:
        """Do what is missing, a group of images at a time; yields each image that failed.

        Groups are written whole and begin at the first item that is not done (what failed before comes last), so
        that a run that was interrupted groups the images as one that was not, and has the same numbers to the bit.
        """
        lacking = [item for item in items if any(self.lacks(item, work) for work in self.works)]
        todo = sorted(lacking, key=lambda item: self.store.has(item.key, "failed"))
        done = len(items) - len(todo)
        advance(done, len(items))
        size = max(images_a_call(self.classifier, work, self.runtime) for work in self.works)
        coming = iter(todo)
        for group in read_ahead((item.source for item in todo), self.classifier.preprocessing, size):
            read = [(next(coming), each) for each in group]
            failed = [Failure(item.key, each.error) for item, each in read if isinstance(each, Failure)]
            if seen := [Seen(item, each) for item, each in read if isinstance(each, LoadedImage)]:
                failed += self.evaluate_group(seen)
            missing = [each for each in failed if not self.store.has(each.name, "failed")]
            self.store.add([{"key": each.name, "mark": "failed", "error": str(each.error)} for each in missing])
            yield from failed
            done += len(group)
            advance(done, len(items))

    def evaluate_group(self, group: Sequence[Seen]) -> list[Failure]:
        """Predict once, then run each method on the images that lack it, and the metrics on its attributions."""
        images, logits, finite = look_at(self.classifier, [each.image for each in group], self.runtime)
        refused = [self._refuse(seen.item, good) for seen, good in zip(group, finite, strict=True)]
        usable = [i for i, failure in enumerate(refused) if failure is None]
        self._note([group[i] for i in usable], logits[usable])
        y = logits.argmax(dim=1)
        if self.config.target == "label":
            y = y.new_tensor([-1 if seen.item.label is None else seen.item.label for seen in group])
        for work in self.works:
            todo = [i for i in usable if self.lacks(group[i].item, work)]
            size = images_a_call(self.classifier, work, self.runtime)
            for start in range(0, len(todo), size):
                some = todo[start : start + size]
                self._score([group[i] for i in some], work, images[some], y[some])
        return [failure for failure in refused if failure is not None]

    def _refuse(self, item: Item, finite: bool) -> Failure | None:
        """Why an image that could be read cannot be evaluated. finite: its logits are."""
        if not finite:
            return not_finite(item.key)
        if self.config.target == "label" and item.label is None:
            return Failure(item.key, InputError(f"{item.key!r} has no label", "leave it out"))
        return None

    def _note(self, group: Sequence[Seen], logits: Tensor) -> None:
        """What is true of an image whatever the method: its hash, label and prediction."""
        probabilities, best = logits.double().softmax(dim=1).max(dim=1)
        found = [
            {
                "key": seen.item.key,
                "mark": "item",
                "sha256": seen.image.digest,
                "label": seen.item.label,
                "predicted": index,
                "probability": probability,
            }
            for seen, index, probability in zip(group, best.tolist(), probabilities.tolist(), strict=True)
        ]
        self.store.add([record for record in found if not self.store.has(record["key"], "item")])

    def _score(self, group: Sequence[Seen], work: Work, x: Tensor, y: Tensor) -> None:
        """One method on images that go together; its attributions serve all metrics."""
        result = self._read_maps(group, work, x, y) or self._attribute(group, work, x, y)
        keys = tuple(seen.item.key for seen in group)
        sizes = tuple(seen.image.size for seen in group)
        lacking = [each for each in self.measures if any(self._lacks(key, work, each) for key in keys)]
        records = []
        for found in take_measures(self.classifier, work, lacking, x, result, self.runtime, keys, sizes):
            label = found.measure.label
            mark = self.marks[work.label, label]
            for i, key in enumerate(keys):
                facts = {"key": key, "mark": mark, "method": work.label, "metric": label}
                record = {**facts, **found.read(i), "target": int(y[i]), "cost": describe_cost(result, i)}
                if record["curve"] is not None and found.score.curve is not None:
                    about = facts | work.describe() | found.measure.describe() | {"value": record["value"]}
                    curve = found.score.curve[i].float().cpu().numpy()
                    self.curves.put(key, f"{work.label} {label}", mark, curve, about)
                if not self.store.has(key, mark):
                    records.append(record)
        self.store.add(records)

    def _attribute(self, group: Sequence[Seen], work: Work, x: Tensor, y: Tensor) -> Attribution:
        """Run the method, and keep its maps if that is asked for."""
        result = run_work(self.classifier, work, x, y, None, self.runtime)
        for i, seen in enumerate(group):
            record = {
                "key": seen.item.key,
                "sha256": seen.image.digest,
                **work.describe(),
                "model": {"name": self.classifier.name, "weights": asdict(self.classifier.weights)},
                "seed": self.runtime.seed,
                "target": self.classifier.class_names.describe(int(y[i])),
                "expected": None if result.expected is None else float(result.expected[i]),
                "cost": describe_cost(result, i),
                "warnings": [text for text, mask in result.flags.items() if bool(mask[i])],
            }
            values = result.values[i].float().cpu().numpy()
            self.maps.put(seen.item.key, work.label, self.map_marks[work.label], values, record)
        return result

    def _read_maps(self, group: Sequence[Seen], work: Work, x: Tensor, y: Tensor) -> Attribution | None:
        """The maps that were kept of these images, where they are what the method would give, to the bit."""
        if x.dtype != torch.float32:
            return None
        values, records = [], []
        for seen, target in zip(group, y.tolist(), strict=True):
            found = self.maps.get(seen.item.key, work.label, self.map_marks[work.label])
            if found is None or (found[1]["sha256"], found[1]["target"]["index"]) != (seen.image.digest, target):
                return None
            values.append(torch.from_numpy(found[0]))
            records.append(found[1])
        expected = [record["expected"] for record in records]
        costs = [record["cost"] for record in records]
        return Attribution(
            torch.stack(values).to(x.device),
            y,
            Cost(seconds=sum(cost["seconds"] for cost in costs)),
            None if None in expected else torch.tensor(expected, dtype=torch.float64, device=x.device),
            {name: torch.tensor([cost[name] for cost in costs]) for name in ("forwards", "backwards")},
        )

    def _lacks(self, key: str, work: Work, measure: Measure) -> bool:
        mark = self.marks[work.label, measure.label]
        curve = f"{work.label} {measure.label}"
        return not self.store.has(key, mark) or (
            self.store.has_curve(key, mark) and self.curves.lacks(key, curve, mark)
        )
