"""The metrics of ``xplain evaluate`` that train networks on a whole data set: trial by trial, kept in the run directory.

RUN/roar/<settings>/trial-N/ holds the first network of each trial, and what an unfinished method has reached in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from xplain.core.checkpoint_store import CheckpointStore, DirectoryCheckpoints
from xplain.core.config import EvaluateConfig
from xplain.core.errors import Failure, UsageError
from xplain.core.parameters import read_percentages
from xplain.core.rng import seed_of
from xplain.core.run_store import SCHEMA, RunStore, fingerprint, read_run, settings_digest
from xplain.core.types import Score
from xplain.data.datasets import shard
from xplain.data.splits import ImageSet, read_split
from xplain.metrics._training import make_classifier
from xplain.metrics.roar import Attribute, Trial, epochs_of
from xplain.models import Classifier
from xplain.models.devices import pick_device
from xplain.models.load import EMBEDDED
from xplain.oracle.runtime import Runtime, predict
from xplain.pipelines.plans import Measure, Measured, plan_metrics, plan_works, run_work, with_control
from xplain.pipelines.records import Work, describe_run

Advance = Callable[[float, float], None]
LATER = ("trials", "fractions")  # of a metric's settings, these have no part in a trial's first network


def own_networks(config: EvaluateConfig) -> str | None:
    """The metric's name if all that is asked for are metrics that train networks of their own; the model has no part then."""
    measures = plan_metrics(config.protocol, config.metrics)
    return None if any(each.spec.scope == "image" for each in measures) else measures[0].spec.name


def check_requests(requests: Sequence[EvaluateConfig]) -> None:
    """Raise UsageError for options that have no part in metrics that train networks of their own.

    requests: one for each model.
    """
    config, compute = requests[0], requests[0].compute
    trained = [each for each in plan_metrics(config.protocol, config.metrics) if each.spec.scope == "dataset"]
    if trained and len(requests) > 1:
        own = trained[0].spec.name
        raise UsageError(f"{own} with {len(requests)} models, none of which it explains", f"run -M {own} by itself")
    if (name := own_networks(config)) is None:
        return
    given = {
        "--model": compute.model if compute.model != EMBEDDED else None,
        "--weights": compute.weights,
        "--classes": compute.classes,
        "--labels": config.labels,
        "--image-size": compute.image_size,
        "--limit": config.limit,
        "--per-class": config.per_class,
        "--save-maps": config.save_maps or None,
        "--save-curves": config.save_curves or None,
    }
    instead = {"--image-size": f"{name}:size=N", "--limit": f"{name}:per_class=N", "--per-class": f"{name}:per_class=N"}
    for option, value in given.items():
        if value is not None:
            hint = f"write {instead[option]}" if option in instead else "leave it out"
            raise UsageError(f"{option} has no part in {name}, which explains networks that it trains itself", hint)


def run_trials(config: EvaluateConfig, advance: Advance = lambda done, total: None) -> Iterator[Failure]:
    """Do the trials that the run directory lacks; yields each image that could not be read. ``advance`` counts epochs.

    Raises an XplainError for what is wrong with the request as a whole.
    """
    for measure in plan_metrics(config.protocol, config.metrics):
        if measure.spec.scope == "dataset":
            data, failed = read_split(
                config.dataset, measure.settings["size"], measure.settings["per_class"], config.compute.seed
            )
            digest = digest_of(data)
            data = data.to(pick_device(config.compute.device))
            example = make_classifier(data, measure.settings["network"], config.compute.seed)
            works = plan_works(with_control(config.methods), config.score, example)
            description = describe(config, measure, example, data, digest, works)
            with RunStore.open(config.output, config.shard[0], description) as store:
                lost = [each for each in failed if not store.has(each.name, "failed")]
                store.add([{"key": each.name, "mark": "failed", "error": str(each.error)} for each in lost])
                yield from failed
                Trials(config, measure, data, digest, works, store).run(advance)


def digest_of(data: ImageSet) -> str:
    """A hexadecimal digest of the images, their labels and their division."""
    found = hashlib.sha256(json.dumps(data.classes).encode())
    for part in (data.train, data.test):
        for tensor in (part.pixels, part.labels):
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(tensor.numpy().data)
    return found.hexdigest()


def describe(
    config: EvaluateConfig,
    measure: Measure,
    example: Classifier,
    data: ImageSet,
    digest: str,
    works: Sequence[Work],
) -> dict[str, Any]:
    """What ``run.json`` holds, with what other metrics put there. Raises UsageError when it is about other images."""
    facts = describe_run(config.compute, example)
    there = read_run(config.output)[0] if (config.output / "run.json").exists() else {}
    known = there.get("metrics", {}).get(measure.label)
    if known is not None and known["params"]["images"] != digest:
        raise UsageError(
            f"{str(config.output)!r} holds {measure.label} of other images",
            "give another --output, or the same data set",
        )
    height, width = data.train.pixels.shape[2:]
    note = (  # after the metric's name
        f"explains the networks that it trains ({measure.settings['network']}) on {len(data.train)} and tests on {len(data.test)} "
        f"images of {height} x {width} ({data.origin}); n counts trials, the value is the mean test accuracy over the fractions"
    )
    own = {key: facts[key] for key in ("seed", "precision")} | {"target": config.target}
    return {
        "schema": SCHEMA,
        "dataset": {"location": config.dataset, "items": 0, "labelled": 0},
        "protocol": config.protocol,
        **there,
        "fingerprint": {"model": None, "preprocessing": None} | there.get("fingerprint", {}) | own,
        "methods": {work.label: work.describe() | {"deviations": work.spec.deviations} for work in works},
        "metrics": {
            measure.label: describe_measure(measure, digest)
            | {
                "axis": measure.spec.axis,
                "scope": "dataset",
                "places": places_of(measure),
                "trials": measure.settings["trials"],
                "note": note,
            }
        },
        "environment": {"device": facts["device"], "versions": facts["versions"]},
    }


def describe_measure(measure: Measure, digest: str) -> dict[str, Any]:
    """What determines the numbers: the images are among it, how many trials there are is not."""
    found = measure.describe()
    params = {key: value for key, value in found["params"].items() if key != "trials"} | {"images": digest}
    return found | {"params": params}


def places_of(measure: Measure) -> list[float]:
    """The shares of pixels removed at which a curve has its points."""
    return [0.0, *(percent / 100 for percent in read_percentages(measure.settings["fractions"]))]


@dataclass(frozen=True, eq=False)
class Trials:
    """What every trial of one metric shares."""

    config: EvaluateConfig
    measure: Measure
    data: ImageSet
    digest: str
    works: Sequence[Work]
    store: RunStore

    @cached_property
    def marks(self) -> dict[str, str]:
        """A digest by method of what determines its numbers."""
        metric = describe_measure(self.measure, self.digest)
        return {work.label: settings_digest(work.describe(), metric) for work in self.works}

    def run(self, advance: Advance) -> None:
        """Every method on each of this process's trials that lacks it."""
        numbers = shard(range(1, self.measure.settings["trials"] + 1), *self.config.shard)
        missing = {
            number: [work for work in self.works if not self.store.has(f"trial {number}", self.marks[work.label])]
            for number in numbers
        }
        first = self.measure.settings["epochs"]
        meter = Meter(advance, sum(first + sum(map(self._epochs, works)) for works in missing.values() if works))
        for number, works in missing.items():
            meter.expect(first if works else 0)
            for work in works:
                meter.expect(self._epochs(work))
                self.store.add([self._measure(number, work, meter.tick)])
                meter.settle()

    def _epochs(self, work: Work) -> float:
        return epochs_of(self.data, work.rows, self.measure.settings["fractions"], self.measure.settings["epochs"])

    def _measure(self, number: int, work: Work, tick: Callable[[float], None]) -> dict[str, Any]:
        """The record of one method in one trial. What it had reached is dropped; the trial's first network stays."""
        compute, mark = self.config.compute, self.marks[work.label]
        seed = seed_of(compute.seed, "trial", number)
        states = DirectoryCheckpoints(self.config.output / self.measure.spec.name / self._folder / f"trial-{number}")
        spent = f"{mark}/spent"
        attribute = self._attributor(work, seed, states, spent)
        trial = Trial(self.data, seed, attribute, states, mark, work.rows, compute.precision, tick)
        score: Score = self.measure.spec.function(trial, **self.measure.settings)
        cost = states.load(spent) or {}
        states.drop(mark)
        return {
            "key": f"trial {number}",
            "mark": mark,
            "method": work.label,
            "metric": self.measure.label,
            **Measured(self.measure, score, score.undefined).read(0, None),
            "target": None,
            "cost": {name: round(total / cost["images"], 4) for name, total in cost.items() if name != "images"},
        }

    @property
    def _folder(self) -> str:
        """A digest of what determines the first networks."""
        settings = {key: value for key, value in self.measure.settings.items() if key not in LATER}
        compute = self.config.compute
        return fingerprint(settings, self.measure.spec.version, self.digest, compute.seed, compute.precision)[:16]

    def _attributor(self, work: Work, seed: int, states: CheckpointStore, spent: str) -> Attribute:
        """The method, with the trial's draws; what it costs is booked in the state ``spent``."""
        runtime = replace(Runtime.of(self.config.compute), seed=seed)

        def attribute(net: Classifier, x: Tensor, labels: Tensor) -> Tensor:
            y = labels if self.config.target == "label" else predict(net, x, runtime)[0].argmax(dim=1)
            result = run_work(net, work, x, y, None, runtime)
            cost = {"images": len(x), "forwards": result.cost.forwards, "backwards": result.cost.backwards}
            before = states.load(spent) or {}
            now = cost | {"seconds": result.cost.seconds}
            states.save(spent, {name: before.get(name, 0) + value for name, value in now.items()})
            return result.values

        return attribute


@dataclass
class Meter:
    """Progress in epochs. What was there before is counted when the part that it belongs to is done."""

    advance: Advance
    total: float
    done: float = 0
    expected: float = 0

    def expect(self, epochs: float) -> None:
        """The next part takes so many."""
        self.expected += epochs
        self.advance(self.done, self.total)

    def tick(self, epochs: float) -> None:
        """So many more are done."""
        self.done += epochs
        self.advance(self.done, self.total)

    def settle(self) -> None:
        """The part is done, whatever was counted."""
        self.done = self.expected
        self.advance(self.done, self.total)
