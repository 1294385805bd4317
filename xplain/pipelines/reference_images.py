"""Images that are parameters of methods: baselines and reference images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.registry import MethodSpec
from xplain.core.types import Attribution
from xplain.data.images import read_model_input, sha256
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource, find_images

MAX_REFERENCES = 512  # maximum number of baseline images, spaced evenly over the sorted files


def resolve_tensors(spec: MethodSpec, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the values of all parameters, where ``tensor`` replaces images, and the images by parameter. Raises UsageError."""
    others = spec.rename(params)
    accepts_images = {name for name, parameter in spec.parameters.items() if parameter.file or name == "baselines"}
    tensors = {name: others.pop(name) for name in accepts_images if isinstance(others.get(name), Tensor)}
    return spec.resolve(others) | dict.fromkeys(tensors, "tensor"), tensors


def is_baseline_path(spec: MethodSpec, settings: Mapping[str, Any]) -> bool:
    """Return whether the parameter ``baseline`` is the path of an image file or folder."""
    parameter = spec.parameters.get("baseline")
    if parameter is None or parameter.file is None:
        return False
    return settings["baseline"] not in (*parameter.choices, "tensor")


def read_references(path: str, preprocessing: Preprocessing) -> Tensor:
    """Load up to MAX_REFERENCES evenly spaced images (N, C, H, W) from a folder, or the image of a file.

    Raises InputError if the path does not exist or an image cannot be read.
    """
    if not os.path.exists(path):  # noqa: PTH110  (never raises)
        raise InputError(f"baseline directory {path!r} not found", 'pass a directory of images, or "noise"')
    sources = find_references(path)
    return torch.stack([read_model_input(source.read(), source.name, preprocessing).pixels for source in sources])


def find_references(path: str) -> list[ImageSource]:
    """Return the images of a folder that are used as baselines, or that of a file."""
    sources = find_images([path])
    return sources[:: -(-len(sources) // MAX_REFERENCES)]


def hash_images(path: str) -> str:
    """Return a digest of the baseline images of a folder, or of that of a file."""
    digests = [sha256(source.read()) for source in find_references(path)]
    if os.path.isfile(path):  # noqa: PTH113  (never raises)
        return digests[0]
    digest = hashlib.sha256()
    for text in digests:
        digest.update(text.encode())
    return digest.hexdigest()


def hash_files(paths: Iterable[str]) -> str:
    """Return a digest of files; a file that cannot be read counts as empty, because the method will refuse it."""
    digest = hashlib.sha256()
    for path in paths:
        with suppress(OSError):
            digest.update(sha256(Path(path).read_bytes()).encode())
    return digest.hexdigest()


def average_over_baselines(run: Callable[[Tensor], Attribution], baselines: Tensor) -> Attribution:
    """Return the mean of the attributions from several baselines, with the mean of their expected sums and details.

    run: the method with one baseline image (1, C, H, W). baselines: (N, C, H, W).
    A flag applies to an image if it does for one of the baselines, and a detail that is true or false is true if it is for all.
    """
    mean = run(baselines[:1])
    if len(baselines) == 1:
        return mean
    for baseline in baselines[1:]:
        result = run(baseline[None])
        expected = None
        if mean.expected is not None and result.expected is not None:
            expected = mean.expected + result.expected
        parts = None
        if mean.parts is not None and result.parts is not None:
            parts = mean.parts + result.parts
        mean = replace(
            mean,
            values=mean.values + result.values,
            expected=expected,
            parts=parts,
            details={name: _accumulate(total, result.details[name]) for name, total in mean.details.items()},
            flags={name: mask | result.flags[name] for name, mask in mean.flags.items()},
        )
    count = len(baselines)
    return replace(
        mean,
        values=mean.values / count,
        expected=None if mean.expected is None else mean.expected / count,
        details={name: total if total.dtype == torch.bool else total / count for name, total in mean.details.items()},
    )


def _accumulate(total: Tensor, value: Tensor) -> Tensor:
    """Return the sum, or for bool whether both are true."""
    return total & value if total.dtype == torch.bool else total + value
