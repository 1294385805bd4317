"""timm's models with their pretrained weights and their own data configuration (extra ``timm``)."""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, did_you_mean, first_line
from xplain.data.class_names import imagenet_classes, is_wnid
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
from xplain.models.classifier import Classifier, Weights
from xplain.models.inspection import size_error
from xplain.models.randomization import RANDOM, UNTRAINED

HASH = re.compile(r"-[0-9a-f]{8,}\.")  # the first digits of a file's SHA-256 in its name


def load_timm(name: str, path: Path | None, side: int | None = None, offline: bool = False) -> Classifier:
    """``timm:NAME``, ``timm:hf-hub:USER/REPOSITORY`` or ``timm:local-dir:FOLDER``: pretrained, or with the weights in ``path``.

    side: of the images in pixels, for models that are built for one size; their position embeddings are resampled by timm.
    offline: only weights that were downloaded before. Raises UsageError for an unknown name or without timm, InputError for weights
    or a side that cannot be used.
    """
    if offline:
        _leave_the_hub()
    try:
        import timm
    except ModuleNotFoundError:
        raise UsageError(f"the model {name!r} needs timm", "pip install 'xplain-vision[timm]'") from None
    short = name.removeprefix("timm:")
    own = ":" in short  # of a hub or a folder: its classes may be any
    if not own and not timm.is_model(short):
        near = did_you_mean(short, timm.list_models(), "see xplain list models --search")
        raise UsageError(f"unknown model {name!r}", near)
    url = _url_of(short)
    timm.models.set_pretrained_check_hash(url is not None and HASH.search(download_path(url).name) is not None)
    if offline and path is None and url is not None and not download_path(url).exists():
        raise missing_download_error(download_path(url), name)
    model = _create(name, pretrained=path is None, offline=offline)
    record = UNTRAINED if path == RANDOM else Weights(name)
    names = _class_names(model, own)
    if path is not None and path != RANDOM:
        record, state = describe_weights_file(path), read_weights(path)
        if (count := _classes_in(state, model, record.source)) is not None:  # fine-tuned
            model, names = _create(name, pretrained=False, offline=offline, num_classes=count), ((), ())
        load_weights(model, state, record.source)
    if not model.num_classes:
        raise InputError(f"{name} gives features and has no classes", "give --weights of one with a classifier")
    data = timm.data.resolve_data_config({}, model=model)
    _, height, width = data["input_size"]
    if side is not None:
        _resize(model, name, side)
    return Classifier(
        model,
        name=name,
        wnids=names[0],
        labels=names[1],
        mean=data["mean"],
        std=data["std"],
        preprocessing=Preprocessing(
            (height, width),
            int(max(height, width) / data["crop_pct"]),
            data["interpolation"],
            squash=data["crop_mode"] == "squash",
        ),
        weights=record,
    )


def _leave_the_hub() -> None:
    """The hub's own offline mode. It looks it up when it is imported; raises UsageError where that was before."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        return
    if not constants.HF_HUB_OFFLINE:
        raise UsageError(
            "huggingface_hub was imported before offline=True", "set HF_HUB_OFFLINE=1 before Python starts"
        )


def _url_of(short: str) -> str | None:
    """Where timm would download weights from that are not the hub's; None where they are, or lie in a folder."""
    import timm

    known = None if ":" in short else timm.get_pretrained_cfg(short)
    return known.url if known is not None and not known.hf_hub_id else None


def _create(name: str, *, pretrained: bool, offline: bool, **options: Any) -> Any:
    """timm's model; what it prints goes to stderr."""
    import timm

    short = name.removeprefix("timm:")
    try:
        with redirect_stdout(sys.stderr):
            return timm.create_model(short, pretrained=pretrained, **options)
    except Exception as error:  # hub clients raise many kinds
        if short.startswith("local-dir:"):
            hint = "give a folder with config.json and model.safetensors, as timm saves them"
            raise InputError(f"cannot load {name}: {first_line(error)}", hint) from None
        rule = " without a download (--offline)" if offline else ""
        raise InputError(
            f"cannot load the weights of {name}{rule}: {first_line(error)}", "give --weights FILE"
        ) from None


def _class_names(model: Any, own: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(wnids, names) as its configuration has them, or ImageNet's for timm's own models with 1000 classes; else nothing."""
    names = tuple(model.pretrained_cfg.get("label_names") or ())
    if len(names) == model.num_classes and own:
        described = model.pretrained_cfg.get("label_descriptions") or {}
        texts = tuple(str(described.get(each, each)) for each in names) if isinstance(described, dict) else names
        return (names if all(map(is_wnid, names)) else ()), texts
    return imagenet_classes() if model.num_classes == 1000 and not own else ((), ())


def _classes_in(state: dict[str, Tensor], model: Any, source: str) -> int | None:
    """How many classes the weights know, where the model has another number; a model of features has none of its own."""
    head = f"{model.pretrained_cfg.get('classifier')}.weight"
    if not model.num_classes and head in (fitted := match_names(state, model.state_dict(), source)):
        return len(fitted[head])
    return count_finetuned_classes(state, model.state_dict(), source)


def _resize(model: nn.Module, name: str, side: int) -> None:
    """Make a model of one size fit square images of ``side`` pixels, where timm can."""
    resize = getattr(model, "set_input_size", None)
    if resize is None:
        return
    try:
        resize(img_size=(side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise size_error(name, (side, side), error) from None
