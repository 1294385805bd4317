"""What there is to choose from, as rows for tables and machines. Everything is read from the registrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.core.config import EMBEDDED, ModelOptions
from xplain.core.errors import InputError, UsageError, XplainError, did_you_mean
from xplain.core.papers import Paper
from xplain.core.protocols import PROTOCOLS
from xplain.core.registry import METHODS, METRICS, MethodSpec, Spec
from xplain.core.types import Attribution
from xplain.data.class_names import load_imagenet_classes, read_class_names
from xplain.models import Classifier
from xplain.models.efficientnet_lite0 import EMBEDDED
from xplain.models.inspection import SHAPE_ERRORS
from xplain.oracle.runtime import load_model
from xplain.pipelines.attribution import attribute

SIDE = 224  # of the images for which forwards are stated
# The least work that still runs a method whole; what a name does not say is left at its default.
LEAST = {
    "steps": 2,
    "samples": 2,
    "masks": 2,
    "classes": 1,
    "attack_steps": 1,
    "copies": 1,
    "rounds": 1,
    "channels": 2,
    "ascent": 1,
    "descent": 1,
}
SMALL_SIDE = 64  # pixels: most models take such images, and their last maps still have height and width
COLUMNS = {
    "fits": ("name", "fits", "why"),
    "methods": ("name", "alias", "parameters", "passes", "axioms", "paper"),
    "metrics": ("name", "better", "parameters", "unit", "forwards"),
    "models": ("name", "source", "weights"),
    "protocols": ("name", "metrics", "source", "unknown"),
    "classes": ("index", "wnid", "name"),
}


def list_methods() -> list[dict[str, Any]]:
    """Methods: name, alias, summary, passes an image, parameters with defaults, score, axioms claimed, paper, deviations."""
    return [
        {
            "name": spec.name,
            "alias": spec.alias,
            "summary": spec.summary,
            "passes": passes(spec),
            "parameters": parameters(spec),
            "score": spec.score,
            "axioms": sorted(spec.axioms),
            "paper": spec.paper.citation if spec.paper else "",
            "url": spec.paper.url if spec.paper else "",
            "deviations": spec.deviations,
            "version": spec.version,
        }
        for spec in METHODS
    ]


def list_fits(options: ModelOptions) -> list[dict[str, Any]]:
    """Methods with whether they fit a model, and why not: each is run on one image at its least settings."""
    rows = []
    for name, found in try_methods(load_model(options)):
        why = str(found) if isinstance(found, XplainError) else ""
        rows.append({"name": name, "fits": "no" if why else "yes", "why": why})
    return rows


def try_methods(classifier: Classifier) -> Iterator[tuple[str, Attribution | XplainError]]:
    """Each method's attribution of a grey ramp at its least settings, or why it refuses the model.

    The image is small where the model takes such images; what is refused there is tried again at the model's own size.
    """
    sizes = list(dict.fromkeys((small_size(classifier), classifier.size)))
    for spec in METHODS:
        for size in sizes:
            found = _try_method(classifier, spec, _grey_ramp(classifier, size))
            if isinstance(found, Attribution):
                break
        yield spec.name, found


def small_size(classifier: Classifier) -> tuple[int, int]:
    """Height and width in the model's own proportion, the shorter side SMALL_SIDE; its own size where it refuses that or is smaller."""
    height, width = classifier.size
    if (shorter := min(height, width)) <= SMALL_SIDE:
        return classifier.size
    size = (round(height * SMALL_SIDE / shorter), round(width * SMALL_SIDE / shorter))
    try:
        with torch.no_grad():
            classifier(_grey_ramp(classifier, size))
    except (*SHAPE_ERRORS, InputError):
        return classifier.size
    return size


def _grey_ramp(classifier: Classifier, size: tuple[int, int]) -> Tensor:
    """One image, darker on its left: (1, 3, *size) from 0.3 to 0.7."""
    ramp = torch.linspace(0.3, 0.7, size[1], device=classifier.device, dtype=classifier.dtype)
    return ramp.expand(1, 3, *size).contiguous()


def _try_method(classifier: Classifier, spec: MethodSpec, image: Tensor) -> Attribution | XplainError:
    height, width = image.shape[2:]
    try:
        return attribute(classifier, image, spec.name, **least_settings(spec, (height, width)))
    except XplainError as error:
        return error


def least_settings(spec: Spec, size: tuple[int, int]) -> dict[str, Any]:
    """Parameters that make a run on an image of ``size`` (height, width) as short as it can be."""
    settings: dict[str, Any] = {
        name: LEAST[name] for name, each in spec.parameters.items() if name in LEAST and each.kind is int
    }
    if "stride" in spec.parameters:  # one window over the whole image
        settings |= {"window": max(size), "stride": max(size)}
    if "block" in spec.parameters:  # all values in one round
        settings |= {"block": 3 * size[0] * size[1]}
    return settings


def passes(spec: MethodSpec) -> str:
    """Forward and backward rows an image at the defaults."""
    forwards, backwards = spec.cost(**spec.resolve({}))
    most = "≤ " if spec.at_most else ""
    return f"{most}{forwards} F" + (f", {most}{backwards} B" if backwards else "")


def parameters(spec: Spec) -> list[str]:
    """``name=default`` of each parameter, with the choices where there are some."""
    return [
        f"{each.name}={'|'.join([_written(each.default), *(one for one in each.choices if one != each.default)])}"
        for each in spec.parameters.values()
    ]


def _written(value: Any) -> str:
    """A parameter's value as it is given on the command line."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def list_metrics() -> list[dict[str, Any]]:
    """Metrics: name, direction, bounds, unit, parameters with defaults, forwards an image, what is undefined, version, paper."""
    return [
        {
            "name": spec.name,
            "alias": spec.alias,
            "summary": spec.summary,
            "better": spec.better,
            "bounds": list(spec.bounds),
            "unit": spec.unit,
            "parameters": parameters(spec),
            "forwards": spec.forwards(side=SIDE, **spec.resolve({})),
            "attributions": spec.attributions(**spec.resolve({})),
            "undefined": spec.undefined,
            "version": spec.version,
            "paper": spec.paper.citation if spec.paper else "",
        }
        for spec in METRICS
    ]


def list_papers(names: Sequence[str]) -> list[Paper]:
    """The papers of methods and metrics by name or alias, each once. Raises UsageError for what is neither, or has none."""
    known = {name: spec for spec in (*METHODS, *METRICS) for name in (spec.name, spec.alias) if name}
    found: dict[str, Paper] = {}
    for name in names:
        if name not in known:
            raise UsageError(f"unknown method or metric {name!r}", did_you_mean(name, known))
        paper = known[name].paper
        if paper is None:
            raise UsageError(f"{name!r} is a control; no paper defines it", "leave it out")
        found.setdefault(paper.title, paper)
    return list(found.values())


def list_protocols() -> list[dict[str, Any]]:
    """Protocols: name, the metrics with their parameters, source, and what the source leaves open."""
    return [
        {"name": each.name, "metrics": list(each.metrics), "source": each.source, "unknown": each.unknown}
        for each in PROTOCOLS.values()
    ]


def list_models() -> list[dict[str, Any]]:
    """Models by name: the embedded one, torchvision's, timm's where it is installed."""
    from importlib.util import find_spec

    from xplain.models.torchvision_models import torchvision_names

    rows = [{"name": EMBEDDED, "source": "embedded", "weights": "ImageNet-1k"}]
    rows += [{"name": name, "source": "torchvision", "weights": "downloaded once"} for name in torchvision_names()]
    if find_spec("timm"):
        import timm

        pretrained = set(timm.list_models(pretrained=True))
        rows += [
            {"name": f"timm:{name}", "source": "timm", "weights": "downloaded once" if name in pretrained else "none"}
            for name in timm.list_models()
        ]
    return rows


def list_classes(options: ModelOptions) -> list[dict[str, Any]]:
    """Classes: index, wnid, name. The embedded model's need no weights."""
    if options.classes is not None:
        wnids, names = read_class_names(options.classes)
    elif options.name == EMBEDDED:
        wnids, names = load_imagenet_classes()
    else:
        classifier = load_model(replace(options, device="cpu"))
        wnids, names = tuple(classifier.wnids), tuple(classifier.labels)
    return [{"index": i, "wnid": wnids[i] if wnids else None, "name": name} for i, name in enumerate(names)]
