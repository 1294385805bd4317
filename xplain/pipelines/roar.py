"""Implementation of ``xplain evaluate`` for metrics that train networks on a whole dataset (remove and retrain).

RUN/roar/<settings>/trial-N/ contains the first network of each trial and the checkpoints of unfinished methods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from xplain.core.checkpoint_store import CheckpointStore, DirectoryCheckpoints
from xplain.core.config import EvaluateConfig
from xplain.core.errors import Failure, UsageError
from xplain.core.options import EMBEDDED, ComputeOptions
from xplain.core.parameters import read_percentages
from xplain.core.rng import seed_of
from xplain.core.run_store import LATE_ENTRIES, SCHEMA, RunStore, fingerprint, read_run, settings_digest
from xplain.core.types import Score
from xplain.data.datasets import select_shard
from xplain.data.splits import TrainTestSplit, read_split
from xplain.metrics._training import make_classifier
from xplain.metrics._trial import Attribute, Trial
from xplain.metrics.roar import estimate_epochs
from xplain.metrics.sds import check_grid
from xplain.models import Classifier
from xplain.models.devices import select_device
from xplain.oracle.runtime import inference_session, predict
from xplain.pipelines.attribution import resolve_methods, with_control
from xplain.pipelines.measurement import resolve_metrics
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.metric_run import MetricResult, MetricRun
from xplain.pipelines.progress import OnProgress, ProgressCounter, ignore_progress
from xplain.pipelines.records import describe_run, device_entry
from xplain.pipelines.run_folders import describe_request

NOT_IN_FIRST_NETWORK = ("trials", "fractions")  # settings of a metric that do not affect the first network of a trial


def trains_own_networks(config: EvaluateConfig) -> str | None:
    """Return the name of the first metric if all requested metrics train their own networks, otherwise None.

    Such metrics ignore ``--model``.
    """
    metrics = resolve_metrics(config.protocol, config.metrics)
    if any(metric.spec.scope == "image" for metric in metrics):
        return None
    return metrics[0].spec.name


def check_requests(configs: Sequence[EvaluateConfig]) -> None:
    """Raise UsageError if an option does not apply to metrics that train their own networks. configs: one configuration per model."""
    config = configs[0]
    metrics = [m for m in resolve_metrics(config.protocol, config.metrics) if m.spec.scope == "dataset"]
    if metrics and len(configs) > 1:
        name = metrics[0].spec.name
        raise UsageError(
            f"{name} trains its own networks and cannot be combined with several models",
            "evaluate it in a separate run",
        )
    if metrics and config.maps:
        name = metrics[0].spec.name
        raise UsageError(f"{name} trains its own networks, which --maps do not explain", f"run -M {name} separately")
    own = trains_own_networks(config)
    if own is None:
        return
    replacements = {
        "--image-size": f"{own}:size=N",
        "--limit": f"{own}:per_class=N",
        "--per-class": f"{own}:per_class=N",
    }
    for option in _options_of_the_model(config):
        hint = f"use {replacements[option]}" if option in replacements else f"remove {option}"
        raise UsageError(f"{option} cannot be used with {own}, which trains its own networks", hint)


def _options_of_the_model(config: EvaluateConfig) -> list[str]:
    """Return the specified options that apply only to the model or to per-image metrics."""
    given = {
        "--model": config.model.name != EMBEDDED,
        "--weights": config.model.weights is not None,
        "--classes": config.model.classes is not None,
        "--labels": config.labels is not None,
        "--prompt": bool(config.model.prompt),
        "--image-size": config.model.image_size is not None,
        "--mean": config.model.mean is not None,
        "--std": config.model.std is not None,
        "--activation": config.model.activation != "auto",
        "--logits": config.model.logits is not None,
        "--threshold": config.model.threshold is not None,
        "--limit": config.limit is not None,
        "--per-class": config.per_class is not None,
        "--per-class-order": config.per_class_order is not None,
        "--save-maps": config.save_maps,
        "--save-curves": config.save_curves,
    }
    return [option for option, is_given in given.items() if is_given]


def run_trials(config: EvaluateConfig, on_progress: OnProgress = ignore_progress) -> Iterator[Failure]:
    """Run the trials that are missing in the run directory and yield the images that cannot be read. ``on_progress`` counts epochs.

    Raises an XplainError for an error of the request as a whole.
    """
    for metric in resolve_metrics(config.protocol, config.metrics):
        if metric.spec.scope == "dataset":
            yield from _run_metric(config, metric, on_progress)


def _run_metric(config: EvaluateConfig, metric: MetricRun, on_progress: OnProgress) -> Iterator[Failure]:
    """Run the missing trials of one metric."""
    settings, compute = metric.settings, config.compute
    data, failures = read_split(config.dataset, settings["size"], settings["per_class"], compute.seed)
    if "grid" in settings:
        check_grid(metric.spec.name, settings["grid"], data.train.pixels)
    digest = _hash_images(data)
    data = data.to(select_device(config.model.device))
    example = make_classifier(data, settings["network"], compute.seed)
    choices = with_control(config.methods)
    methods = resolve_methods(choices, config.score, example, config.layer, config.layout)
    description = _describe(config, metric, example, data, digest, methods)
    with RunStore.open(config.output, config.shard[0], description) as store:
        new = [failure for failure in failures if not store.has(failure.name, "failed")]
        store.append([{"key": f.name, "mark": "failed", "error": str(f.error)} for f in new])
        yield from failures
        RetrainingRun(config, metric, data, digest, methods, store).run(on_progress)


def _hash_images(data: TrainTestSplit) -> str:
    """Return a SHA-256 of the images, their labels and their split."""
    digest = hashlib.sha256(json.dumps(data.classes).encode())
    for part in (data.train, data.test):
        for tensor in (part.pixels, part.labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _describe(
    config: EvaluateConfig,
    metric: MetricRun,
    example: Classifier,
    data: TrainTestSplit,
    digest: str,
    methods: Sequence[MethodRun],
) -> dict[str, Any]:
    """Return the content of ``run.json``, merged with the entries of other metrics. Raise UsageError if the run has different images."""
    facts = describe_run(config.compute, example)
    stored = read_run(config.output)[0] if (config.output / "run.json").exists() else {}
    _check_images(config, metric, digest, stored.get("metrics", {}))
    own = {key: facts[key] for key in ("seed", "precision")} | {"target": config.target} | device_entry(facts)
    undecided = dict.fromkeys(("model", "preprocessing", *LATE_ENTRIES))
    return {
        "schema": SCHEMA,
        "dataset": {"location": config.dataset, "items": 0, "labelled": 0},
        "protocol": config.protocol,
        **stored,
        "request": describe_request(config),
        "fingerprint": undecided | stored.get("fingerprint", {}) | own,
        "methods": {m.label: m.describe() | {"deviations": m.spec.deviations} | m.hash_references() for m in methods},
        "metrics": {
            metric.label: _describe_metric(metric, digest)
            | {
                "axis": metric.spec.axis,
                "scope": "dataset",
                **({"places": _removed_shares(metric)} if has_fractions(metric) else {}),
                "trials": metric.settings["trials"],
                "note": _note(metric, data),
            }
        },
        "environment": {"device": facts["device"], "versions": facts["versions"]},
    }


def _check_images(config: EvaluateConfig, metric: MetricRun, digest: str, stored: Mapping[str, Any]) -> None:
    """Raise UsageError if a stored metric has read other images or labels from the same part of the data set."""
    for label, known in stored.items():
        params = known["params"] if "scope" in known else {}
        is_same_part = all(params.get(name) == metric.settings[name] for name in ("size", "per_class"))
        if "images" in params and params["images"] != digest and (is_same_part or label == metric.label):
            raise UsageError(
                f"{str(config.output)!r} contains {label} results for different images",
                "use another --output or the same dataset",
            )


def _note(metric: MetricRun, data: TrainTestSplit) -> str:
    """Return a note on how to interpret the values. Reports print it after the name of the metric."""
    height, width = data.train.pixels.shape[2:]
    return (
        f"trains its own networks ({metric.settings['network']}) on {len(data.train)} images and tests them on "
        f"{len(data.test)} images of {height} x {width} pixels ({data.origin}); n is the number of trials, and each value is the "
        f"{'mean test accuracy over the fractions' if has_fractions(metric) else 'mean over the test images'}"
    )


def has_fractions(metric: MetricRun) -> bool:
    """Return whether a metric trains a network for each of several fractions of removed pixels."""
    return "fractions" in metric.settings


def _describe_metric(metric: MetricRun, digest: str) -> dict[str, Any]:
    """Return the settings that affect the values, including the images but not the number of trials."""
    description = metric.describe()
    params = {key: value for key, value in description["params"].items() if key != "trials"}
    return description | {"params": params | {"images": digest}}


def _removed_shares(metric: MetricRun) -> list[float]:
    """Return the fractions of removed pixels at the points of a curve."""
    percentages = read_percentages(metric.settings["fractions"])
    return [0.0, *(percent / 100 for percent in percentages)]


@dataclass(frozen=True, eq=False)
class RetrainingRun:
    """State shared by all trials of a metric."""

    config: EvaluateConfig
    metric: MetricRun
    data: TrainTestSplit
    digest: str
    methods: Sequence[MethodRun]
    store: RunStore

    @cached_property
    def marks(self) -> dict[str, str]:
        """Digests of the settings that affect the values of each method."""
        description = _describe_metric(self.metric, self.digest)
        return {method.label: settings_digest(method.describe(), description) for method in self.methods}

    def run(self, on_progress: OnProgress) -> None:
        """Run the missing methods of each trial of this process."""
        numbers = select_shard(range(1, self.metric.settings["trials"] + 1), *self.config.shard)
        missing = {number: self._missing_methods(number) for number in numbers}
        first = self.metric.settings["epochs"]  # of the first network of a trial
        total = sum(first + sum(map(self._epochs, methods)) for methods in missing.values() if methods)
        counter = ProgressCounter(on_progress, total)
        for number, methods in missing.items():
            counter.start_part(first if methods else 0)
            for method in methods:
                counter.start_part(self._epochs(method))
                self.store.append([self._run_trial(number, method, counter)])
                counter.finish_part()

    def _missing_methods(self, number: int) -> list[MethodRun]:
        key = f"trial {number}"
        return [method for method in self.methods if not self.store.has(key, self.marks[method.label])]

    def _epochs(self, method: MethodRun) -> float:
        settings = self.metric.settings
        if not has_fractions(self.metric):
            return (method.rows_per_image + settings["grid"] ** 2) * len(self.data.test) / len(self.data.train)
        return estimate_epochs(self.data, method.rows_per_image, settings["fractions"], settings["epochs"])

    def _run_trial(self, number: int, method: MethodRun, counter: ProgressCounter) -> dict[str, Any]:
        """Run one method in one trial and return its record.

        Delete the checkpoints of the method, but keep the first network of the trial.
        """
        compute, mark = self.config.compute, self.marks[method.label]
        seed = seed_of(compute.seed, "trial", number)
        states = DirectoryCheckpoints(self.config.output / self.metric.spec.name / self._folder / f"trial-{number}")
        spent = f"{mark}/spent"
        attribute = self._make_attribute(method, replace(compute, seed=seed), states, spent)
        trial = Trial(
            self.data,
            seed,
            attribute,
            states,
            mark,
            method.rows_per_image,
            compute.precision,
            counter.advance,
            self._choose_targets,
        )
        score: Score = self.metric.spec.function(trial, **self.metric.settings)
        cost = states.load(spent) or {}
        states.delete(mark)
        return {
            "key": f"trial {number}",
            "mark": mark,
            "method": method.label,
            "metric": self.metric.label,
            **MetricResult(self.metric, score, score.undefined).read(0, None),
            **({"undefined_images": score.undefined_images} if score.undefined_images else {}),
            "target": None,
            "cost": {name: round(total / cost["images"], 4) for name, total in cost.items() if name != "images"},
        }

    @property
    def _folder(self) -> str:
        """Digest of the settings that affect the first networks."""
        settings = {key: value for key, value in self.metric.settings.items() if key not in NOT_IN_FIRST_NETWORK}
        compute = self.config.compute
        device = device_entry({"device": str(self.data.train.pixels.device)}).values()
        return fingerprint(settings, self.metric.spec.version, self.digest, compute.seed, compute.precision, *device)[
            :16
        ]

    def _make_attribute(
        self, method: MethodRun, compute: ComputeOptions, states: CheckpointStore, spent: str
    ) -> Attribute:
        """Return a function that runs the method with the random numbers of a trial and adds its cost to the checkpoint ``spent``."""

        def attribute(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            with inference_session(network):
                targets = self._choose_targets(network, images, labels)
                result = method.attribute(network, images, targets, compute, flag_maps=False)
            cost = {
                "images": len(images),
                "forwards": result.cost.forwards,
                "backwards": result.cost.backwards,
                "seconds": result.cost.seconds,
            }
            before = states.load(spent) or {}
            states.save(spent, {name: before.get(name, 0) + value for name, value in cost.items()})
            return result.values

        return attribute

    def _choose_targets(self, network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        """Return the classes to explain: the labels (n,), or the predicted classes."""
        if self.config.target == "label":
            return labels
        return predict(network, images, self.config.compute)[0].argmax(dim=1)
