"""The JSON records of runs and explanations."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from PIL import features

import xplain
from xplain.core.option_words import in_words_of_caller
from xplain.core.options import ComputeOptions
from xplain.core.types import PYTORCH, Attribution
from xplain.models import Classifier
from xplain.models.arithmetic import nondeterministic_operations
from xplain.oracle.engine_choice import describe_engine
from xplain.oracle.engines import Engine
from xplain.pipelines.batches import TargetedBatch
from xplain.pipelines.contrasts import CONTRASTS
from xplain.pipelines.method_run import MethodRun
from xplain.pipelines.predictions import Prediction
from xplain.reports.band_pictures import band_shares

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "onnxruntime", "numpy", "pillow")
TOLERANCE_REACHED = "tolerance_reached"
AUTO_DETAILS = ("steps", "samples", TOLERANCE_REACHED)  # what steps=auto and samples=auto took
MODULES = {"open_clip_torch": "open_clip"}  # names of modules where they differ from those of their packages


def describe_run(compute: ComputeOptions, classifier: Classifier, engine: Engine | None = None) -> dict[str, Any]:
    """Return the record entries common to all explanations of a run: model, preprocessing, seed, precision, device, engine and versions."""
    model: dict[str, Any] = {"name": classifier.name, "weights": asdict(classifier.weights)}
    if classifier.texts:
        model["texts"] = [list(texts) for texts in classifier.texts]
    if classifier.notes:
        model["notes"] = [in_words_of_caller(note) for note in classifier.notes]
    if findings := classifier.checks.describe():
        model["checks"] = findings
    if classifier.references:
        model["references"] = classifier.references
    normalization = {"mean": classifier.mean.flatten().tolist(), "std": classifier.std.flatten().tolist()}
    return {
        "model": model,
        "output": classifier.output.describe(),
        "preprocessing": classifier.preprocessing.describe() | normalization,
        "seed": compute.seed,
        "precision": compute.precision,
        "device": str(classifier.device),
        **describe_computation(engine),
    }


def describe_computation(engine: Engine | None) -> dict[str, Any]:
    """Return the record entries of what computes the model, and the versions of the libraries."""
    versions = library_versions()
    if engine is not None:
        versions["openvino"] = version("openvino")
    return {"engine": describe_engine(engine), "versions": versions}


def fingerprinted(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``describe_run`` that change numbers, for a fingerprint.

    The meaning of the outputs is left out for a softmax over all outputs, as in earlier versions, and so is what decided it. The
    type of the device is left out for the CPU, and the engine for PyTorch, as in earlier versions.
    """
    entries = {key: value for key, value in facts.items() if key not in ("device", "output", "engine")}
    entries |= device_entry(facts) | engine_entry(facts)
    output = {key: value for key, value in facts.get("output", {}).items() if key != "source"}
    is_plain = output.get("activation", "softmax") == "softmax" and not output.get("peeled") and not output.get("name")
    return entries if is_plain else entries | {"output": output}


def device_entry(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of the device of ``describe_run`` for a fingerprint, or {} for the CPU: numbers differ between types."""
    kind = facts["device"].partition(":")[0]
    return {} if kind == "cpu" else {"device": kind}


def engine_entry(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the engine of ``describe_run`` for a fingerprint, or {} for PyTorch: numbers differ by rounding."""
    engine = facts.get("engine", PYTORCH)
    return {} if engine == PYTORCH else {"engine": engine}


def library_versions() -> dict[str, str]:
    """Return the versions of xplain, Python and the libraries that are in use."""
    versions = {"xplain": xplain.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        if MODULES.get(name, name) in sys.modules or name == "pillow":
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                continue
    if webp := features.version("webp"):  # aic and sic estimate information from WebP file sizes
        versions["libwebp"] = webp
    return versions


def is_current(record: Mapping[str, Any], classifier: Classifier, method: MethodRun | None = None) -> bool:
    """Return whether the class names and the baseline images of a stored record are those of today, as far as it has them."""
    described = [record.get("target"), *(record.get("against") or ()), *(record.get("prediction") or ())]
    if not all(_has_same_names(entry, classifier) for entry in described):
        return False
    references = method.hash_references() if method is not None else {}
    return record.get("references") in (None, references.get("references"))


def _has_same_names(entry: Any, classifier: Classifier) -> bool:
    """Return whether a class has the stored name and wnid; unknown ones agree with any."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("index"), int):
        return True
    names = classifier.class_names.describe(entry["index"])
    pairs = [(entry.get(key), names[key]) for key in ("wnid", "name")]
    return all(old == new or old is None or new is None for old, new in pairs)


def describe_explanation(
    classifier: Classifier, method: MethodRun, batch: TargetedBatch, result: Attribution, i: int
) -> dict[str, Any]:
    """Return the record entries of image ``i`` of a batch with the attributions ``result``, whose details are on the CPU."""
    prediction = Prediction(classifier, batch.cpu_logits[i])
    loaded = batch.loaded[i]
    booked = ("forwards", "backwards", CONTRASTS, *_taken_by_auto(result))  # listed under "cost" and "against"
    contrasts = result.details[CONTRASTS][i].tolist() if CONTRASTS in result.details else batch.contrasts_of(i)
    details = {
        name: _finite_or_none(value[i].tolist())
        for name, value in result.details.items()
        if name not in booked and value.ndim < 4
    }  # without images
    return {
        "input": loaded.source.name,
        "sha256": loaded.digest,
        **method.describe(),
        "target": prediction.describe_class(batch.classes[i]),
        "against": [prediction.describe_class(index) for index in contrasts],
        "prediction": prediction.describe_top(),
        **prediction.describe_decisions(),
        "cost": describe_cost(result, i),
        "completeness": _describe_completeness(result, i),
        "details": details | result.facts,
        "rounding": method.spec.rounding or None,
        "warnings": list_flags(result, i),
        **({"nondeterministic": operations} if (operations := nondeterministic_operations()) else {}),
        **({} if result.stability is None else {"stability": result.stability.describe(i)}),
        **method.hash_references(),
        **_describe_bands(classifier, batch, result, i),
    }


def _describe_bands(classifier: Classifier, batch: TargetedBatch, result: Attribution, i: int) -> dict[str, Any]:
    """Return how the bands of an image are stored, and their shares of the attribution if they are not those of a photograph."""
    stored = batch.loaded[i].stored
    entries: dict[str, Any] = {} if stored is None else {"pixels": stored}
    if classifier.input_channels != 3 and result.values.shape[1] > 1:
        entries["band_shares"] = band_shares(result.values[i].float().cpu().numpy())
    return entries


def _describe_completeness(result: Attribution, i: int) -> dict[str, float] | None:
    """Return the expected sum, the actual sum and the gap of one image, or None if the method does not satisfy completeness."""
    if result.expected is None or result.gap is None:
        return None
    return {"expected": float(result.expected[i]), "sum": float(result.total[i]), "gap": float(result.gap[i])}


def describe_cost(result: Attribution, i: int) -> dict[str, float]:
    """Return the forward passes, backward passes and time of one image. The time is the average over the batch.

    Also the steps or samples that ``steps=auto`` or ``samples=auto`` took, and whether they reached the tolerance.
    """
    rows = {name: round(float(result.details[name][i])) for name in ("forwards", "backwards")}
    taken = {name: result.details[name][i].item() for name in _taken_by_auto(result)}
    return rows | {"seconds": round(result.cost.seconds / len(result.values), 4)} | taken


def _taken_by_auto(result: Attribution) -> list[str]:
    """Return the names of the details that tell what ``steps=auto`` or ``samples=auto`` took; [] for a fixed number."""
    if TOLERANCE_REACHED not in result.details:
        return []
    return [name for name in AUTO_DETAILS if name in result.details]


def _finite_or_none(value: Any) -> Any:
    """Return None for an infinite error, which JSON cannot hold, and other values unchanged."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def list_flags(result: Attribution, i: int) -> list[str]:
    """Return the warnings that apply to one image."""
    return [text for text, mask in result.flags.items() if bool(mask[i])]
