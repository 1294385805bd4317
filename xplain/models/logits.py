"""Find the logits (B, classes) in the output of a network: tensors of several shapes, tuples, mappings and dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from xplain.core.errors import InputError, UsageError, did_you_mean

HALF_TYPES = (torch.float16, torch.bfloat16)


def find_logits(output: object, rows: int | None, classes: int | None = None, entry: str = "") -> tuple[Tensor, str]:
    """Return the logits (rows, classes) in a network's output, and their entry: an index, a dotted name, or ``""`` for the output itself.

    rows: the number of images, or None to accept any. classes: the number of columns, or None if unknown.
    entry: the entry to use, such as ``1`` or ``heads.sex``. By default the entry called ``logits``, then the first tensor of
    matching shape of a tuple or list, or the only one of a mapping or dataclass.
    Raises UsageError if there is no such entry, and InputError if there are no logits or several candidates.
    """
    if entry:
        return _read_entry(output, rows, classes, entry), entry
    logits = as_logits(output, rows, classes)
    if logits is not None:
        return logits, ""
    candidates = list_candidates(output, rows, classes)
    if "logits" in candidates:
        return candidates["logits"], "logits"
    if candidates and (len(candidates) == 1 or isinstance(output, (tuple, list))):
        first = next(iter(candidates))
        return candidates[first], first
    raise _logits_error(output, rows, candidates)


def list_candidates(output: object, rows: int | None, classes: int | None = None) -> dict[str, Tensor]:
    """Return the entries of an output that may be logits (rows, classes), by index or dotted name, in the order of the output."""
    candidates = {}
    for name, value in _iterate_entries(output):
        logits = as_logits(value, rows, classes)
        if logits is not None:
            candidates[name] = logits
    return candidates


def as_logits(value: object, rows: int | None, classes: int | None = None) -> Tensor | None:
    """Return a tensor as logits (rows, classes), in float32 or float64; None for any other value.

    Accepts (rows, classes), (rows, classes, 1, ...), (rows,) of models with one output, and of one row the shapes () and
    (classes,), which ``squeeze`` makes. The last three require that ``rows`` or ``classes`` is known.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return None
    shape = list(value.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    if len(shape) < 2:
        shape = _unsqueeze_shape(shape, rows, classes)
    if len(shape) != 2 or rows not in (None, shape[0]) or classes not in (None, shape[1]):
        return None
    logits = value.reshape(shape) if list(value.shape) != shape else value
    return logits.float() if logits.dtype in HALF_TYPES else logits


def _unsqueeze_shape(shape: Sequence[int], rows: int | None, classes: int | None) -> list[int]:
    """Return the shape (rows, classes) of a tensor with at most one side, or [] if it does not fit."""
    count = shape[0] if shape else 1
    if rows == 1 or (rows is None and classes == count):
        return [1, count]
    if not shape or classes not in (None, 1) or (rows is None and classes is None):
        return []
    return [count, 1]


def _iterate_entries(output: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the names and values of all entries of an output, those of nested ones with dotted names."""
    for name, value in _named_entries(output).items():
        path = f"{prefix}{name}"
        yield path, value
        yield from _iterate_entries(value, f"{path}.")


def _named_entries(output: object) -> dict[str, object]:
    """Return the entries of a mapping, named tuple, tuple, list or dataclass by name or index."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (tuple, list)):
        return {str(index): value for index, value in enumerate(output)}
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return {}


def _read_entry(output: object, rows: int | None, classes: int | None, entry: str) -> Tensor:
    """Return the logits of an entry. Raises UsageError if there is none of that name or index."""
    value = _find_entry(output, entry)
    logits = as_logits(value, rows, classes)
    if logits is not None:
        return logits
    raise _logits_error(value, rows, {}, f"as output {entry!r} ")


def _find_entry(output: object, entry: str) -> object:
    """Return an entry by name, index or dotted name. A named tuple also has indices. Raises UsageError if there is none."""
    entries = dict(_iterate_entries(output))
    if entry in entries:
        return entries[entry]
    if isinstance(output, (tuple, list)) and entry.lstrip("-").isdecimal() and -len(output) <= int(entry) < len(output):
        return output[int(entry)]
    if not entries:
        raise UsageError(f"the model returns {_describe(output)}, which has no entry {entry!r}", "remove --logits")
    raise UsageError(f"the model's output has no entry {entry!r}", did_you_mean(entry, entries, _list_choices(entries)))


def _list_choices(names: Mapping[str, object]) -> str:
    return f"use one of {', '.join(names)}"


def _logits_error(output: object, rows: int | None, candidates: Mapping[str, Tensor], where: str = "") -> InputError:
    """Return the error of an output without logits, or with several candidates."""
    if candidates:
        described = [f"{name} {_batch_shape(tensor)}" for name, tensor in candidates.items()]
        listed = f"{', '.join(described[:-1])} and {described[-1]}"
        return InputError(f"the model returns {listed}", f"choose one, such as --logits {list(candidates)[-1]}")
    if isinstance(output, Tensor):
        return _tensor_error(output, rows, where)
    return InputError(
        f"the model returned {where}{_describe(output)} instead of logits of shape (images, classes)",
        "use an image classifier",
    )


def _tensor_error(output: Tensor, rows: int | None, where: str) -> InputError:
    shape = tuple(output.shape)
    if not output.is_floating_point():
        message = f"the model returns {where}{str(output.dtype).removeprefix('torch.')} values of shape {shape}"
        return InputError(f"{message}, not scores", "return the scores from which it decides")
    if output.ndim == 4 and rows in (None, len(output)):
        hint = "reduce it to shape (images, classes), such as by the mean over a region"
        return InputError(f"the model returns {where}{shape}, a map of classes", hint)
    images = "" if rows is None else " for 1 image" if rows == 1 else f" for {rows} images"
    return InputError(f"the model returns {where}{shape}{images}", "return logits of shape (images, classes)")


def _describe(output: object) -> str:
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def _batch_shape(logits: Tensor) -> str:
    """Return ``(B, 10)`` for logits (rows, 10)."""
    return f"(B, {logits.shape[1]})"
