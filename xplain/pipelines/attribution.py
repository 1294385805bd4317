"""The engine behind the library and the commands: ``attribute`` and ``measure``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

import xplain.methods
import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.core.allocator import retain_freed_memory
from xplain.core.config import Choice, parse_batch_size
from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.core.registry import METHODS, METRICS, MethodSpec, MetricSpec
from xplain.core.rng import Streams
from xplain.core.types import Attribution, Cost, Precision, Score, ScoreKind
from xplain.data.annotations import locate_boxes, read_annotations
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import find_images
from xplain.metrics.inputs import Explain, MetricInput
from xplain.models import Classifier
from xplain.models.load import with_weights
from xplain.oracle import Oracle
from xplain.oracle.runtime import Runtime, inference_session, predict
from xplain.oracle.targets import Classes, check_images, check_logits, find_contrasts, find_targets

Method = Callable[[Classifier, Tensor, Tensor], Tensor]  # (classifier, images, target) -> attributions
MAX_REFERENCES = 512  # images read from a directory of baselines, evenly spread over its sorted files


@torch.inference_mode(mode=False)
def attribute(
    classifier: Classifier,
    images: Tensor,
    method: str,
    *,
    target: Classes | None = None,
    against: Classes | None = None,
    score: ScoreKind | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    progress: Callable[[int], None] | None = None,
    **params: Any,
) -> Attribution:
    """Signed raw attributions of a batch of images, in units of the explained score.

    images: float (B, C, H, W) in [0, 1], not normalised, on any device; ``read_image`` makes them.
    method: a name or alias, such as ``agi`` or ``ig``; ``params`` are its parameters. ``xplain list methods --json`` has all
        of them, with defaults, sources, and departures from the papers.
    target: class index, wnid or name for all images, or one for each; None: the model's top class.
    against: rival classes, for all images or (B, A): the score becomes target minus the mean of the others; for
        ``agi`` they are exactly the false classes. ``runner-up``: the best other class of each image.
    score: the scalar that is differentiated: logit, prob, log-prob, or margin (over the best other logit); None: the method's own.
    seed: of all random draws, which depend on it and on the image's pixels only, not on the batch.
    precision: fp32, tf32 or bf16. batch_size: rows a model call, or ``auto``. progress: called with the rows done by each call.
    Returns an Attribution on the classifier's device: values (B, C, H, W), or (B, 1, H, W) where the method knows no
        colour; target (B,); cost in rows for the batch. Images and classifier are left as they were.
    Raises, all of them an XplainError: UsageError for names and values that are not accepted, InputError where images or
        logits are not finite, DeviceError where one row does not fit into memory.

    >>> att = xplain.attribute(clf, x, "integrated-gradients", steps=100, target="tabby")
    """
    spec = METHODS.get(method)
    settings, references = resolve_method(spec, params, classifier.preprocessing)
    runtime = make_runtime(seed, precision, batch_size, progress)
    check_choice("score", score or spec.score, get_args(ScoreKind))
    started = time.perf_counter()
    images = check_images(classifier, images)
    with inference_session(classifier):
        logits, cost = predict_all(classifier, images, runtime)
        y = find_targets(classifier, target, logits)
        contrasts = find_contrasts(classifier, against, logits, y)
        result = run_method(classifier, spec, settings, images, y, contrasts, score or spec.score, runtime, references)
    outside = {"pixels outside [0, 1]": ((images < 0) | (images > 1)).flatten(1).any(dim=1)}
    return replace(
        result, flags=result.flags | outside, cost=replace(result.cost + cost, seconds=time.perf_counter() - started)
    )


def make_runtime(
    seed: int, precision: Precision, batch_size: int | str, progress: Callable[[int], None] | None
) -> Runtime:
    """The keywords of the library's functions, checked."""
    check_choice("precision", precision, get_args(Precision))
    return Runtime(seed, precision, parse_batch_size(str(batch_size)), progress)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise UsageError unless ``value`` is among the choices."""
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}", did_you_mean(str(value), choices, f"give {' or '.join(choices)}"))


def predict_all(classifier: Classifier, images: Tensor, runtime: Runtime) -> tuple[Tensor, Cost]:
    """(B, classes) logits. Raises InputError unless all are finite."""
    logits, cost = predict(classifier, images, runtime)
    bad = (~check_logits(logits)).nonzero()
    if len(bad):
        hint = "check the weights and --precision"
        raise InputError(f"the model's logits for image {int(bad[0])} are not finite", hint)
    return logits, cost


def resolve_method(
    spec: MethodSpec, params: Mapping[str, Any], preprocessing: Preprocessing
) -> tuple[dict[str, Any], Tensor | None]:
    """A method's parameters, checked, and the reference images that its ``baselines`` stand for (None: noise)."""
    given = dict(params)
    references = given.get("baselines")
    if isinstance(references, Tensor):
        given["baselines"] = "tensor"
        return spec.resolve(given), references
    settings = spec.resolve(given)
    kind = settings.get("baselines", "noise")
    return settings, None if kind == "noise" else _read_references(kind, preprocessing)


def _read_references(directory: str, preprocessing: Preprocessing) -> Tensor:
    """(N, 3, H, W) images of a directory; at most MAX_REFERENCES, evenly spread over its files."""
    if not Path(directory).is_dir():
        raise InputError(f"no directory of baselines {directory!r}", "give a directory of images, or noise")
    sources = find_images([directory])
    sources = sources[:: -(-len(sources) // MAX_REFERENCES)]
    return torch.stack([preprocess(decode_image(each.read(), each.name), preprocessing) for each in sources])


def run_method(
    classifier: Classifier,
    spec: MethodSpec,
    settings: Mapping[str, Any],
    images: Tensor,
    y: Tensor,
    contrasts: Tensor | None,
    score: ScoreKind,
    runtime: Runtime,
    references: Tensor | None = None,
    content: Tensor | None = None,
) -> Attribution:
    """Run a resolved method; as many images at a time as rows fit into one model call.

    content: the images on which random draws depend, if not ``images`` themselves.
    """
    started = time.perf_counter()
    own = "against" in spec.needs  # the method itself decides what its rivals mean
    cost = Cost()
    parts = []
    size = images_at_once(classifier, spec, settings, images, runtime.batch_size)
    for some in torch.arange(len(images)).chunk(-(-len(images) // size)):
        x, against = images[some], None if contrasts is None else contrasts[some]
        oracle = Oracle(
            classifier,
            score=score,
            against=None if own else against,
            images=len(x),
            batch_size=runtime.batch_size,
            precision=runtime.precision,
            fold=not spec.plain,
            tick=runtime.progress,
        )
        needed = _supply(spec, x, against, references, x if content is None else content[some], runtime.seed)
        result: Attribution = spec.function(oracle, x, y[some], **settings, **needed)
        spent = {"forwards": oracle.spent[:, 0], "backwards": oracle.spent[:, 1]}
        parts.append(replace(result, values=result.values.detach().contiguous(), details=result.details | spent))
        cost = cost + oracle.cost
    return replace(_join(parts), target=y, cost=replace(cost, seconds=time.perf_counter() - started))


def _supply(
    spec: MethodSpec, x: Tensor, against: Tensor | None, references: Tensor | None, content: Tensor, seed: int
) -> dict[str, Any]:
    """What a method needs besides images and targets. content: (B, C, H, W) on which its random draws depend."""
    supplies: dict[str, Callable[[], Any]] = {
        "against": lambda: against,
        "references": lambda: None if references is None else references.to(x),
        "rng": lambda: Streams.of(content, seed, spec.name),
    }
    return {name: supplies[name]() for name in spec.needs}


def images_at_once(
    classifier: Classifier, spec: MethodSpec, settings: Mapping[str, Any], images: Tensor, batch_size: int | None
) -> int:
    """How many images fill a model call, given how many rows of one image a method can run at once."""
    return max(Oracle(classifier, batch_size=batch_size).rows(images) // max(spec.parallel(**settings), 1), 1)


def _join(parts: list[Attribution]) -> Attribution:
    """The groups as one batch."""
    first = parts[0]
    return replace(
        first,
        values=torch.cat([part.values for part in parts]),
        expected=None if first.expected is None else torch.cat([p.expected for p in parts if p.expected is not None]),
        details={name: torch.cat([part.details[name] for part in parts]) for name in first.details},
        flags={name: torch.cat([part.flags[name] for part in parts]) for name in first.flags},
    )


@torch.inference_mode(mode=False)
def measure(
    classifier: Classifier,
    images: Tensor,
    attributions: Tensor,
    metric: str,
    *,
    target: Classes | None = None,
    method: str | Method | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    progress: Callable[[int], None] | None = None,
    **params: Any,
) -> Score:
    """One value of a metric for each image; NaN where it is undefined.

    images: float (B, C, H, W) in [0, 1]. attributions: (B, C or 1, H, W), raw and signed, as ``attribute`` or another program gives them.
    metric: a name, such as ``deletion``; ``params`` are its parameters. ``xplain list metrics --json`` has all of them, with
        unit, bounds, which way is better, when there is no value, and source.
    target: the class that is measured, as in ``attribute``. Give ``att.target`` where that was not the model's top class.
    method: what made the attributions, for the metrics that attribute again or must know what a map holds:
        ``NAME[:key=value,...]``, or a function (classifier, images, target) -> attributions.
    seed, precision, batch_size, progress: as in ``attribute``.
    Returns a Score: values (B,), curve (B, K+1) or None, undefined: reasons with a mask (B,) each.
    Raises as ``attribute``, and InputError for maps of another size.

    >>> score = xplain.measure(clf, x, att.values, "deletion", target=att.target, steps=28)
    """
    spec = METRICS.get(metric)
    boxes = params.pop("boxes") if isinstance(params.get("boxes"), Tensor) else None
    settings = spec.resolve(params)
    runtime = make_runtime(seed, precision, batch_size, progress)
    started = time.perf_counter()
    images = check_images(classifier, images)
    attributions = check_images(classifier, attributions, "attributions")
    _check_shapes(images, attributions, boxes)
    with retain_freed_memory():
        logits, cost = predict_all(classifier, images, runtime)
        y = find_targets(classifier, target, logits)
        oracle = Oracle(
            classifier, score="prob", batch_size=runtime.batch_size, precision=runtime.precision, tick=runtime.progress
        )
        case = MetricInput(oracle, images, attributions, y, boxes=boxes)
        explain = None if method is None else _explainer(oracle, method, images, runtime)
        known = METHODS.get(Choice.parse(method).name) if isinstance(method, str) else None
        if known is not None:
            case = replace(case, score=known.score, slopes=known.slopes)
        result = run_metric(spec, settings, case, runtime, explain)
    return replace(result, cost=replace(oracle.cost + cost, seconds=time.perf_counter() - started))


def _check_shapes(images: Tensor, attributions: Tensor, boxes: Tensor | None) -> None:
    """Raise InputError unless there is a map of its size for each image, and a list of boxes where there are any."""
    size, channels = (len(images), *images.shape[2:]), images.shape[1]
    if (len(attributions), *attributions.shape[2:]) != size or attributions.shape[1] not in (1, channels):
        raise InputError(
            f"attributions {tuple(attributions.shape)} for images {tuple(images.shape)}", "give one map an image"
        )
    if boxes is not None and (boxes.ndim != 3 or len(boxes) != len(images) or boxes.shape[2] != 4):
        raise InputError(f"boxes {tuple(boxes.shape)} for {len(images)} images", "give (images, boxes, 4)")


def run_metric(
    spec: MetricSpec, settings: Mapping[str, Any], case: MetricInput, runtime: Runtime, explain: Explain | None = None
) -> Score:
    """Run a resolved metric. Its random draws depend on the image and the metric, and so are common to all methods."""
    if spec.scope != "image":
        raise UsageError(f"{spec.name} has no value for an image", f"use xplain evaluate DATASET -M {spec.name}")
    supplies: dict[str, Callable[[], Any]] = {
        "rng": lambda: Streams.of(case.images, runtime.seed, spec.draws or spec.name),
        "seed": lambda: runtime.seed,
        "explain": lambda: _demand(explain, spec),
        "load": lambda: partial(with_weights, case.oracle.classifier),
    }
    needed = {name: supplies[name]() for name in spec.needs}
    if settings.get("boxes") is not None:
        case = replace(case, boxes=_locate_boxes(settings["boxes"], case, spec))
    result: Score = spec.function(case, **settings, **needed)
    return result


def _locate_boxes(path: str, case: MetricInput, spec: MetricSpec) -> Tensor:
    if not (case.keys and case.sizes):
        raise UsageError(
            f"{spec.name} finds the boxes of a file by the images' names, which are not known here",
            "give boxes as a tensor (images, boxes, 4) in pixels of the images",
        )
    classifier = case.oracle.classifier
    annotations = read_annotations(path)
    return locate_boxes(
        annotations, case.keys, case.sizes, case.y.tolist(), classifier.preprocessing, classifier.class_names.find
    )


def _demand(explain: Explain | None, spec: MetricSpec) -> Explain:
    if explain is None:
        raise UsageError(f"{spec.name} attributes again", "give the method too: method='saliency'")
    return explain


def explain_again(
    classifier: Classifier,
    spec: MethodSpec,
    settings: Mapping[str, Any],
    score: ScoreKind,
    content: Tensor,
    runtime: Runtime,
    references: Tensor | None = None,
    oracle: Oracle | None = None,
) -> Explain:
    """The method as metrics run it again; its random draws are those of ``content``, (B, C, H, W).

    oracle: to whose account its rows go.
    """
    own = classifier

    def explain(images: Tensor, y: Tensor, classifier: Classifier | None = None, image: Tensor | None = None) -> Tensor:
        drawn = content if image is None else content[image]
        found = run_method(classifier or own, spec, settings, images, y, None, score, runtime, references, drawn)
        if oracle is not None:
            oracle.cost = oracle.cost + found.cost
        return found.values

    return explain


def _explainer(oracle: Oracle, method: str | Method, images: Tensor, runtime: Runtime) -> Explain:
    own = oracle.classifier
    if not isinstance(method, str):
        return lambda images, y, classifier=None, image=None: method(classifier or own, images, y)
    choice = Choice.parse(method)
    spec = METHODS.get(choice.name)
    settings, references = resolve_method(spec, dict(choice.params), own.preprocessing)
    return explain_again(own, spec, settings, spec.score, images, runtime, references, oracle)
