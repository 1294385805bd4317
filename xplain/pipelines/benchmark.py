"""The flow of ``xplain bench``: the bare model's ceiling first, then every method and metric, beside others where asked."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xplain.core.allocator import default_allocator, retain_freed_memory
from xplain.core.config import BenchConfig
from xplain.core.errors import DeviceError, UsageError
from xplain.core.registry import METHODS, METRICS, MethodSpec, Spec
from xplain.data.images import decode_image
from xplain.data.preprocessing import preprocess
from xplain.data.sources import find_images
from xplain.models import Classifier
from xplain.oracle import Oracle
from xplain.oracle.runtime import inference_session, load_model
from xplain.pipelines.meter import Spread
from xplain.pipelines.records import describe_run
from xplain.pipelines.reference_implementations import Peer, Task, find_peer
from xplain.pipelines.subject import Subject
from xplain.pipelines.throughput import Bare, Best, at_precision, best_size, ideal_seconds
from xplain.pipelines.timing import Account, Contender, Result, race

Record = dict[str, Any]
Group = list[Record]  # measured together, round by round
MEBI = 1 << 20
LEAST_SECONDS = 1.0  # of the bare model in a round
CEILINGS = ("gradients", "forwards")  # the bare model's runs, timed in every round


def bench(config: BenchConfig, before: Sequence[Group] = ()) -> Iterator[Group]:
    """Yield the environment, each model's ceiling, and runs as they are measured: what was measured together at a time.

    before: what an interrupted run of the same request yielded. On the same machine its runs are not measured again: each
    was timed beside the bare model, and stands for itself. Raises an XplainError.
    """
    for choice in config.methods:
        METHODS.get(choice.name).resolve(dict(choice.params))
    for choice in config.metrics:
        METRICS.get(choice.name).resolve(dict(choice.params))
    peers = {c.name: _peer(config, METHODS.get(c.name)) for c in config.methods}
    peers |= {c.name: _peer(config, METRICS.get(c.name)) for c in config.metrics}
    for number, name in enumerate(config.models):
        classifier = load_model(replace(config.model, name=name))
        if not number:
            machine = [describe_machine(config, classifier.device)]
            before = before if machine in before else ()
            yield machine
        with inference_session(classifier):
            yield from Bench(config, classifier).run(peers, before)


def _peer(config: BenchConfig, spec: Spec) -> Peer | None:
    return find_peer(spec.name) if config.peer else None


def describe_machine(config: BenchConfig, device: torch.device) -> Record:
    """Where and how is measured."""
    cuda = device.type == "cuda"
    return {
        "kind": "environment",
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "precision": config.compute.precision,
        "images": config.images,
        "repeats": config.repeats,
    }


def cpu_name() -> str:
    """The processor's model."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


class Bench:
    """One model's measurements."""

    def __init__(self, config: BenchConfig, classifier: Classifier) -> None:
        self.config = config
        self.classifier = classifier
        self.images = make_images(config, classifier)
        oracle = Oracle(classifier, batch_size=config.compute.batch_size, precision=config.compute.precision)
        self.y = oracle.logits(self.images).argmax(dim=1)
        self.rows = oracle.rows(self.images)
        draw = torch.Generator().manual_seed(config.compute.seed)
        self.maps = torch.rand(self.images[:, :1].shape, generator=draw).to(self.images)

    def run(self, peers: Mapping[str, Peer | None], before: Sequence[Group] = ()) -> Iterator[Group]:
        """The ceiling, then every subject with one image and with all; what is there from before is not measured again."""
        counts = tuple(dict.fromkeys((1, len(self.images))))
        ceiling, done = self._find(before)
        if ceiling and all((subject.label, count) in done for subject in self._subjects() for count in counts):
            yield from (ceiling, *(done[subject.label, count] for subject in self._subjects() for count in counts))
            return
        bare = {
            which: Bare(self.classifier, self.config.compute.precision, which == "prepared")
            for which in ("prepared", "plain")
        }
        best: dict[str, dict[str, Best]] = {}
        for which, each in bare.items():
            with each.memory():
                best[which] = {
                    "gradients": best_size(each.gradient, self.images),
                    "forwards": best_size(each.forward, self.images),
                }
        yield [self._describe_ceiling(best)]
        for subject in self._subjects():
            if all((subject.label, count) in done for count in counts):
                yield from (done[subject.label, count] for count in counts)
                continue
            peer = peers[subject.choice.name]
            rows = None if peer is None else self._best_rows(peer, subject, best["plain"])
            for count in counts:
                measured = self._measure(subject, count, bare["prepared"], best["prepared"], peer, rows)
                yield done.get((subject.label, count)) or list(measured)

    def _find(self, before: Sequence[Group]) -> tuple[Group | None, dict[tuple[str, int], Group]]:
        """This model's ceiling, and its runs by label and number of images, where the model is still the same one."""
        facts = json.loads(json.dumps(describe_run(self.config.compute, self.classifier)))
        ceilings = [group for group in before if group[0]["kind"] == "ceiling" and facts.items() <= group[0].items()]
        if not ceilings:
            return None, {}
        runs = [group for group in before if group[0]["kind"] == "run" and group[0]["model"] == self.classifier.name]
        return ceilings[0], {(group[0]["label"], group[0]["images"]): group for group in runs}

    def _describe_ceiling(self, best: Mapping[str, Mapping[str, Best]]) -> Record:
        facts = describe_run(self.config.compute, self.classifier)
        rates = {
            which: {
                what: {"rows": each.rows, "rows_per_second": each.rate, "all": each.rates} for what, each in of.items()
            }
            for which, of in best.items()
        }
        return {"kind": "ceiling", **facts, "size": list(self.classifier.size), "rows_a_call": self.rows} | rates

    # ------------------------------------------------------------------ subjects

    def _subjects(self) -> Iterator[Subject]:
        for registry, choices in ((METHODS, self.config.methods), (METRICS, self.config.metrics)):
            for choice in choices:
                spec: Spec = registry.get(choice.name)
                yield Subject(spec, choice, self.config.compute, self.classifier, self.maps)

    def _task(self, subject: Subject, count: int) -> Task:
        return Task(self.classifier, self.images[:count], self.y[:count], subject.settings, self.maps[:count])

    def _best_rows(self, peer: Peer, subject: Subject, plain: Mapping[str, Best]) -> int | None:
        """The rows a call at which the other program is fastest with one image, around the plain model's best size."""
        if not peer.batched:
            return None
        best = plain["gradients" if isinstance(subject.spec, MethodSpec) else "forwards"].rows
        tried = [self._contender(peer, subject, 1, rows) for rows in sorted({max(best // 2, 1), best, best * 2})]
        found = [each for each in race(tried, 1, self.images.device) if not each.error]
        return min(found, key=lambda each: each.seconds[0]).contender.rows if found else None

    def _contender(self, peer: Peer, subject: Subject, count: int, rows: int | None) -> Contender:
        task, precision = self._task(subject, count), self.config.compute.precision

        def run() -> Account:
            with at_precision(precision, task.images.device):
                peer.run(task, rows)
            return Account()

        return Contender(peer.program, count, run, default_allocator, rows)

    # --------------------------------------------------------------- measurements

    def _measure(
        self, subject: Subject, count: int, bare: Bare, best: Mapping[str, Best], peer: Peer | None, rows: int | None
    ) -> Iterator[Record]:
        x, y = self.images[:count], self.y[:count]
        contenders = [self._ceiling(bare, best, what) for what in CEILINGS]
        contenders.append(Contender("xplain", count, lambda: subject.run(x, y), nullcontext))
        if peer is not None:
            sizes = [rows] if count > 1 and peer.batched else list(dict.fromkeys((None, rows)))
            contenders += [self._contender(peer, subject, count, size) for size in sizes]
        gradients, forwards, ours, *others = race(contenders, self.config.repeats, self.images.device)
        for each in (gradients, forwards, ours):
            if isinstance(each.failure, DeviceError):
                raise each.failure
            if each.error:
                kind = UsageError if each.failure is None else type(each.failure)
                raise kind(f"{subject.spec.name} cannot be measured: {each.error}", "leave it out")
        last = count == len(self.images)
        agreement = subject.agreement(x, y) if last else None
        yield self._describe(subject, ours, (gradients, forwards)) | {"agreement_with_fp32": agreement}
        for other in others:
            yield self._describe(subject, other, None, ours)

    def _ceiling(self, bare: Bare, best: Mapping[str, Best], what: str) -> Contender:
        """The bare model at its best size, as often as fills LEAST_SECONDS."""
        size = best[what].rows
        batch = self.images[torch.arange(size, device=self.images.device) % len(self.images)]
        work, calls = bare.gradient if what == "gradients" else bare.forward, best[what].calls(LEAST_SECONDS)

        def run() -> Account:
            for _ in range(calls):
                work(batch)
            return Account()

        return Contender(what, size * calls, run, retain_freed_memory, warm=lambda: work(batch))

    def _describe(
        self, subject: Subject, result: Result, ceiling: tuple[Result, Result] | None, ours: Result | None = None
    ) -> Record:
        """One program's figures. ``ours``: what another program is compared with, round by round."""
        count, cost = result.contender.images, result.account.cost
        seconds = result.seconds
        return {
            "kind": "run",
            "model": self.classifier.name,
            subject.kind: subject.spec.name,
            "label": subject.label,
            "params": subject.settings,
            "images": count,
            "program": result.contender.program,
            "rows_asked": result.contender.rows,
            "images_per_second": _spread([count / s for s in seconds]),
            "gradient_rows_per_second": _spread([cost.backwards / s for s in seconds]) if cost.backwards else None,
            "forward_rows_per_second": _spread([cost.forwards / s for s in seconds]) if cost.forwards else None,
            "efficiency": _spread(_efficiencies(result, *ceiling)) if ceiling and cost.forwards else None,
            "forwards": cost.forwards / count if ours is None else None,
            "backwards": cost.backwards / count if ours is None else None,
            "checks": cost.checks / count if ours is None else None,
            "rows_a_call": result.account.rows_a_call,
            "peak_memory_mib": None if result.memory is None else result.memory / MEBI,
            "xplain_is_faster_by": _spread([s / o for s, o in zip(seconds, ours.seconds, strict=False)])
            if ours
            else None,
            "seconds": seconds,
            "error": result.error or None,
        }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return asdict(Spread.of(values)) if values else None


def _efficiencies(result: Result, gradients: Result, forwards: Result) -> list[float]:
    """Round by round, the seconds that the same rows take the bare model, over the seconds taken."""
    cost, found = result.account.cost, []
    for seconds, gradient, forward in zip(result.seconds, gradients.seconds, forwards.seconds, strict=True):
        rates = forwards.contender.images / forward, gradients.contender.images / gradient
        found.append(ideal_seconds(cost.forwards, cost.backwards, *rates) / seconds)
    return found


def make_images(config: BenchConfig, classifier: Classifier) -> Tensor:
    """(images, 3, H, W) the first of the images given, repeated if there are fewer; or noise by the seed."""
    if config.inputs:
        sources = find_images(config.inputs)[: config.images]
        pixels = [preprocess(decode_image(each.read(), each.name), classifier.preprocessing) for each in sources]
        found = torch.stack([pixels[k % len(pixels)] for k in range(config.images)])
    else:
        draw = torch.Generator().manual_seed(config.compute.seed)
        found = torch.rand(config.images, 3, *classifier.size, generator=draw)
    return found.to(classifier.device, classifier.dtype)
