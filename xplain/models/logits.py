"""The logits in what a model returns: a tensor, or a tensor in a tuple, a mapping or a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from torch import Tensor

from xplain.core.errors import InputError


def find_logits(output: object) -> tuple[Tensor, str]:
    """(images, classes), and where they were found: ``""`` for the output itself, an index, or a name.

    What is called ``logits`` comes first; else the first such tensor of a tuple or list, or the only one of a mapping or dataclass.
    Raises InputError when there is none.
    """
    direct = _as_logits(output)
    if direct is not None:
        return direct, ""
    named = _parts(output)
    found = {name: logits for name, value in named.items() if (logits := _as_logits(value)) is not None}
    if "logits" in found:
        return found["logits"], "logits"
    if found and (len(found) == 1 or isinstance(output, (tuple, list))):
        name = next(iter(found))
        return found[name], name
    what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    several = f" with {' and '.join(found)}" if found else ""
    hint = "call the logits 'logits'" if found else "give an image classifier"
    raise InputError(f"the model returned {what}{several}, not logits (images, classes)", hint)


def _as_logits(value: object) -> Tensor | None:
    """(images, classes), also of a map with one place, (images, classes, 1, 1)."""
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        return None
    return value.flatten(1) if all(side == 1 for side in value.shape[2:]) else None


def _parts(output: object) -> dict[str, object]:
    """What an output consists of, by name or index."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return {str(index): value for index, value in enumerate(output)}
    if is_dataclass(output):
        return {each.name: getattr(output, each.name) for each in fields(output)}
    return {}
