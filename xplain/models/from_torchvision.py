"""torchvision's classification models with their default weights and the weights' own preprocessing."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch

from xplain.errors import InputError, UsageError, did_you_mean
from xplain.images import Preprocessing
from xplain.models.checkpoints import file_weights, load_weights, read_weights
from xplain.models.classes import imagenet_classes
from xplain.models.classifier import Classifier, Weights

# What these builders switch on when they are given weights; everything else is the builder's default.
WITH_WEIGHTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


def torchvision_names() -> list[str]:
    """Names of torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def load_torchvision(name: str, path: Path | None) -> Classifier:
    """The model with its default weights, or with the weights in ``path``."""
    from torchvision import models

    names = torchvision_names()
    if name not in names:
        near = did_you_mean(name, ["efficientnet-lite0", *names], "see xplain list models")
        raise UsageError(f"unknown model {name!r}", near)
    default = models.get_model_weights(name).DEFAULT
    record, state = (file_weights(path), read_weights(path)) if path else _default_weights(name, default)
    model = models.get_model(name, weights=None, **WITH_WEIGHTS.get(name, {}))
    if name == "googlenet":
        model.aux1 = model.aux2 = None  # used in training only; as its builder does
        model.aux_logits = False
        state = {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2."))}
    load_weights(model, state, record.source)
    transforms = default.transforms()
    labels = list(default.meta["categories"])
    wnids = imagenet_classes()[0] if len(labels) == 1000 else ()
    return Classifier(
        model,
        name=name,
        labels=labels,
        wnids=wnids,
        mean=transforms.mean,
        std=transforms.std,
        preprocessing=Preprocessing(
            (transforms.crop_size[0],) * 2, transforms.resize_size[0], transforms.interpolation.value
        ),
        weights=record,
    )


def _default_weights(name: str, default: Any) -> tuple[Weights, dict[str, torch.Tensor]]:
    """Download (or find) the default weights through torchvision's loader; its progress goes to stderr."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(default.url).path).name
    if path.exists():
        return file_weights(path), read_weights(path)
    try:
        with redirect_stdout(sys.stderr):
            state = default.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, HTTPException, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"cannot download {path.name} for {name} ({reason}), and it is not in {folder}",
            "put the file there, or give --weights FILE",
        ) from None
    return file_weights(path), state
