"""What there is to choose from, as rows for tables and machines. Everything is read from the registrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xplain.methods
import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.models.classes import imagenet_classes, read_classes
from xplain.models.load import EMBEDDED, load_classifier
from xplain.protocols import PROTOCOLS
from xplain.registry import METHODS, METRICS, MethodSpec, Spec

COLUMNS = {
    "methods": ("name", "alias", "parameters", "passes", "paper"),
    "metrics": ("name", "better", "parameters", "unit"),
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
        }
        for spec in METHODS
    ]


def passes(spec: MethodSpec) -> str:
    """Forward and backward rows an image at the defaults."""
    forwards, backwards = spec.cost(**spec.resolve({}))
    most = "≤ " if spec.at_most else ""
    return f"{most}{forwards} F" + (f", {most}{backwards} B" if backwards else "")


def parameters(spec: Spec) -> list[str]:
    """``name=default`` of each parameter, with the choices where there are some."""
    rows = []
    for each in spec.parameters.values():
        default = (
            {True: "true", False: "false", None: "none"}.get(each.default, each.default)
            if not isinstance(each.default, (int, float, str)) or isinstance(each.default, bool)
            else each.default
        )
        others = [choice for choice in each.choices if choice != each.default]
        rows.append(f"{each.name}={'|'.join([str(default), *others])}")
    return rows


def list_metrics() -> list[dict[str, Any]]:
    """Metrics: name, direction, bounds, unit, parameters with defaults, definition version, paper."""
    return [
        {
            "name": spec.name,
            "alias": spec.alias,
            "summary": spec.summary,
            "better": spec.better,
            "bounds": list(spec.bounds),
            "unit": spec.unit,
            "parameters": parameters(spec),
            "version": spec.version,
            "paper": spec.paper.citation if spec.paper else "",
        }
        for spec in METRICS
    ]


def list_protocols() -> list[dict[str, Any]]:
    """Protocols: name, the metrics with their parameters, source, and what the source leaves open."""
    return [
        {"name": each.name, "metrics": list(each.metrics), "source": each.source, "unknown": each.unknown}
        for each in PROTOCOLS.values()
    ]


def list_models() -> list[dict[str, Any]]:
    """Models by name: the embedded one, torchvision's, timm's where it is installed."""
    from importlib.util import find_spec

    rows = [{"name": EMBEDDED, "source": "embedded", "weights": "ImageNet-1k"}]
    if find_spec("torchvision"):
        from xplain.models.from_torchvision import torchvision_names

        rows += [{"name": name, "source": "torchvision", "weights": "downloaded once"} for name in torchvision_names()]
    if find_spec("timm"):
        import timm

        pretrained = set(timm.list_models(pretrained=True))
        rows += [
            {"name": f"timm:{name}", "source": "timm", "weights": "downloaded once" if name in pretrained else "none"}
            for name in timm.list_models()
        ]
    return rows


def list_classes(
    model: str = EMBEDDED, weights: Path | None = None, classes: Path | None = None
) -> list[dict[str, Any]]:
    """Classes: index, wnid, name. The embedded model's need no weights."""
    if classes is not None:
        wnids, names = read_classes(classes)
    elif model == EMBEDDED:
        wnids, names = imagenet_classes()
    else:
        classifier = load_classifier(model, "cpu", weights)
        wnids, names = tuple(classifier.wnids), tuple(classifier.labels)
    return [{"index": i, "wnid": wnids[i] if wnids else None, "name": name} for i, name in enumerate(names)]
