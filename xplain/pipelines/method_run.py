"""A method with validated parameters, and its run on a batch of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xplain.core.options import ComputeOptions
from xplain.core.parameters import EXISTING_PATH
from xplain.core.registry import MethodSpec
from xplain.core.rng import Streams
from xplain.core.run_store import fingerprint
from xplain.core.scores import ContrastScore
from xplain.core.types import Attribution, Cost, ScoreKind
from xplain.data.baselines import check_baseline
from xplain.data.preprocessing import Preprocessing
from xplain.methods.smooth import parse_inner_method
from xplain.metrics.inputs import Explain
from xplain.models import Classifier
from xplain.models.checks import RANDOM_FLAG
from xplain.models.devices import synchronize
from xplain.models.outputs import OutputKind
from xplain.models.scalar_outputs import check_directions
from xplain.oracle import Oracle
from xplain.oracle.access import check_access
from xplain.oracle.batching import rows_per_call
from xplain.oracle.engine_choice import PlannedRows
from xplain.oracle.runtime import predict_and_share
from xplain.oracle.shared_forward import SharedForward
from xplain.pipelines.completeness_flags import flag_completeness_gaps
from xplain.pipelines.contrasts import CONTRASTS, NearestContrasts
from xplain.pipelines.inner_method import InnerMethod
from xplain.pipelines.method_scores import choose_score, find_own_score, split_score
from xplain.pipelines.reference_images import (
    average_over_baselines,
    hash_files,
    hash_images,
    read_baselines,
    read_references,
    resolve_tensors,
)
from xplain.pipelines.reruns import make_explainer
from xplain.pipelines.zero_maps import flag_zero_maps

# Parameters that older versions do not have, and their defaults, which are not recorded: runs that they began are continued.
# A parameter that only some methods got is named by ``added`` of their specs instead.
ADDED_PARAMETERS = {"layout": "auto", "bias": "keep", "scale_layers": False}
SEQUENCE = "sequence"  # parameter of methods that work through a sequence of inputs, which adds it to the details


@dataclass(frozen=True, eq=False)
class MethodRun:
    """A method with validated parameters.

    settings: values of all parameters.
    references: images (N, C, H, W) from the directory ``baselines``, or None.
    score: explained model output.
    label: display name in tables and file names.
    baselines: images (B or 1, C, H, W) of parameters that are tensors, such as ``baseline``.
    keeps_sequence: pass ``sequence=true`` to the method, which adds its inputs and maps to the details and changes no value.
    averaged_baselines: images (N, C, H, W) of parameters that are files or folders, over which the attributions are averaged.
    inner: the method that this one runs, or None.
    """

    spec: MethodSpec
    settings: dict[str, Any]
    references: Tensor | None
    score: ScoreKind
    label: str
    baselines: Mapping[str, Tensor] = field(default_factory=dict)
    inner: MethodRun | None = None
    averaged_baselines: Mapping[str, Tensor] = field(default_factory=dict)
    keeps_sequence: bool = False

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
        score = find_own_score(spec, params) or score
        params = split_score(spec, params)[1]
        settings, tensors = resolve_tensors(spec, params)
        inner = None
        if "run" in spec.needs:
            inner_spec, inner_params = parse_inner_method(settings["method"])
            inner = cls.resolve(inner_spec, inner_params, preprocessing, score=score, output=output)
            spec = _specialize(spec, inner.spec)
        references = tensors.get("baselines")
        if references is None and settings.get("baselines", "noise") not in (None, "noise"):
            references = read_references(settings["baselines"], preprocessing)
        averaged = read_baselines(spec, settings, preprocessing)
        score = choose_score(spec, score, output)
        tensors.pop("baselines", None)
        return cls(spec, settings, references, score, label or spec.name, tensors, inner, averaged)

    @property
    def rows_per_image(self) -> int:
        """Maximum number of forward passes per image."""
        return sum(self.planned_rows)

    @property
    def planned_rows(self) -> PlannedRows:
        """Maximum numbers of rows per image: forward passes alone, and gradients."""
        counts = {} if self.references is None else {"references": len(self.references)}
        runs = max(map(len, self.averaged_baselines.values()), default=1)
        forwards, backwards = self.spec.cost(**self.settings, **counts)
        gradients = min(forwards, backwards)
        return PlannedRows(forwards - gradients, gradients).times(runs)

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
        """Return the SHA-256 of the files of the reference images, or of other files of parameters, under ``references``; {} without."""
        return self._reference_hashes

    @cached_property
    def _reference_hashes(self) -> dict[str, str]:
        if self.inner is not None:
            return self.inner.hash_references()
        if self.averaged_baselines:
            digests = [hash_images(self.settings[name]) for name in self.averaged_baselines]
            return {"references": digests[0] if len(digests) == 1 else fingerprint(digests)}
        files = [self.settings[name] for name, entry in self.spec.parameters.items() if entry.bounds == EXISTING_PATH]
        if any(files):
            return {"references": hash_files(file for file in files if file)}
        if self.references is None or self.settings["baselines"] == "tensor":
            return {}
        return {"references": hash_images(self.settings["baselines"])}

    def images_per_call(self, classifier: Classifier, batch_size: int | None, images: Tensor | None = None) -> int:
        """Return the number of images to process together, whose samples fill a forward pass.

        images: images whose size is used, or None for the input size of the classifier.
        """
        if images is None:
            images = torch.empty(1, classifier.input_channels, *classifier.size, device=classifier.device)
        rows = rows_per_call(classifier, images, batch_size)
        per_image = max(self.spec.parallel(**self.settings), 1)
        if self.keeps_sequence:  # each image needs the memory of all its inputs
            per_image = max(per_image, self.rows_per_image)
        return max(rows // per_image, 1)

    def predict(
        self, classifier: Classifier, images: Tensor, compute: ComputeOptions
    ) -> tuple[Tensor, Cost, SharedForward | None]:
        """Return the logits (B, classes) of images, their cost, and the forward pass if the method can share it."""
        names = ("layer", "layout") if self.spec.starts_with == "layers" else ()
        layers = {name: self.settings[name] for name in names}
        return predict_and_share(classifier, images, compute, self.spec.starts_with, **layers)

    def attribute(
        self,
        classifier: Classifier,
        images: Tensor,
        targets: Tensor,
        compute: ComputeOptions,
        *,
        contrasts: Tensor | None = None,
        logits: Tensor | None = None,
        on_rows: Callable[[int], None] | None = None,
        drawn_for: Tensor | None = None,
        flag_maps: bool = True,
        shared: SharedForward | None = None,
    ) -> Attribution:
        """Run the method on images (B, C, H, W) and target classes (B,) in batches that fill a forward pass.

        contrasts: (B, A) contrast classes, or None. on_rows: called with the number of rows after each model call.
        logits: (B, classes) of the images, which choose the contrast classes of the score ``contrast``; None to compute them.
        drawn_for: images that seed the random numbers, or None to use ``images``. They are read on the CPU, so pass them there if possible.
        shared: the forward pass of the prediction of these images, or None.
        flag_maps: flag maps that are zero everywhere, with the reason if it is known, and maps with a large completeness gap.
        Raises the errors of the method, UsageError if the classifier does not offer what the method needs, and DeviceError if a
        single sample does not fit in memory.
        """
        check_access(classifier, self.spec.access, self.spec.name)
        synchronize(classifier.device)
        started = time.perf_counter()
        size = self.images_per_call(classifier, compute.batch_size, images)
        cost, parts = Cost(), []
        has_draws = self.inner is not None
        if contrasts is None:
            contrasts, cost = NearestContrasts(self.score, classifier, images, compute, logits).find(targets)
        for index in torch.arange(len(images)).chunk(-(-len(images) // size)):
            oracle = self._oracle(classifier, compute, index, contrasts, on_rows, shared)
            x = images if len(index) == len(images) else images[index]
            content = images if drawn_for is None else drawn_for
            supplies = self._supplies(x, content[index], contrasts, index, compute.seed)
            if self.inner is not None:
                supplies["run"] = InnerMethod(
                    replace(self.inner, score=self.score),
                    classifier,
                    oracle,
                    x,
                    content[index],
                    targets[index],
                    None if contrasts is None else contrasts[index],
                    compute,
                    on_rows,
                )
            result = self._call(oracle, images, x, targets, index, supplies)
            has_draws = has_draws or ("rng" in supplies and supplies["rng"].log.used)
            spent = {"forwards": oracle.image_rows[:, 0], "backwards": oracle.image_rows[:, 1]}
            values = result.values.detach().contiguous()
            parts.append(replace(result, values=values, details=result.details | spent))
            cost = cost + oracle.cost
        if shared is not None:
            shared.release()
        result = _concatenate(parts)
        check_directions(classifier, result.values, result.expected)
        flags = dict(result.flags)
        if classifier.checks.is_random:
            flags[RANDOM_FLAG] = torch.ones(len(images), dtype=torch.bool, device=images.device)
        details = dict(result.details)
        if contrasts is not None and ContrastScore.parse(self.score) is not None:
            details[CONTRASTS] = contrasts
        attribution = replace(result, target=targets, cost=cost, flags=flags, details=details, has_draws=has_draws)
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
        shared: SharedForward | None = None,
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
            shared=shared,
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

    def _call(
        self, oracle: Oracle, images: Tensor, x: Tensor, targets: Tensor, index: Tensor, supplies: Mapping[str, Any]
    ) -> Attribution:
        """Call the method on the images x (B, C, H, W), which are those at ``index``, with baseline images as a tensor.

        Raises InputError if the baseline images do not match the images.
        """
        for baseline in (*self.baselines.values(), *(read[:1] for read in self.averaged_baselines.values())):
            check_baseline(baseline, images)
        given = {name: read if len(read) == 1 else read[index] for name, read in self.baselines.items()}

        def run(averaged: Mapping[str, Tensor]) -> Attribution:
            settings = {**self.settings, **given, **averaged}
            if self.keeps_sequence:
                settings[SEQUENCE] = True
            result: Attribution = self.spec.function(oracle, x, targets[index], **settings, **supplies)
            return result

        if self.averaged_baselines:
            return average_over_baselines(run, self.averaged_baselines)
        return run({})

    def explainer(
        self,
        classifier: Classifier,
        content: Tensor,
        compute: ComputeOptions,
        oracle: Oracle | None = None,
        *,
        contrasts: Tensor | None = None,
        on_rows: Callable[[int], None] | None = None,
    ) -> Explain:
        """Return a function with which metrics can rerun the method, using the random numbers of ``content`` (B, C, H, W).

        oracle: oracle to whose cost the reruns are added.
        contrasts: (B, A) contrast classes of ``content``; None: those of the score.
        on_rows: called with the number of rows after each model call.
        """
        return make_explainer(self, classifier, content, compute, oracle, contrasts=contrasts, on_rows=on_rows)


def _specialize(spec: MethodSpec, inner: MethodSpec) -> MethodSpec:
    """Return the spec of a method that runs another one, with what it takes over from it."""
    return replace(spec, score=inner.score, access=inner.access, slopes=inner.slopes, plain=inner.plain)


def _concatenate(parts: list[Attribution]) -> Attribution:
    """Concatenate the results of several batches."""
    first = parts[0]
    return replace(
        first,
        values=torch.cat([part.values for part in parts]),
        expected=None if first.expected is None else torch.cat([p.expected for p in parts if p.expected is not None]),
        parts=None if first.parts is None else torch.cat([part.parts for part in parts if part.parts is not None]),
        details={name: torch.cat([part.details[name] for part in parts]) for name in first.details},
        flags={name: torch.cat([part.flags[name] for part in parts]) for name in first.flags},
    )
