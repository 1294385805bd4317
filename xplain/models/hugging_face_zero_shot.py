"""Load CLIP, SigLIP and similar Hugging Face models as zero-shot classifiers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError, first_line
from xplain.models.checkpoints import describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.hugging_face_config import read_image_size
from xplain.models.hugging_face_files import Repository, describe_weights, find_weights, hub_disabled, read_json
from xplain.models.hugging_face_modules import find_processor
from xplain.models.hugging_face_weights import build_untrained, load_pretrained
from xplain.models.randomization import RANDOM, UNTRAINED
from xplain.models.zero_shot import (
    ImageTextClassifier,
    TextHead,
    TextRequest,
    check_length,
    make_class_texts,
    make_classifier,
    make_text_head,
    refuse_texts,
)

SUPPORTED = ("align", "altclip", "chinese_clip", "clip", "metaclip_2", "siglip")
FIXED_LENGTH = ("clip", "metaclip_2", "siglip")  # text towers that were trained on texts padded to the largest length
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
TOKENIZER_FILES = ("merges.txt", "special_tokens_map.json", "added_tokens.json")


def uses_texts(repository: Repository, config: Any, request: TextRequest) -> bool:
    """Return whether the model is to be used as a zero-shot classifier.

    Raises UsageError if texts are given for another model, if they are missing, or if the model type is not supported.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING as ZERO_SHOT

    architectures = config.architectures if isinstance(config.architectures, list) else []
    is_classifier = any(str(name).endswith("ForImageClassification") for name in architectures)
    if type(config) not in ZERO_SHOT or (is_classifier and not request.requires_text_model):
        if request.requires_text_model:
            raise refuse_texts(repository.name)
        return False
    if config.model_type not in SUPPORTED:
        raise UsageError(
            f"{repository.name!r} is a {config.model_type} model, whose texts are not supported",
            f"use a model of type {', '.join(SUPPORTED[:-1])} or {SUPPORTED[-1]}",
        )
    return True


class HuggingFaceImageTextClassifier(ImageTextClassifier):
    """The image tower of a Hugging Face model and fixed texts. interpolate: interpolate its position embeddings."""

    def __init__(self, model: Any, head: TextHead | None, *, interpolate: bool) -> None:
        super().__init__(head)
        self.vision_model = model.vision_model
        projection = getattr(model, "visual_projection", None)
        self.visual_projection = nn.Identity() if projection is None else projection
        self.options = {"interpolate_pos_encoding": True} if interpolate else {}

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return the features (B, dimensions) of normalized images."""
        features = self.visual_projection(self.vision_model(pixel_values=pixels, **self.options).pooler_output)
        return cast(Tensor, features)


def make_tower(model: Any, config: Any, head: TextHead | None, side: int | None) -> HuggingFaceImageTextClassifier:
    """Return the image tower of a model with the texts of a head, or without. side: as in ``load_hugging_face``."""
    interpolate = side is not None and read_image_size(config) != (side, side) and config.model_type != "align"
    return HuggingFaceImageTextClassifier(model, head, interpolate=interpolate)


def load_zero_shot(
    repository: Repository, config: Any, path: Path | None, side: int | None, request: TextRequest
) -> Classifier:
    """Load a Hugging Face model that compares images with the texts of a request.

    path, side: as in ``load_hugging_face``. Raises InputError if the model or its tokenizer cannot be loaded.
    """
    texts = make_class_texts(repository.name, request)
    tokenizer = load_tokenizer(repository, config)
    model, record = _load_model(repository, config, path)
    scale, bias = _read_scale(model)

    def encode_texts(batch: Sequence[str]) -> Tensor:
        return _encode_texts(model, tokenizer, batch)

    head = make_text_head(encode_texts, scale, bias, texts)
    tower = make_tower(model, config, head, side)
    return make_classifier(tower, repository.name, head, find_processor(repository, config), record)


def load_tokenizer(repository: Repository, config: Any) -> Any:
    """Return the tokenizer of a model. Raises InputError if it is missing, requires its own code or cannot be loaded."""
    from transformers import AutoTokenizer

    folder = find_tokenizer_folder(repository)
    try:
        with hub_disabled(), redirect_stdout(sys.stderr):
            return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raise many types for invalid files
        raise InputError(
            f"cannot load the tokenizer of {repository.name}: {first_line(error)}", "check its tokenizer files"
        ) from None


def find_tokenizer_folder(repository: Repository) -> Path:
    """Return the folder of a model's tokenizer. Raises InputError if it has none, or one that requires its own code."""
    settings = repository.find("tokenizer_config.json")
    if settings is not None and read_json(repository, settings).get("auto_map"):
        raise InputError(
            f"the tokenizer of {repository.name!r} requires its own code (auto_map), which is not executed",
            "if you trust it, load the model in a python: factory",
        )
    vocabularies = [path for path in map(repository.find, VOCABULARIES) if path is not None]
    if not vocabularies:
        raise InputError(
            f"{repository.name!r} has no tokenizer", "add its tokenizer.json, or vocab.json and merges.txt"
        )
    for file in TOKENIZER_FILES:
        repository.find(file)
    return vocabularies[0].parent


def _load_model(repository: Repository, config: Any, path: Path | None) -> tuple[Any, Weights]:
    """Return the model in evaluation mode with its own weights, those of a file or untrained ones, and their origin."""
    from transformers import AutoModel

    if path is None:
        files = find_weights(repository)
        record = describe_weights(repository.source, files)
        return load_pretrained(repository, config, AutoModel, files).eval(), record
    model = build_untrained(repository, config, AutoModel).eval()
    if path == RANDOM:
        return model, UNTRAINED
    record = describe_weights_file(path)
    load_weights(model, read_weights(path), record.source)
    return model, record


def _read_scale(model: Any) -> tuple[Tensor, Tensor | None]:
    """Return the factor of the similarities, and the bias of a sigmoid model or None."""
    if hasattr(model, "temperature"):  # ALIGN
        return 1 / model.temperature, None
    return model.logit_scale.exp(), getattr(model, "logit_bias", None)


def _encode_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return the features (texts, dimensions) of the text tower. Raises InputError if a text is too long."""
    config = model.config.text_config
    is_fixed = model.config.model_type in FIXED_LENGTH
    limit = config.max_position_embeddings
    if not is_fixed:
        limit = min(limit, tokenizer.model_max_length)
    for text in texts:
        check_length(text, len(tokenizer(text)["input_ids"]), limit)
    options = {"padding": "max_length", "max_length": limit} if is_fixed else {"padding": True}
    inputs = tokenizer(list(texts), return_tensors="pt", **options)
    arguments = {"input_ids": inputs["input_ids"]}
    if model.config.model_type != "siglip":  # trained without a mask
        arguments["attention_mask"] = inputs["attention_mask"]
    with torch.no_grad():
        return cast(Tensor, model.get_text_features(**arguments).pooler_output)
