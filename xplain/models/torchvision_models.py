"""Load torchvision's classification models with the preprocessing of their weights."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, did_you_mean
from xplain.data.class_names import load_imagenet_classes
from xplain.data.preprocessing import Preprocessing
from xplain.models.channels import size_error
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
from xplain.models.custom_models import suggest_factory
from xplain.models.efficientnet_lite import VERSIONS
from xplain.models.randomization import RANDOM, UNTRAINED

# Options that these builders set when they receive weights. All other options keep their defaults.
OPTIONS_WITH_WEIGHTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
}


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    from torchvision import models

    return list(models.list_models(module=models))


def load_torchvision(name: str, path: Path | None, side: int | None = None, offline: bool = False) -> Classifier:
    """Load a torchvision model as a classifier.

    name: model name (``resnet50``), optionally followed by the name of the weights (``resnet50.IMAGENET1K_V1``).
    path: weights file to use instead of the pretrained weights, RANDOM for untrained weights, or None.
    side: image size in pixels for models with a fixed input size. The position embeddings of ViTs are interpolated.
    offline: use only weights that are already downloaded.
    Raises UsageError if the name is unknown, and InputError if the weights or the image size are invalid.
    """
    builder, weights = _find_weights(name)
    options = OPTIONS_WITH_WEIGHTS.get(builder, {}) | _size_options(builder, side or weights.meta["min_size"][0])
    model = _build(builder, options)
    classes = None
    if path == RANDOM:
        record, state = UNTRAINED, model.state_dict()
    else:
        record, state = _read_state(name, weights, path, offline)
        if builder == "googlenet":
            state = _remove_auxiliary_heads(state)
        if builder.startswith("vit_") and side is not None:
            state = _interpolate_positions(state, model, record.source)
        if path is not None:
            classes = count_finetuned_classes(state, model.state_dict(), record.source)
    if classes is not None:
        model = _build(builder, options | {"num_classes": classes})
    load_weights(model, state, record.source)
    transforms = weights.transforms()
    labels = list(weights.meta["categories"]) if classes is None else []
    return Classifier(
        model,
        name=name,
        labels=labels,
        wnids=load_imagenet_classes()[0] if len(labels) == 1000 else (),
        mean=transforms.mean,
        std=transforms.std,
        preprocessing=Preprocessing(
            (transforms.crop_size[0],) * 2, transforms.resize_size[0], transforms.interpolation.value
        ),
        weights=record,
        accuracy=_published_accuracy(weights) if path is None else None,
    )


def _find_weights(name: str) -> tuple[str, Any]:
    """Return the name of the builder and the member of its weights enum. Raises UsageError for an unknown name or tag."""
    from torchvision import models

    names = torchvision_names()
    builder, _, tag = name.partition(".")
    if builder not in names:
        hint = suggest_factory(name) or did_you_mean(builder, [*VERSIONS, *names], "see xplain list models")
        raise UsageError(f"unknown model {name!r}", hint)
    published = models.get_model_weights(builder).__members__
    if tag and tag not in published:
        raise UsageError(f"{builder} has no weights {tag!r}", f"choose from {', '.join(published)}")
    return builder, published[tag or "DEFAULT"]


def _read_state(name: str, weights: Any, path: Path | None, offline: bool) -> tuple[Weights, dict[str, Tensor]]:
    """Return the weights in ``path``, or torchvision's if it is None."""
    if path is None:
        return _get_weights(name, weights, offline)
    return describe_weights_file(path), read_weights(path)


def _published_accuracy(weights: Any) -> Accuracy | None:
    percent = weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    return None if percent is None else Accuracy(percent / 100, f"torchvision, {weights}")


def _size_options(builder: str, side: int) -> dict[str, Any]:
    """Return the options that build a model of one size for images of ``side`` pixels."""
    if builder.startswith("vit_"):
        return {"image_size": side}
    if builder.startswith("maxvit"):
        return {"input_size": (side, side)}
    return {}


def _interpolate_positions(state: dict[str, Tensor], model: Any, source: str) -> dict[str, Tensor]:
    """Return a ViT's weights with the position embeddings interpolated to the model's size."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = dict(match_names(state, model.state_dict(), source))
    if "encoder.pos_embedding" not in state:
        return state
    try:
        return dict(interpolate_embeddings(model.image_size, model.patch_size, state))
    except ValueError:
        return state  # the patches form no square: load_weights reports the shape


def _build(builder: str, options: dict[str, Any]) -> nn.Module:
    """Return the model without weights. Raises InputError if it cannot be built for the size in ``options``."""
    from torchvision import models

    try:
        model: nn.Module = models.get_model(builder, weights=None, **options)
    except (ValueError, AssertionError) as error:
        side = options.get("image_size") or options.get("input_size", (0,))[0]
        raise size_error(builder, (side, side), error) from None
    if builder == "googlenet":
        # The auxiliary heads are used in training only. torchvision's builder removes them too.
        model.aux1 = model.aux2 = None  # type: ignore[assignment]
        model.aux_logits = False  # type: ignore[assignment]
    return model


def _remove_auxiliary_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(("aux1.", "aux2."))}


def _get_weights(name: str, weights: Any, offline: bool) -> tuple[Weights, dict[str, Tensor]]:
    """Return downloaded weights, or download them with torchvision, which verifies the hash. Progress goes to stderr."""
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
            f"cannot download {path.name} for {name} ({reason}), and {path.parent} contains no copy",
            "put the file there or use --weights FILE",
        ) from None
    return describe_weights_file(path), state
