"""Load timm's models with the preprocessing of their data configuration (extra ``timm``)."""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, did_you_mean, first_line
from xplain.data.class_names import is_wnid, load_imagenet_classes
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
from xplain.models.classifier import Classifier, Weights
from xplain.models.outputs import OutputKind
from xplain.models.randomization import RANDOM, UNTRAINED

HASH = re.compile(r"-[0-9a-f]{8,}\.")  # a file name with the first digits of the file's SHA-256


def load_timm(
    name: str, path: Path | None, side: int | None = None, offline: bool = False, *, headless: bool = False
) -> Classifier:
    """Load a timm model as a classifier.

    name: ``timm:NAME``, ``timm:hf-hub:USER/REPOSITORY`` or ``timm:local-dir:FOLDER``.
    path: weights file to use instead of the pretrained weights, RANDOM for untrained weights, or None.
    side: image size in pixels for models with a fixed input size. timm interpolates the position embeddings.
    offline: use only weights that are already downloaded.
    headless: accept a model without classes, whose output is the pooled embedding.
    Raises UsageError if the name is unknown or timm is not installed, and InputError if the weights or the image size are invalid.
    """
    if offline:
        _set_hub_offline()
    timm = _import_timm(name)
    short = name.removeprefix("timm:")
    is_external = ":" in short  # a repository or folder: its classes need not be ImageNet's
    if not is_external and not timm.is_model(short):
        raise UsageError(
            f"unknown model {name!r}", did_you_mean(short, timm.list_models(), 'use "xplain list models --search NAME"')
        )
    _check_download(name, needed=offline and path is None)
    model = _create(name, pretrained=path is None, offline=offline)
    wnids, labels = _class_names(model, is_external=is_external)
    if path is None:
        record = Weights(name)
    elif path == RANDOM:
        record = UNTRAINED
    else:
        record, state = describe_weights_file(path), read_weights(path)
        classes = _count_classes(state, model, record.source)
        if classes is not None:
            model = _create(name, pretrained=False, offline=offline, num_classes=classes)
            wnids, labels = (), ()
        load_weights(model, state, record.source)
    if not model.num_classes and not headless:
        raise InputError(f"{name} has no classification head", "use --weights with the weights of a classifier")
    data = timm.data.resolve_data_config({}, model=model)
    if side is not None:
        _set_input_size(model, name, side)
    classifier = Classifier(
        model,
        name=name,
        wnids=wnids,
        labels=labels,
        mean=data["mean"],
        std=data["std"],
        preprocessing=make_preprocessing(data),
        weights=record,
    )
    if not model.num_classes:
        classifier.output = OutputKind("none", source="config")
    return classifier


def _set_hub_offline() -> None:
    """Set the offline mode of huggingface_hub, which reads it when it is imported. Raises UsageError if that is too late."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return
    if not constants.HF_HUB_OFFLINE:
        raise UsageError(
            "huggingface_hub was imported before offline mode was enabled",
            "set HF_HUB_OFFLINE=1 before starting Python",
        )


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise UsageError(
            f"the model {name!r} requires timm", "install it with: pip install 'xplain-vision[timm]'"
        ) from None
    return timm


def _check_download(name: str, *, needed: bool) -> None:
    """Let timm verify the hash of the weights file if its name has one.

    needed: raise InputError if the file is missing. Weights on the hub are not checked.
    """
    import timm

    url = _weights_url(name.removeprefix("timm:"))
    path = None if url is None else download_path(url)
    timm.models.set_pretrained_check_hash(path is not None and HASH.search(path.name) is not None)
    if needed and path is not None and not path.exists():
        raise missing_download_error(path, name)


def _weights_url(short: str) -> str | None:
    """Return the URL of timm's pretrained weights, or None if they are on the hub or in a folder."""
    import timm

    config = None if ":" in short else timm.get_pretrained_cfg(short)
    return config.url if config is not None and not config.hf_hub_id else None


def _create(name: str, *, pretrained: bool, offline: bool, **options: Any) -> Any:
    """Return timm's model. Its messages go to stderr. Raises InputError if it or its weights cannot be loaded."""
    import timm

    short = name.removeprefix("timm:")
    try:
        with redirect_stdout(sys.stderr):
            return timm.create_model(short, pretrained=pretrained, **options)
    except Exception as error:  # hub clients raise many types
        reason = first_line(error)
    if short.startswith("local-dir:"):
        raise InputError(
            f"cannot load {name}: {reason}", "use a directory saved by timm, with config.json and model.safetensors"
        )
    condition = " without a download (--offline)" if offline else ""
    raise InputError(f"cannot load the weights of {name}{condition}: {reason}", "use --weights FILE")


def _class_names(model: Any, *, is_external: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (wnids, names) of the classes, each () if unknown.

    An external model has those in its configuration; timm's own models with 1000 classes have ImageNet's.
    """
    if not is_external:
        return load_imagenet_classes() if model.num_classes == 1000 else ((), ())
    names = tuple(model.pretrained_cfg.get("label_names") or ())
    if len(names) != model.num_classes:
        return (), ()
    wnids = names if all(map(is_wnid, names)) else ()
    descriptions = model.pretrained_cfg.get("label_descriptions") or {}
    if isinstance(descriptions, dict):
        names = tuple(str(descriptions.get(name, name)) for name in names)
    return wnids, names


def _count_classes(state: dict[str, Tensor], model: Any, source: str) -> int | None:
    """Return the number of classes of the weights, or None if it is the model's. A model of features has no classes."""
    head = f"{model.pretrained_cfg.get('classifier')}.weight"
    if not model.num_classes:
        matched = match_names(state, model.state_dict(), source)
        if head in matched:
            return len(matched[head])
    return count_finetuned_classes(state, model.state_dict(), source)


def make_preprocessing(data: dict[str, Any]) -> Preprocessing:
    _, height, width = data["input_size"]
    return Preprocessing(
        (height, width),
        int(max(height, width) / data["crop_pct"]),
        data["interpolation"],
        squash=data["crop_mode"] == "squash",
    )


def _set_input_size(model: nn.Module, name: str, side: int) -> None:
    """Set the size of square images for a model of one size. Raises InputError if the model cannot have it."""
    set_input_size = getattr(model, "set_input_size", None)
    if set_input_size is None:
        return
    try:
        set_input_size(img_size=(side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise size_error(name, (side, side), error) from None
