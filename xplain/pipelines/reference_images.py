"""Images that are parameters of methods: baselines and reference images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xplain.core.errors import InputError
from xplain.core.registry import MethodSpec
from xplain.data.images import read_model_input
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import ImageSource, find_images

MAX_REFERENCES = 512  # maximum number of baseline images, spaced evenly over the sorted files


def resolve_tensors(spec: MethodSpec, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the values of all parameters, where ``tensor`` replaces images, and the images by parameter. Raises UsageError."""
    others = dict(params)
    accepts_images = {name for name, parameter in spec.parameters.items() if parameter.file or name == "baselines"}
    tensors = {name: others.pop(name) for name in accepts_images if isinstance(others.get(name), Tensor)}
    return spec.resolve(others) | dict.fromkeys(tensors, "tensor"), tensors


def is_baseline_file(spec: MethodSpec, settings: Mapping[str, Any]) -> bool:
    """Return whether the parameter ``baseline`` is the path of an image file."""
    parameter = spec.parameters.get("baseline")
    if parameter is None or parameter.file is None:
        return False
    return settings["baseline"] not in (*parameter.choices, "tensor")


def read_references(directory: str | None, preprocessing: Preprocessing) -> Tensor | None:
    """Load up to MAX_REFERENCES evenly spaced images (N, C, H, W) from a directory. Return None for None and ``noise``.

    Raises InputError if the directory does not exist or an image cannot be read.
    """
    if directory is None or directory == "noise":
        return None
    if not os.path.isdir(directory):  # noqa: PTH112  (never raises)
        raise InputError(f"baseline directory {directory!r} not found", 'pass a directory of images, or "noise"')
    sources = find_references(directory)
    return torch.stack([read_model_input(source.read(), source.name, preprocessing).pixels for source in sources])


def find_references(directory: str) -> list[ImageSource]:
    """Return up to MAX_REFERENCES evenly spaced image files of a directory."""
    sources = find_images([directory])
    return sources[:: -(-len(sources) // MAX_REFERENCES)]
