"""Run attribution methods: ``attribute`` for library users and ``MethodRun`` for the commands."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor

import xplain.methods  # noqa: F401  (importing registers them)
from xplain.core.config import Choice, ComputeOptions
from xplain.core.errors import (
    MODEL_ERRORS,
    InputError,
    UsageError,
    XplainError,
    convert_device_errors,
    device_error,
    emit_note,
    first_line,
)
from xplain.core.registry import METHODS, MethodSpec, Spec
from xplain.core.rng import Streams, preserve_random_state
from xplain.core.types import Attribution, Cost, Precision, ScoreKind
from xplain.data.baselines import check_baseline
from xplain.data.images import read_model_input, sha256
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource, find_images
from xplain.methods.smooth import parse_inner_method
from xplain.metrics.inputs import Explain
from xplain.models import Classifier, ScalarFunction
from xplain.models.checks import RANDOM_FLAG
from xplain.models.devices import synchronize
from xplain.models.first_inspection import inspect_first_images
from xplain.models.outputs import OutputKind
from xplain.models.scalar_outputs import check_directions, resolve_scalar_target
from xplain.oracle import Oracle
from xplain.oracle.access import check_access
from xplain.oracle.batching import rows_per_call
from xplain.oracle.runtime import inference_session, predict
from xplain.oracle.scores import available_score, check_score
from xplain.oracle.targets import Classes, find_contrasts, find_targets, has_finite_logits
from xplain.pipelines.arguments import (
    check_choice,
    check_classifier,
    check_images,
    check_progress,
    check_references,
    resolve_compute,
)
from xplain.pipelines.completeness_flags import flag_completeness_gaps
from xplain.pipelines.inner_method import InnerMethod
from xplain.pipelines.zero_maps import flag_zero_maps

MAX_REFERENCES = 512  # maximum number of baseline images, spaced evenly over the sorted files
# Parameters that older versions do not have, and their defaults, which are not recorded: runs that they began are continued.
# A parameter that only some methods got is named by ``added`` of their specs instead.
ADDED_PARAMETERS = {"layout": "auto", "bias": "keep"}
CONTROL = "random"  # included in every evaluation; a useful method must outperform it


@torch.inference_mode(mode=False)
def attribute(
    classifier: Classifier,
    images: Tensor,
    method: str,
    *,
    target: Classes | ScalarFunction | None = None,
    against: Classes | None = None,
    score: ScoreKind | None = None,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int | str = "auto",
    progress: Callable[[int], None] | None = None,
    **params: Any,
) -> Attribution:
    """Compute signed attributions for a batch of images, in units of the explained score.

    Args:
        images: float (B, C, H, W) in [0, 1], not normalized, on any device, a tensor or a NumPy array; ``read_image`` makes them.
        method: name or alias of a method, such as ``agi`` or ``ig``, or ``NAME:key=value[,key=value]``.
        target: class index, WordNet ID or class name, either one for all images or one per image; or a differentiable function of
            the network's output that returns one value per image, such as ``lambda output: output["age"]`` or
            ``xplain.similarity(classifier, image)``. Default: the predicted class of each image.
        against: contrast classes, either for all images or of shape (B, A). The explained score is the score of the target minus the
            mean score of the contrast classes; ``agi`` uses them as false classes. ``runner-up`` selects the most probable class
            other than the target.
        score: model output to explain: ``logit``, ``prob``, ``log-prob`` or ``margin`` (the target's logit minus the largest other
            logit; if an image can have several labels, minus the threshold). Default: set by the method.
        seed: random seed. Random numbers depend on the seed and on the pixels of each image, but not on the batch.
        precision: ``fp32``, ``tf32`` or ``bf16``.
        batch_size: maximum number of samples per forward pass, or ``auto``.
        progress: callback that receives the number of processed samples after each forward pass.
        params: parameters of the method. ``xplain list methods --json`` lists them with their defaults.

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
    check_classifier(classifier)
    classifier, classes = resolve_scalar_target(classifier, target, against)
    if score is not None:
        check_choice("score", score, get_args(ScoreKind))
    if isinstance(method, str) and ":" in method:
        choice = Choice.parse(method)
        method, params = choice.name, {**dict(choice.params), **params}
    spec, params = METHODS.get(method), check_references(params)
    method_run = MethodRun.resolve(spec, params, classifier.preprocessing, score=score)
    compute = resolve_compute(seed, precision, batch_size)
    check_progress(progress)
    synchronize(classifier.device)
    started = time.perf_counter()
    images = check_images(classifier, images)
    inspect_first_images(classifier, images)
    check_access(classifier, method_run.spec.access, spec.name)
    with inference_session(classifier), preserve_random_state(), convert_device_errors():
        chosen = _find_own_score(spec, params) or score
        method_run = replace(method_run, score=choose_score(method_run.spec, chosen, classifier.output))
        logits, cost = predict_finite(classifier, images, compute)
        targets = find_targets(classifier, classes, logits)
        contrasts = find_contrasts(classifier, against, logits, targets)
        result = method_run.attribute(classifier, images, targets, compute, contrasts=contrasts, on_rows=progress)
    synchronize(classifier.device)
    return replace(result, cost=replace(result.cost + cost, seconds=time.perf_counter() - started))


def predict_finite(classifier: Classifier, images: Tensor, compute: ComputeOptions) -> tuple[Tensor, Cost]:
    """Return the logits (B, classes) and their cost. Raises InputError unless the model accepts the images and all logits are finite."""
    try:
        classifier.detect_pending_output(images)
        logits, cost = predict(classifier, images, compute)
    except XplainError:  # some are RuntimeErrors too
        raise
    except MODEL_ERRORS as error:
        raise device_error(error) or InputError(
            f"the model failed on images {tuple(images.shape)}: {type(error).__name__}: {first_line(error)}",
            "pass images of the size that the model expects, such as classifier.size",
        ) from error
    bad = (~has_finite_logits(logits)).nonzero()
    if len(bad):
        raise InputError(
            f"the logits of image {int(bad[0])} contain NaN or infinity", "check the weights or use precision fp32"
        )
    return logits, cost


@dataclass(frozen=True, eq=False)
class MethodRun:
    """A method with validated parameters.

    settings: values of all parameters.
    references: images (N, C, H, W) from the directory ``baselines``, or None.
    score: explained model output.
    label: display name in tables and file names.
    baseline: images (B or 1, C, H, W) from the file or tensor ``baseline``, or None.
    inner: the method that this one runs, or None.
    """

    spec: MethodSpec
    settings: dict[str, Any]
    references: Tensor | None
    score: ScoreKind
    label: str
    baseline: Tensor | None = None
    inner: MethodRun | None = None

    @classmethod
    def resolve(
        cls,
        spec: MethodSpec,
        params: Mapping[str, Any],
        preprocessing: Preprocessing,
        *,
        score: ScoreKind | None = None,
        output: OutputKind = OutputKind(),
        label: str = "",
    ) -> MethodRun:
        """Validate the parameters and load the reference images.

        params: may contain ``score``, which takes precedence over the argument.
        score: explained model output, or None for the default of the method, or for the value if the model has no probabilities.
        output: the meaning of the model's logits.
        Raises UsageError if a parameter is invalid, and InputError if the reference images cannot be read.
        """
        score = _find_own_score(spec, params) or score
        params = split_score(spec, params)[1]
        settings, tensors = _resolve_tensors(spec, params)
        inner = None
        if "run" in spec.needs:
            inner_spec, inner_params = parse_inner_method(settings["method"])
            inner = cls.resolve(inner_spec, inner_params, preprocessing, score=score, output=output)
            spec = _specialize(spec, inner.spec)
        references = tensors.get("baselines")
        if references is None:
            references = _read_references(settings.get("baselines", "noise"), preprocessing)
        baseline = tensors.get("baseline")
        if baseline is None and _is_baseline_file(spec, settings):
            source = find_images([settings["baseline"]])[0]
            baseline = read_model_input(source.read(), source.name, preprocessing).pixels[None]
        return cls(spec, settings, references, choose_score(spec, score, output), label or spec.name, baseline, inner)

    @property
    def rows_per_image(self) -> int:
        """Maximum number of forward passes per image."""
        counts = {} if self.references is None else {"references": len(self.references)}
        return self.spec.cost(**self.settings, **counts)[0]

    @property
    def slopes(self) -> bool:
        """Whether the attributions are slopes (see ``MethodSpec``)."""
        return self.spec.slopes

    @property
    def origin(self) -> dict[str, Any]:
        """The entries of ``run.json`` that do not determine numbers."""
        return {"deviations": self.spec.deviations}

    def describe(self) -> dict[str, Any]:
        """Return the record of the method: name, parameters, score and version."""
        return {
            "method": self.spec.name,
            "params": {
                name: value
                for name, value in self.spec.describe_settings(self.settings).items()
                if (name, value) not in ADDED_PARAMETERS.items()
            },
            "score": self.score,
            "method_version": self.spec.version,
        } | ({} if self.inner is None else {"inner": replace(self.inner, score=self.score).describe()})

    def hash_references(self) -> dict[str, str]:
        """Return the SHA-256 of the files of the reference images under ``references``, or {} if a directory names none."""
        return self._reference_hashes

    @cached_property
    def _reference_hashes(self) -> dict[str, str]:
        if self.inner is not None:
            return self.inner.hash_references()
        if _is_baseline_file(self.spec, self.settings):
            return {"references": sha256(find_images([self.settings["baseline"]])[0].read())}
        if self.references is None or self.settings["baselines"] == "tensor":
            return {}
        digest = hashlib.sha256()
        for source in _find_references(self.settings["baselines"]):
            digest.update(sha256(source.read()).encode())
        return {"references": digest.hexdigest()}

    def images_per_call(self, classifier: Classifier, batch_size: int | None, images: Tensor | None = None) -> int:
        """Return the number of images to process together, whose samples fill a forward pass.

        images: images whose size is used, or None for the input size of the classifier.
        """
        if images is None:
            images = torch.empty(1, classifier.input_channels, *classifier.size, device=classifier.device)
        rows = rows_per_call(classifier, images, batch_size)
        return max(rows // max(self.spec.parallel(**self.settings), 1), 1)

    def attribute(
        self,
        classifier: Classifier,
        images: Tensor,
        targets: Tensor,
        compute: ComputeOptions,
        *,
        contrasts: Tensor | None = None,
        on_rows: Callable[[int], None] | None = None,
        drawn_for: Tensor | None = None,
        flag_maps: bool = True,
    ) -> Attribution:
        """Run the method on images (B, C, H, W) and target classes (B,) in batches that fill a forward pass.

        contrasts: (B, A) contrast classes, or None. on_rows: called with the number of rows after each model call.
        drawn_for: images that seed the random numbers, or None to use ``images``. They are read on the CPU, so pass them there if possible.
        flag_maps: flag maps that are zero everywhere, with the reason if it is known, and maps with a large completeness gap.
        Raises the errors of the method, UsageError if the classifier does not offer what the method needs, and DeviceError if a
        single sample does not fit in memory.
        """
        check_access(classifier, self.spec.access, self.spec.name)
        synchronize(classifier.device)
        started = time.perf_counter()
        size = self.images_per_call(classifier, compute.batch_size, images)
        cost, parts = Cost(), []
        for index in torch.arange(len(images)).chunk(-(-len(images) // size)):
            oracle = self._oracle(classifier, compute, index, contrasts, on_rows)
            content = images if drawn_for is None else drawn_for
            supplies = self._supplies(images[index], content[index], contrasts, index, compute.seed)
            if self.inner is not None:
                supplies["run"] = InnerMethod(
                    replace(self.inner, score=self.score),
                    classifier,
                    oracle,
                    images[index],
                    content[index],
                    targets[index],
                    None if contrasts is None else contrasts[index],
                    compute,
                    on_rows,
                )
            result: Attribution = self.spec.function(
                oracle, images[index], targets[index], **self._arguments(images, index), **supplies
            )
            spent = {"forwards": oracle.image_rows[:, 0], "backwards": oracle.image_rows[:, 1]}
            values = result.values.detach().contiguous()
            parts.append(replace(result, values=values, details=result.details | spent))
            cost = cost + oracle.cost
        result = _concatenate(parts)
        check_directions(classifier, result.values, result.expected)
        flags = dict(result.flags)
        if classifier.checks.is_random:
            flags[RANDOM_FLAG] = torch.ones(len(images), dtype=torch.bool, device=images.device)
        attribution = replace(result, target=targets, cost=cost, flags=flags)
        if flag_maps:
            attribution = self._flag_zero_maps(attribution, classifier, images, compute, contrasts)
            attribution = flag_completeness_gaps(attribution)
        synchronize(classifier.device)
        cost = replace(attribution.cost, seconds=time.perf_counter() - started)
        return replace(attribution, cost=cost)

    def _flag_zero_maps(
        self,
        attribution: Attribution,
        classifier: Classifier,
        images: Tensor,
        compute: ComputeOptions,
        contrasts: Tensor | None,
    ) -> Attribution:
        """Flag the maps that are zero everywhere."""
        assert attribution.target is not None

        def make_oracle(score: ScoreKind, index: Tensor) -> Oracle:
            oracle = self._oracle(classifier, compute, index, contrasts if score == self.score else None, None)
            oracle.score = score
            return oracle

        uses_gradients = self.spec.access == "gradients"
        return flag_zero_maps(
            attribution, images, attribution.target, self.score, make_oracle, uses_gradients=uses_gradients
        )

    def _oracle(
        self,
        classifier: Classifier,
        compute: ComputeOptions,
        index: Tensor,
        contrasts: Tensor | None,
        on_rows: Callable[[int], None] | None,
    ) -> Oracle:
        """Create the oracle for a batch of images. Methods with the argument ``against`` interpret the contrast classes themselves."""
        scored = None if contrasts is None or "against" in self.spec.needs else contrasts[index]
        return Oracle(
            classifier,
            score=self.score,
            against=scored,
            images=len(index),
            batch_size=compute.batch_size,
            precision=compute.precision,
            fold=not self.spec.plain,
            on_rows=on_rows,
        )

    def _supplies(
        self, images: Tensor, content: Tensor, contrasts: Tensor | None, index: Tensor, seed: int
    ) -> dict[str, Any]:
        """Return the extra keyword arguments that the method requires. content: images that seed the random numbers."""
        supplies: dict[str, Any] = {}
        if "against" in self.spec.needs:
            supplies["against"] = None if contrasts is None else contrasts[index]
        if "references" in self.spec.needs:
            supplies["references"] = None if self.references is None else self.references.to(images)
        if "rng" in self.spec.needs:
            supplies["rng"] = Streams.of(content, seed, self.spec.draws or self.spec.name, images.device)
        return supplies

    def _arguments(self, images: Tensor, index: Tensor) -> dict[str, Any]:
        """Return the parameters as the method receives them for the images at ``index``: with baseline images as a tensor.

        Raises InputError if the baseline images do not match the images (B, C, H, W).
        """
        if self.baseline is None:
            return self.settings
        check_baseline(self.baseline, images)
        return {**self.settings, "baseline": self.baseline if len(self.baseline) == 1 else self.baseline[index]}

    def explainer(
        self, classifier: Classifier, content: Tensor, compute: ComputeOptions, oracle: Oracle | None = None
    ) -> Explain:
        """Return a function with which metrics can rerun the method, using the random numbers of ``content`` (B, C, H, W).

        oracle: oracle to whose cost the reruns are added.
        """
        default = classifier

        def explain(
            images: Tensor, y: Tensor, classifier: Classifier | None = None, image: Tensor | None = None
        ) -> Tensor:
            drawn_for = content if image is None else content[image.to(content.device)]
            result = self.attribute(classifier or default, images, y, compute, drawn_for=drawn_for, flag_maps=False)
            if oracle is not None:
                oracle.cost = oracle.cost + result.cost
            return result.values

        return explain


def _resolve_tensors(spec: MethodSpec, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the values of all parameters, where ``tensor`` replaces images, and the images by parameter. Raises UsageError."""
    others = dict(params)
    accepts_images = {name for name, parameter in spec.parameters.items() if parameter.file or name == "baselines"}
    tensors = {name: others.pop(name) for name in accepts_images if isinstance(others.get(name), Tensor)}
    return spec.resolve(others) | dict.fromkeys(tensors, "tensor"), tensors


def _is_baseline_file(spec: MethodSpec, settings: Mapping[str, Any]) -> bool:
    """Return whether the parameter ``baseline`` is the path of an image file."""
    parameter = spec.parameters.get("baseline")
    if parameter is None or parameter.file is None:
        return False
    return settings["baseline"] not in (*parameter.choices, "tensor")


def _find_own_score(spec: MethodSpec, params: Mapping[str, Any]) -> ScoreKind | None:
    """Return the score that the parameters of a method choose, or those of the method that it runs, or None. Raises UsageError."""
    own, others = split_score(spec, params)
    if own is None and "run" in spec.needs:
        text = spec.resolve(others)["method"]
        return split_score(*parse_inner_method(text))[0]
    return own


def _specialize(spec: MethodSpec, inner: MethodSpec) -> MethodSpec:
    """Return the spec of a method that runs another one, with what it takes over from it."""
    return replace(spec, score=inner.score, access=inner.access, slopes=inner.slopes, plain=inner.plain)


def split_score(spec: Spec, params: Mapping[str, Any]) -> tuple[ScoreKind | None, dict[str, Any]]:
    """Return the score that the parameters of a method choose, or None, and the other parameters. Raises UsageError if it is unknown."""
    others = dict(params)
    if "score" in spec.parameters or "score" not in others:
        return None, others
    score = others.pop("score")
    check_choice("score", score, get_args(ScoreKind))
    return score, others


def choose_score(spec: MethodSpec, score: ScoreKind | None, output: OutputKind) -> ScoreKind:
    """Return the requested score, or the default of the method. Raises UsageError if the model's output does not have it."""
    if score is not None:
        check_score(score, output)
        return score
    available = available_score(spec.score, output)
    if available != spec.score:
        emit_note("the model returns values without probabilities; explaining the value of the target")
    return available


def _read_references(directory: str | None, preprocessing: Preprocessing) -> Tensor | None:
    """Load up to MAX_REFERENCES evenly spaced images (N, C, H, W) from a directory. Return None for None and ``noise``.

    Raises InputError if the directory does not exist or an image cannot be read.
    """
    if directory is None or directory == "noise":
        return None
    if not os.path.isdir(directory):  # noqa: PTH112  (never raises)
        raise InputError(f"baseline directory {directory!r} not found", 'pass a directory of images, or "noise"')
    sources = _find_references(directory)
    return torch.stack([read_model_input(source.read(), source.name, preprocessing).pixels for source in sources])


def _find_references(directory: str) -> list[ImageSource]:
    sources = find_images([directory])
    return sources[:: -(-len(sources) // MAX_REFERENCES)]


def _concatenate(parts: list[Attribution]) -> Attribution:
    """Concatenate the results of several batches."""
    first = parts[0]
    return replace(
        first,
        values=torch.cat([part.values for part in parts]),
        expected=None if first.expected is None else torch.cat([p.expected for p in parts if p.expected is not None]),
        details={name: torch.cat([part.details[name] for part in parts]) for name in first.details},
        flags={name: torch.cat([part.flags[name] for part in parts]) for name in first.flags},
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
