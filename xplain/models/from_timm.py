"""timm's models with their pretrained weights and their own data configuration (extra ``timm``)."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

from xplain.errors import InputError, UsageError, did_you_mean
from xplain.images import Preprocessing
from xplain.models.checkpoints import classes_of, file_weights, load_weights, read_weights
from xplain.models.classes import imagenet_classes
from xplain.models.classifier import Classifier, Weights
from xplain.models.untrained import RANDOM, UNTRAINED


def load_timm(name: str, path: Path | None) -> Classifier:
    """``timm:NAME`` with its pretrained weights, or with the weights in ``path``."""
    try:
        import timm
    except ModuleNotFoundError:
        raise UsageError(f"the model {name!r} needs timm", "pip install 'xplain-vision[timm]'") from None
    short = name.removeprefix("timm:")
    if not timm.is_model(short) and ":" not in short:
        near = did_you_mean(short, timm.list_models(), "see xplain list models --search")
        raise UsageError(f"unknown model {name!r}", near)
    try:
        with redirect_stdout(sys.stderr):
            model = timm.create_model(short, pretrained=path is None)
    except Exception as error:  # hub clients raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"cannot load the weights of {name}: {reason}", "give --weights FILE") from None
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
