"""Run attribution methods: ``attribute`` for library users; check and resolve the methods that commands request."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import xplain.methods  # noqa: F401  (importing registers them)
from xplain.core.config import Choice
from xplain.core.errors import (
    MODEL_ERRORS,
    InputError,
    UsageError,
    XplainError,
    convert_device_errors,
    device_error,
    first_line,
)
from xplain.core.options import ComputeOptions
from xplain.core.registry import METHODS, Spec
from xplain.core.rng import preserve_random_state
from xplain.core.scores import ContrastScore, ScoreName
from xplain.core.stability import StabilityLevel
from xplain.core.sweeps import parse_single
from xplain.core.types import Attribution, Cost, EngineName, Precision, ScoreKind
from xplain.models import Classifier, ScalarFunction
from xplain.models.devices import synchronize
from xplain.models.layer_names import find_layer_name
from xplain.models.scalar_outputs import NETWORK_PREFIX, resolve_scalar_target
from xplain.oracle.access import check_access
from xplain.oracle.engine_choice import choose_engine
from xplain.oracle.engines import Engine
from xplain.oracle.runtime import inference_session, predict
from xplain.oracle.shared_forward import SharedForward
from xplain.oracle.targets import Classes, find_contrasts, find_targets, has_finite_logits
from xplain.pipelines.arguments import (
    check_images,
    check_keywords,
    check_progress,
    check_references,
    check_score_text,
    resolve_compute,
)
from xplain.pipelines.contrasts import CONTRASTS
from xplain.pipelines.image_arguments import ModelLike, resolve_classifier
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.method_scores import choose_score, find_own_score, split_score
from xplain.pipelines.stability import check_level, with_stability
from xplain.reports.control import CONTROL


def attribute(
    classifier: ModelLike,
    images: Tensor,
    method: str,
    *,
    target: Classes | ScalarFunction | None = None,
    against: Classes | None = None,
    score: ScoreName | ContrastScore | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    engine: EngineName = "torch",
    progress: Callable[[int], None] | None = None,
    stability: StabilityLevel = "off",
    **params: Any,
) -> Attribution:
    """Compute signed attributions for a batch of images, in units of the explained score.

    Args:
        classifier: a classifier of ``load_classifier``, or what it loads: the name of a model, an nn.Module or a function. Load it once
            if you call this function often.
        images: float (B, C, H, W) in [0, 1], not normalized, on any device, a tensor or a NumPy array; ``read_image`` makes them.
        method: name or alias of a method, such as ``agi`` or ``ig``, or ``NAME:key=value[,key=value]``.
        target: class index, WordNet ID or class name, either one for all images or one per image; or a differentiable function of
            the network's output that returns one value per image, such as ``lambda output: output["age"]`` or
            ``xplain.similarity(classifier, image)``. Default: the predicted class of each image.
        against: contrast classes, either for all images or of shape (B, A). The explained score is the score of the target minus the
            mean score of the contrast classes; ``agi`` uses them as false classes. ``runner-up`` selects the most probable class
            other than the target.
        score: model output to explain: ``logit``, ``prob``, ``log-prob``, ``margin`` (the target's logit minus the largest other
            logit; if an image can have several labels, minus the threshold) or ``contrast`` (Finer-CAM: the target's logit minus 0.6
            times the mean of the three logits that are nearest to it in the unchanged image, or of those of ``against``). A
            ``xplain.core.scores.ContrastScore`` or the text ``contrast:gamma=0.6,classes=3`` sets its parameters. Default: set by the
            method.
        seed: random seed. Random numbers depend on the seed and on the pixels of each image, but not on the batch.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: maximum number of samples per forward pass, or ``auto``.
        engine: ``torch``, ``openvino``, which computes the model on the CPU where it can, or ``auto``: openvino if it is installed and the
            work repays the conversion of the model. The numbers agree up to rounding.
        progress: callback that receives the number of processed samples after each forward pass.
        stability: ``quick`` or ``full`` also runs the method with other random draws, in other arithmetic and under small noise, and
            sets ``stability`` of the result: how much of the highest tenth of each map stays. ``full`` takes about ten times the rows.
            ``quick`` at most doubles them, and measures what fits: as a rule one repeat with other draws, or for methods without draws
            or with samples whose halves can be compared, one repeat with noise. The rows are not part of ``cost``.
        params: parameters of the method. ``xplain.methods()`` lists them with their defaults. ``layer`` is a name or a module of the
            model, ``baseline`` a name, a path, or a tensor (C, H, W) or (B, C, H, W).

    Returns:
        An Attribution on the classifier's device, with ``values`` of shape (B, C, H, W), or (B, 1, H, W) for methods that do not
        distinguish channels, ``target`` of shape (B,) and the ``cost`` of the batch. The images and the classifier are not modified.

    Raises:
        UsageError: a name, value or shape is invalid.
        InputError: images or logits are not finite, images are not in [0, 1], or the model does not accept their size.
        DeviceError: one row does not fit into memory.

    Example:
        >>> att = xplain.attribute(clf, x, "integrated-gradients", steps=100, target="tabby")
    """
    check_keywords(attribute, params, parameter_names(method))
    batch = attribute_batch(
        classifier,
        images,
        method,
        target=target,
        against=against,
        score=score,
        seed=seed,
        precision=precision,
        batch_size=batch_size,
        engine=engine,
        progress=progress,
        stability=stability,
        **params,
    )
    return batch.attribution


@dataclass(frozen=True, eq=False)
class AttributedBatch:
    """The result of ``attribute`` with what it was computed from.

    classifier: that of the target, if that is a function. images: (B, C, H, W) on its device. logits: (B, classes).
    contrasts: (B, A) contrast classes, or None. attribution: the result. engine: what computed it; None: PyTorch.
    """

    classifier: Classifier
    method_run: MethodRun
    compute: ComputeOptions
    images: Tensor
    logits: Tensor
    contrasts: Tensor | None
    attribution: Attribution
    engine: Engine | None


@torch.inference_mode(mode=False)
def attribute_batch(
    classifier: ModelLike,
    images: Tensor,
    method: str,
    *,
    target: Classes | ScalarFunction | None,
    against: Classes | None,
    score: ScoreName | ContrastScore | None,
    seed: int,
    precision: Precision,
    batch_size: int | str,
    engine: EngineName,
    progress: Callable[[int], None] | None,
    stability: StabilityLevel,
    **params: Any,
) -> AttributedBatch:
    """Do what ``attribute`` does, and also return the logits, the resolved method and the other inputs of the result."""
    classifier = given = resolve_classifier(classifier, images=images)
    classifier, classes = resolve_scalar_target(classifier, target, against)
    if "layer" in params:
        prefix = "" if classifier is given else NETWORK_PREFIX
        params["layer"] = find_layer_name(given, params["layer"], prefix)
    score_text = None if score is None else check_score_text(score)
    if isinstance(method, str) and ":" in method:
        choice = parse_single(method)
        method, params = choice.name, {**dict(choice.params), **params}
    spec, params = METHODS.get(method), check_references(params)
    method_run = MethodRun.resolve(spec, params, classifier.preprocessing, score=score_text)
    compute = resolve_compute(seed, precision, batch_size, engine)
    check_progress(progress)
    level = check_level(stability)
    synchronize(classifier.device)
    started = time.perf_counter()
    images = check_images(classifier, images)
    classifier.inspect_first_images(images)
    check_access(classifier, method_run.spec.access, spec.name)
    chosen_engine = choose_engine(classifier, engine, precision, method_run.planned_rows.times(len(images)))
    with inference_session(classifier, chosen_engine), preserve_random_state(), convert_device_errors():
        chosen = find_own_score(spec, params) or score_text
        method_run = replace(method_run, score=choose_score(method_run.spec, chosen, classifier.output))
        logits, cost, shared = _predict_for(method_run, classifier, images, compute)
        targets = find_targets(classifier, classes, logits)
        contrasts = find_contrasts(classifier, against, logits, targets)
        result = method_run.attribute(
            classifier, images, targets, compute, contrasts=contrasts, logits=logits, on_rows=progress, shared=shared
        )
        if shared is not None and shared.is_used:  # the method counts its rows
            cost = replace(cost, checks=cost.checks - len(images))
        synchronize(classifier.device)
        seconds = time.perf_counter() - started
        result = with_stability(
            method_run,
            classifier,
            images,
            result,
            compute,
            level,
            logits=logits,
            contrasts=result.details.get(CONTRASTS, contrasts),
            on_rows=progress,
        )
    attribution = replace(result, cost=replace(result.cost + cost, seconds=seconds))
    return AttributedBatch(classifier, method_run, compute, images, logits, contrasts, attribution, chosen_engine)


def parameter_names(method: str) -> list[str]:
    """Return the names of the parameters that a method accepts, of its name or its text. Raises UsageError if it is unknown."""
    name = method.partition(":")[0] if isinstance(method, str) else method
    spec = METHODS.get(name)
    return [*spec.parameters, *spec.parameter_aliases]


def predict_finite(classifier: Classifier, images: Tensor, compute: ComputeOptions) -> tuple[Tensor, Cost]:
    """Return the logits (B, classes) and their cost. Raises InputError unless the model accepts the images and all logits are finite."""
    with _checked_prediction(images, classifier):
        logits, cost = predict(classifier, images, compute)
    _check_finite(logits)
    return logits, cost


def _predict_for(
    method: MethodRun, classifier: Classifier, images: Tensor, compute: ComputeOptions
) -> tuple[Tensor, Cost, SharedForward | None]:
    """Return what ``predict_finite`` does, and the forward pass if the method can share it."""
    with _checked_prediction(images, classifier):
        logits, cost, shared = method.predict(classifier, images, compute)
    _check_finite(logits)
    return logits, cost, shared


@contextmanager
def _checked_prediction(images: Tensor, classifier: Classifier) -> Iterator[None]:
    """Raise InputError for errors of the model on the images (B, C, H, W)."""
    try:
        yield
    except XplainError:  # some are RuntimeErrors too
        raise
    except MODEL_ERRORS as error:
        hint = "pass images of the size that the model expects, such as classifier.size"
        if "size" in classifier.assumptions:
            hint = "pass images of the size that the model expects, or state it with --image-size N"
        raise device_error(error) or InputError(
            f"the model failed on images {tuple(images.shape)}: {type(error).__name__}: {first_line(error)}", hint
        ) from error


def _check_finite(logits: Tensor) -> None:
    """Raise InputError unless all logits (B, classes) are finite."""
    bad = (~has_finite_logits(logits)).nonzero()
    if len(bad):
        raise InputError(
            f"the logits of image {int(bad[0])} contain NaN or infinity", "check the weights or use precision fp32"
        )


def resolve_methods(
    choices: Sequence[Choice],
    score: ScoreKind | None,
    classifier: Classifier,
    layer: str | None = None,
    layout: str | None = None,
) -> list[MethodRun]:
    """Resolve the requested methods.

    score: explained output, or None for the default of each method.
    layer, layout: layer and its layout, for the methods that have such a parameter.
    Raises UsageError if the classifier does not offer what a method needs.
    """
    runs = []
    for choice in choices:
        spec = METHODS.get(choice.name)
        params = with_layer_options(spec, choice, layer, layout)
        label = label_of(choice, spec.name)
        run = MethodRun.resolve(
            spec, params, classifier.preprocessing, score=score, output=classifier.output, label=label
        )
        check_access(classifier, run.spec.access, spec.name)
        runs.append(run)
    return runs


def check_methods(choices: Sequence[Choice], layer: str | None = None, layout: str | None = None) -> None:
    """Validate the methods before a model is loaded.

    Raises UsageError if a method is invalid or if none of them supports ``layer`` or ``layout``.
    """
    specs = [METHODS.get(choice.name) for choice in choices]
    for spec, choice in zip(specs, choices, strict=True):
        spec.resolve(split_score(spec, with_layer_options(spec, choice, layer, layout))[1])
    check_distinct(label_of(choice, spec.name) for spec, choice in zip(specs, choices, strict=True))
    for name, value in (("layer", layer), ("layout", layout)):
        if value and not any(name in spec.parameters for spec in specs):
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"--{name} {value} is not supported by {names}", "remove it or add a layer-based method")


def with_layer_options(spec: Spec, choice: Choice, layer: str | None, layout: str | None) -> dict[str, Any]:
    """Return the parameters of ``choice``. Add ``layer`` and ``layout`` where the method has them and the choice does not."""
    given = {"layer": layer, "layout": layout}
    common = {name: value for name, value in given.items() if value and name in spec.parameters}
    return common | dict(choice.params)


def label_of(choice: Choice, name: str) -> str:
    """Return the label of a method or metric: its full name and the requested parameters, such as ``agi:steps=10``."""
    params = ",".join(f"{key}={value}" for key, value in choice.params)
    return f"{name}:{params}" if params else name


def check_distinct(labels: Iterable[str], kind: str = "method") -> None:
    """Raise UsageError if a method (or another ``kind``) occurs twice with the same parameters."""
    for label, count in Counter(labels).items():
        if count > 1:
            raise UsageError(f"{kind} {label!r} is specified more than once", "remove the duplicate")


def with_control(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """Append the random control to the methods if it is missing."""
    if any(choice.name == CONTROL for choice in choices):
        return choices
    return (*choices, Choice(CONTROL))
