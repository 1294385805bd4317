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

from xplain.core.errors import InputError, emit_note
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


def read_baselines(spec: MethodSpec, settings: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Tensor]:
    """Return the images (N, C, H, W) of the parameters that are paths of image files or folders.

    Emits a note if the method runs several times. Raises InputError if an image cannot be read, or if two folders have
    different numbers of images.
    """
    names = find_baseline_paths(spec, settings)
    baselines = {name: read_references(settings[name], preprocessing) for name in names}
    counts = {name: len(images) for name, images in baselines.items() if len(images) > 1}
    if len(set(counts.values())) > 1:
        texts = " and ".join(f"{count} images of {name}" for name, count in counts.items())
        raise InputError(f"{spec.name} cannot pair {texts}", "use as many images in both folders, or one image")
    if counts:
        name, count = next(iter(counts.items()))
        emit_note(f"{spec.name} runs once for each of the {count} images of {settings[name]!r}")
    return baselines


def find_baseline_paths(spec: MethodSpec, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that are paths of image files or folders."""
    parameters = [parameter for parameter in spec.parameters.values() if parameter.file is not None]
    return [entry.name for entry in parameters if settings[entry.name] not in (*entry.choices, "tensor")]


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


def average_over_baselines(
    run: Callable[[dict[str, Tensor]], Attribution], baselines: Mapping[str, Tensor]
) -> Attribution:
    """Return the mean of the attributions from several baselines, with the mean of their expected sums and details.

    run: the method with one baseline image (1, C, H, W) for each parameter.
    baselines: images (N or 1, C, H, W) by parameter. Those of several parameters are used in pairs.
    A flag applies to an image if it does for one of the baselines, and a detail that is true or false is true if it is for all.
    """
    count = max(map(len, baselines.values()))
    mean = run({name: images[:1] for name, images in baselines.items()})
    if count == 1:
        return mean
    for k in range(1, count):
        result = run({name: images if len(images) == 1 else images[k : k + 1] for name, images in baselines.items()})
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
    return replace(
        mean,
        values=mean.values / count,
        expected=None if mean.expected is None else mean.expected / count,
        details={name: total if total.dtype == torch.bool else total / count for name, total in mean.details.items()},
    )


def _accumulate(total: Tensor, value: Tensor) -> Tensor:
    """Return the sum, or for bool whether both are true."""
    return total & value if total.dtype == torch.bool else total + value
