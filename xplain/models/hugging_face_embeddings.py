"""Load Hugging Face models without a classification head or texts, as networks that return the embeddings of images."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError
from xplain.models.checkpoints import describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.hugging_face_config import read_channels
from xplain.models.hugging_face_files import Repository, describe_weights, find_weights
from xplain.models.hugging_face_modules import adapt_network, find_processor, set_normalization
from xplain.models.hugging_face_weights import build_untrained, load_pretrained
from xplain.models.hugging_face_zero_shot import SUPPORTED, make_tower
from xplain.models.randomization import RANDOM, UNTRAINED
from xplain.models.zero_shot import make_embedder

PROJECTED = "WithProjection"  # end of the names of image towers with a projection, which AutoModel drops


class PooledEmbedding(nn.Module):
    """A model followed by its pooling: returns one embedding (B, D) per image.

    This is ``image_embeds`` or ``pooler_output`` if the model returns it. Otherwise it is the class token if the model has one, or the
    mean over the positions.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.has_class_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the embeddings of normalized images."""
        output = self.model(pixels)
        for name in ("image_embeds", "pooler_output"):
            value = getattr(output, name, None)
            if value is not None:
                return cast(Tensor, value.flatten(1))
        hidden = cast(Tensor, output.last_hidden_state)
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self.has_class_token else hidden.mean(dim=1)


def has_head(config: Any) -> bool:
    """Return whether the checkpoint of a configuration is an image classifier."""
    architectures = config.architectures if isinstance(config.architectures, list) else []
    return any(
        str(name).endswith(("ForImageClassification", "ForImageClassificationWithTeacher")) for name in architectures
    )


def load_embeddings(repository: Repository, config: Any, path: Path | None, side: int | None) -> Classifier:
    """Return a classifier whose outputs are the embedding of an image, without classes.

    path, side: as in ``load_hugging_face``. Raises UsageError if transformers has no model of this type that takes images, and
    InputError if the model cannot be loaded or its pooling has no trained weights.
    """
    model, record = _load_model(repository, config, path)
    if getattr(model, "main_input_name", None) != "pixel_values" and config.model_type not in SUPPORTED:
        raise UsageError(
            f"{repository.name!r} is a {config.model_type} model, which takes no images", "use an image model"
        )
    processor = find_processor(repository, config)
    if config.model_type in SUPPORTED:
        network: nn.Module = make_tower(model, config, None, side)
    else:
        network = PooledEmbedding(adapt_network(model, is_bgr=processor.is_bgr, side=side))
    classifier = make_embedder(network, repository.name, processor, record)
    set_normalization(classifier, processor, read_channels(config))
    return classifier


def _load_model(repository: Repository, config: Any, path: Path | None) -> tuple[Any, Weights]:
    """Return the model without a head in evaluation mode, with its own weights, those of a file or untrained ones, and their origin."""
    model_class = _find_class(repository, config)
    if path is None:
        files = find_weights(repository)
        options = _pooling_options(config, model_class, files)
        model = load_pretrained(repository, config, model_class, files, **options)
        return model.eval(), describe_weights(repository.source, files)
    model = build_untrained(repository, config, model_class).eval()
    if path == RANDOM:
        return model, UNTRAINED
    record = describe_weights_file(path)
    load_weights(model, read_weights(path), record.source)
    return model, record


def _find_class(repository: Repository, config: Any) -> Any:
    """Return the class of transformers that returns the embeddings. Raises UsageError if there is none."""
    import transformers

    architectures = config.architectures if isinstance(config.architectures, list) else []
    for name in architectures:
        found = getattr(transformers, str(name), None)
        if str(name).endswith(PROJECTED) and getattr(found, "config_class", None) is type(config):
            return found
    if type(config) not in transformers.AutoModel._model_mapping:
        raise UsageError(
            f"{repository.name!r} is a {config.model_type} model, which returns no embeddings of images",
            "use an image model such as vit, dinov2 or clip",
        )
    return transformers.AutoModel


def _pooling_options(config: Any, model_class: Any, files: list[Path]) -> dict[str, Any]:
    """Return the options that leave out a pooling layer without weights, as of DINO, whose embedding is the class token."""
    import transformers

    built = (
        transformers.AutoModel._model_mapping.get(type(config), None) if model_class is transformers.AutoModel else None
    )
    if built is None or "add_pooling_layer" not in inspect.signature(built.__init__).parameters:
        return {}
    return {} if any(".pooler." in f".{name}" for name in _tensor_names(files)) else {"add_pooling_layer": False}


def _tensor_names(files: list[Path]) -> list[str]:
    """Return the names of the tensors in safetensors files. Raises InputError if one cannot be read."""
    names: list[str] = []
    for path in files:
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="pt") as content:
                names += content.keys()
        except Exception as error:  # safetensors raises its own types
            raise InputError(f"cannot read {path.name}: {error}", "download it again") from None
    return names
