"""timm's models with their pretrained weights and their own data configuration (extra ``timm``)."""

from __future__ import annotations

import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from xplain.errors import InputError, UsageError, did_you_mean
from xplain.images import Preprocessing
from xplain.models.checkpoints import classes_of, file_weights, load_weights, read_weights
from xplain.models.classes import imagenet_classes
from xplain.models.classifier import Classifier, Weights
from xplain.models.downloads import downloaded, not_downloaded
from xplain.models.untrained import RANDOM, UNTRAINED

HASH = re.compile(r"-[0-9a-f]{8,}\.")  # the first digits of a file's SHA-256 in its name


def load_timm(name: str, path: Path | None, offline: bool = False) -> Classifier:
    """``timm:NAME`` with its pretrained weights, or with the weights in ``path``.

    offline: only weights that were downloaded before; else InputError.
    """
    if offline:
        _leave_the_hub()
    try:
        import timm
    except ModuleNotFoundError:
        raise UsageError(f"the model {name!r} needs timm", "pip install 'xplain-vision[timm]'") from None
    short = name.removeprefix("timm:")
    if not timm.is_model(short) and ":" not in short:
        near = did_you_mean(short, timm.list_models(), "see xplain list models --search")
        raise UsageError(f"unknown model {name!r}", near)
    url = _url_of(short)
    timm.models.set_pretrained_check_hash(url is not None and HASH.search(downloaded(url).name) is not None)
    if offline and path is None and url is not None and not downloaded(url).exists():
        raise not_downloaded(downloaded(url), name)
    try:
        with redirect_stdout(sys.stderr):
            model = timm.create_model(short, pretrained=path is None)
    except Exception as error:  # hub clients raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        rule = " without a download (--offline)" if offline else ""
        raise InputError(f"cannot load the weights of {name}{rule}: {reason}", "give --weights FILE") from None
    record = UNTRAINED if path == RANDOM else Weights(name)
    if path is not None and path != RANDOM:
        record, state = file_weights(path), read_weights(path)
        if (count := classes_of(state, model.state_dict(), record.source)) is not None:  # fine-tuned
            model = timm.create_model(short, num_classes=count)
        load_weights(model, state, record.source)
    data = timm.data.resolve_data_config({}, model=model)
    _, height, width = data["input_size"]
    own = len(short.partition(":")[0]) < len(short)  # of a hub or a folder: its classes may be any
    wnids, labels = imagenet_classes() if model.num_classes == 1000 and not own else ((), ())
    return Classifier(
        model,
        name=name,
        labels=labels,
        wnids=wnids,
        mean=data["mean"],
        std=data["std"],
        preprocessing=Preprocessing((height, width), int(max(height, width) / data["crop_pct"]), data["interpolation"]),
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
