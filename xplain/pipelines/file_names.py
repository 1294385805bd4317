"""The part of the file names of ``xplain explain`` that tells recipes apart."""

from __future__ import annotations

import hashlib
from dataclasses import fields

from xplain.core.config import ExplainConfig
from xplain.core.options import EMBEDDED, ComputeOptions, ModelOptions, RenderOptions
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.method_run import MethodRun

MAX_LENGTH = 80  # characters; a longer text is replaced by its digest


def file_label(label: str) -> str:
    """Return ``agi_steps=10`` for ``agi:steps=10``; slashes of paths become hyphens."""
    name, colon, params = label.replace("/", "-").replace("\\", "-").partition(":")
    return f"{name}_{_shorten(params)}" if colon else name


def join_parts(*parts: str) -> str:
    """Return the parts of a name that are not empty, joined by dots."""
    return ".".join(filter(None, parts))


def describe_contrasts(target_spec: TargetSpec) -> str:
    """Return the contrast classes, such as ``vs-281``; empty without them."""
    return "" if target_spec.against is None else _shorten(f"vs-{_join(target_spec.against)}")


def describe_settings(config: ExplainConfig, method: MethodRun) -> str:
    """Return the settings that change a picture and are not at their defaults, such as ``score=prob.sign=signed``.

    Without the target, the contrast classes and the parameters of the method.
    """
    parts = _describe_model(config.model)
    if method.score != method.spec.score:
        parts.append(f"score={method.score}".replace(":", "-"))
    for name in ("layer", "layout"):
        value = getattr(config, name)
        if value and method.settings.get(name) == value:
            parts.append(f"{name}={value}".replace("/", "-"))
    for field in fields(RenderOptions):
        value = getattr(config.render, field.name)
        if value != field.default:
            parts.append(f"{field.name}={_join(value)}")
    for options in (config.picture, config.pixels):
        for field in fields(options):
            value = getattr(options, field.name)
            if value != field.default:
                parts.append(f"{field.name}={_join(value)}")
    if config.stability != ExplainConfig.stability:
        parts.append(f"stability={config.stability}")
    if config.compute.precision != ComputeOptions.precision:
        parts.append(config.compute.precision)
    if config.compute.engine != ComputeOptions.engine:
        parts.append(f"engine={config.compute.engine}")
    if config.compute.seed != ComputeOptions.seed:
        parts.append(f"seed={config.compute.seed}")
    return _shorten(join_parts(*parts))


def _describe_model(model: ModelOptions) -> list[str]:
    """Return the model, its weights and its size, as far as they are not the defaults."""
    parts = [] if model.name == EMBEDDED else [model.name]
    if model.weights is not None:
        parts.append(f"weights={model.weights.stem}")
    if model.image_size is not None:
        parts.append(f"size={model.image_size}")
    if model.activation != ModelOptions.activation:
        parts.append(f"activation={model.activation}")
    if model.logits is not None:
        parts.append(f"logits={model.logits}")
    if model.threshold is not None:
        parts.append(f"threshold={model.threshold:g}")
    if model.prompt or model.template:
        digest = hashlib.sha256(repr((model.prompt, model.template)).encode()).hexdigest()
        parts.append(f"texts={digest[:8]}")
    return [part.replace("/", "-").replace("\\", "-").replace(":", "-") for part in parts]


def _join(value: object) -> str:
    """Return a value as on the command line: ``10,90`` for a pair."""
    if not isinstance(value, tuple):
        return str(value)
    return ",".join(f"{number:g}" for number in value)


def _shorten(text: str) -> str:
    """Return a text, or a digest if it is too long for a file name."""
    return text if len(text) <= MAX_LENGTH else hashlib.sha256(text.encode()).hexdigest()[:12]
