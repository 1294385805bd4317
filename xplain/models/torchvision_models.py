"""torchvision's classification models with their default weights and the weights' own preprocessing."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.data.class_names import imagenet_classes
from xplain.data.preprocessing import Preprocessing
from xplain.models.checkpoints import (
    count_finetuned_classes,
    describe_weights_file,
    download_path,
    load_weights,
    match_names,
    missing_download_error,
    read_weights,
)
from xplain.models.classifier import Accuracy, Classifier, Weights
from xplain.models.inspection import size_error
from xplain.models.randomization import RANDOM, UNTRAINED

# What these builders switch on when they are given weights; everything else is the builder's default.
WITH_WEIGHTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


def torchvision_names() -> list[str]:
    """Names of torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def load_torchvision(name: str, path: Path | None, side: int | None = None, offline: bool = False) -> Classifier:
    """The model with its default weights, or others of torchvision's (``resnet50.IMAGENET1K_V1``), or those in ``path``.

    side: of the images in pixels, for models that are built for one size; a ViT's position embeddings are interpolated.
    offline: only weights that were downloaded before. Raises UsageError for an unknown name, InputError for weights or a side that
    cannot be used.
    """
    from torchvision import models

    names = torchvision_names()
    builder, _, tag = name.partition(".")
    if builder not in names:
        near = did_you_mean(builder, ["efficientnet-lite0", *names], "see xplain list models")
        raise UsageError(f"unknown model {name!r}", near)
    published = models.get_model_weights(builder).__members__
    if tag and tag not in published:
        raise UsageError(f"{builder} has no weights {tag!r}", f"choose from {', '.join(published)}")
    weights = published[tag or "DEFAULT"]
    options = WITH_WEIGHTS.get(builder, {}) | _size_option(builder, side or weights.meta["min_size"][0])
    model = _build(builder, options)
    count = None
    if path == RANDOM:
        record, state = UNTRAINED, model.state_dict()
    else:
        record, state = (
            (describe_weights_file(path), read_weights(path)) if path else _get_weights(name, weights, offline)
        )
        state = _without_auxiliaries(builder, state)
        if isinstance(model, models.VisionTransformer) and side is not None:
            state = _interpolated(state, model, record.source)
        count = count_finetuned_classes(state, model.state_dict(), record.source) if path else None
    if count is not None:  # fine-tuned
        model = _build(builder, options | {"num_classes": count})
    load_weights(model, state, record.source)
    transforms = weights.transforms()
    labels = list(weights.meta["categories"]) if count is None else []
    wnids = imagenet_classes()[0] if len(labels) == 1000 else ()
    measured = weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")  # in percent
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
        accuracy=None if path or measured is None else Accuracy(measured / 100, f"torchvision, {weights}"),
    )


def _size_option(builder: str, side: int) -> dict[str, Any]:
    """What builds the model for images of ``side`` pixels, where it is built for one size."""
    if builder.startswith("vit_"):  # its position embeddings are as many as the image has patches
        return {"image_size": side}
    return {"input_size": (side, side)} if builder.startswith("maxvit") else {}


def _interpolated(state: dict[str, torch.Tensor], model: Any, source: str) -> dict[str, torch.Tensor]:
    """A ViT's weights with as many position embeddings as the model has; as they are where they hold none."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = dict(match_names(state, model.state_dict(), source))
    if "encoder.pos_embedding" not in state:
        return state
    try:
        return dict(interpolate_embeddings(model.image_size, model.patch_size, state))
    except ValueError:
        return state  # not of a square of patches: its shape is reported with the other differences


def _build(builder: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    try:
        model: nn.Module = models.get_model(builder, weights=None, **options)
    except (ValueError, AssertionError) as error:  # it is built for one size, which cannot be this one
        side = options.get("image_size") or options.get("input_size", (0,))[0]
        raise size_error(builder, (side, side), error) from None
    if builder == "googlenet":
        model.aux1 = model.aux2 = None  # type: ignore[assignment]  # used in training only; as its builder does
        model.aux_logits = False  # type: ignore[assignment]
    return model


def _without_auxiliaries(builder: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if builder != "googlenet":
        return state
    return {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2."))}


def _get_weights(name: str, weights: Any, offline: bool) -> tuple[Weights, dict[str, torch.Tensor]]:
    """Find weights, or download them through torchvision's loader, which compares the hash; its progress goes to stderr."""
    path = download_path(weights.url)
    if path.exists():
        return describe_weights_file(path), read_weights(path)
    if offline:
        raise missing_download_error(path, name)
    try:
        with redirect_stdout(sys.stderr):
            state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, HTTPException, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"cannot download {path.name} for {name} ({reason}), and it is not in {path.parent}",
            "put the file there, or give --weights FILE",
        ) from None
    return describe_weights_file(path), state
