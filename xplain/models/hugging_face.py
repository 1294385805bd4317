"""Load Hugging Face models from a folder or the hub without running any code of theirs (extra ``hf``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from xplain.core.errors import InputError, UsageError
from xplain.models.checkpoints import count_finetuned_classes, describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.hugging_face_config import (
    check_is_classifier,
    make_config,
    read_channels,
    read_config,
    read_labels,
    read_output_kind,
)
from xplain.models.hugging_face_embeddings import has_head, load_embeddings
from xplain.models.hugging_face_files import (
    Repository,
    describe_weights,
    find_weights,
    hub_disabled,
    open_repository,
)
from xplain.models.hugging_face_modules import adapt_network, find_processor, set_normalization
from xplain.models.hugging_face_weights import build_untrained, load_pretrained
from xplain.models.hugging_face_zero_shot import load_zero_shot, uses_texts
from xplain.models.randomization import RANDOM, UNTRAINED
from xplain.models.zero_shot import TextRequest, refuse_texts


def load_hugging_face(
    name: str,
    path: Path | None,
    side: int | None = None,
    offline: bool = False,
    request: TextRequest = TextRequest(),
    *,
    headless: bool = False,
) -> Classifier:
    """Load a Hugging Face image classifier, or a model that compares images with texts.

    name: ``hf:FOLDER``, ``hf:REPOSITORY`` or ``hf:REPOSITORY@REVISION``; an existing folder takes precedence.
    path: weights file to use instead of the model's weights, RANDOM for untrained weights, or None.
    side: image size in pixels; position embeddings are interpolated where the model supports it.
    offline: use only files that are in the hub's cache.
    request: the texts to compare images with.
    headless: load a checkpoint without a classification head, or a model for texts without any, as a network that returns embeddings.
    Raises UsageError if transformers is not installed or the model is no image classifier, and InputError if it cannot be loaded
    without running its code or lacks trained weights.
    """
    _require_transformers(name)
    repository = open_repository(name, name.removeprefix("hf:"), offline)
    content, notes = read_config(repository)
    if "model_type" not in content and "architecture" in content:
        if request.requires_text_model:
            raise refuse_texts(name)
        return _load_as_timm(repository, path, side, headless=headless)
    config = make_config(repository, content)
    if headless and not request.has_texts and not has_head(config):
        classifier = load_embeddings(repository, config, path, side)
        classifier.notes = [*notes, *classifier.notes]
        return classifier
    if uses_texts(repository, config, request):
        classifier = load_zero_shot(repository, config, path, side, request)
        classifier.notes = [*notes, *classifier.notes]
        return classifier
    check_is_classifier(repository, config)
    wnids, labels = read_labels(name, config)
    model, record = _load_model(repository, config, path)
    if config.num_labels != len(labels):
        wnids, labels = [], []
    processor = find_processor(repository, config)
    output, output_notes = read_output_kind(config)
    classifier = Classifier(
        adapt_network(model, is_bgr=processor.is_bgr, side=side),
        name=name,
        wnids=wnids,
        labels=labels,
        preprocessing=processor.preprocessing,
        weights=record,
    )
    set_normalization(classifier, processor, read_channels(config))
    classifier.output = output
    classifier.notes = [*notes, *processor.notes, *output_notes]
    return classifier


def _require_transformers(name: str) -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            f"the model {name!r} requires transformers", "install it with: pip install 'xplain-vision[hf]'"
        ) from None


def _load_as_timm(repository: Repository, path: Path | None, side: int | None, *, headless: bool) -> Classifier:
    """Load a model that timm has saved, which is not in the format of transformers."""
    from xplain.models.timm_models import load_timm

    files = find_weights(repository) if path is None else []
    if len(files) > 1:  # timm would ignore them, and look for pickles
        raise InputError(
            f"{repository.name!r} has several files of weights, which timm cannot load", "save one model.safetensors"
        )
    folder = repository.require("config.json").parent
    with hub_disabled():
        classifier = load_timm(f"timm:local-dir:{folder}", path, side, headless=headless)
    classifier.name = repository.name
    if path is None:
        classifier.weights = describe_weights(repository.source, files)
    return classifier


def _load_model(repository: Repository, config: Any, path: Path | None) -> tuple[nn.Module, Weights]:
    """Return the model in float32 with its own weights, those of a file or untrained ones, and their origin."""
    from transformers import AutoModelForImageClassification

    if path is None:
        files = find_weights(repository)
        model = load_pretrained(repository, config, AutoModelForImageClassification, files)
        return model, describe_weights(repository.source, files)
    model = build_untrained(repository, config, AutoModelForImageClassification)
    if path == RANDOM:
        return model, UNTRAINED
    record, state = describe_weights_file(path), read_weights(path)
    classes = count_finetuned_classes(state, model.state_dict(), record.source)
    if classes is not None:
        config.num_labels = classes
        model = build_untrained(repository, config, AutoModelForImageClassification)
    load_weights(model, state, record.source)
    return model, record
