"""Hugging Face models as networks: adapt their input, and read size, classes and outputs of those in memory from their config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xplain.core.errors import InputError, UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.models.classifier import Classifier
from xplain.models.hugging_face_config import (
    read_channels,
    read_image_size,
    read_labels,
    read_output_kind,
)
from xplain.models.hugging_face_files import Repository, open_repository, read_json
from xplain.models.image_processors import ImageProcessor, default_processor, read_image_processor

NO_PROCESSOR_NOTE = (
    "the normalization of the model is not known, so its pixels are in [0, 1]; "
    "pass load_classifier(model, processor=...) to use that of its image processor"
)


class AdaptedNetwork(nn.Module):
    """A Hugging Face model whose input is changed before it runs.

    is_bgr: reverse the channels. interpolate: interpolate the position embeddings to the size of the images.
    patch_size: side of the patches of a NaFlex model, which takes flattened patches instead of images; 0 for other models.
    """

    def __init__(
        self, model: nn.Module, *, is_bgr: bool = False, interpolate: bool = False, patch_size: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.is_bgr = is_bgr
        self.interpolate = interpolate
        self.patch_size = patch_size
        self.config = getattr(model, "config", None)
        self.main_input_name = getattr(model, "main_input_name", None)

    def forward(self, pixels: Tensor) -> object:
        """Return the output of the model for normalized pixels (B, 3, H, W)."""
        if self.is_bgr:
            pixels = pixels.flip(1)
        if self.patch_size:
            return self.model(**split_into_patches(pixels, self.patch_size))
        if self.interpolate:
            return self.model(pixels, interpolate_pos_encoding=True)
        return self.model(pixels)


def split_into_patches(pixels: Tensor, side: int) -> dict[str, Tensor]:
    """Return the arguments of a NaFlex model for images (B, C, H, W): patches (B, N, side * side * C), mask and grid shapes."""
    rows, channels, height, width = pixels.shape
    patches = F.unfold(pixels, side, stride=side).mT.unflatten(2, (channels, side, side)).permute(0, 1, 3, 4, 2)
    shapes = torch.tensor([[height // side, width // side]] * rows, device=pixels.device)
    mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
    return {"pixel_values": patches.flatten(2), "pixel_attention_mask": mask, "spatial_shapes": shapes}


def adapt_network(model: nn.Module, *, is_bgr: bool, side: int | None) -> nn.Module:
    """Return the model, wrapped if its input must be changed. side: requested image size, or None for the model's own."""
    config = cast(Any, model).config
    interpolate = side is not None and read_image_size(config) != (side, side) and _can_interpolate(model)
    patch_size = config.vision_config.patch_size if getattr(config, "model_type", "") == "siglip2" else 0
    if not (is_bgr or interpolate or patch_size):
        return model
    return AdaptedNetwork(model, is_bgr=is_bgr, interpolate=interpolate, patch_size=patch_size)


def _can_interpolate(model: nn.Module) -> bool:
    """Return whether the model can interpolate its position embeddings to other image sizes."""
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def naflex_size(config: Any) -> tuple[int, int] | None:
    """Return the largest square (height, width) of a NaFlex model, or None for another model."""
    if getattr(config, "model_type", "") != "siglip2":
        return None
    vision = config.vision_config
    side = int(vision.num_patches**0.5) * vision.patch_size
    return side, side


def is_hugging_face(model: nn.Module) -> bool:
    """Return whether a module is a model of transformers that takes images. transformers is not imported."""
    config = getattr(model, "config", None)
    return hasattr(config, "to_dict") and getattr(model, "main_input_name", None) == "pixel_values"


def complete_from_config(classifier: Classifier, processor: object, side: int | None, offline: bool) -> None:
    """Set size, names, channels and outputs of a Hugging Face model in memory by its config, and the rest by its processor.

    Attributes ``size``, ``mean``, ``std``, ``labels`` and ``wnids`` that the user has set on the module are kept.
    processor: an image processor, its content as a dictionary, or a folder or repository; None if unknown.
    side: requested image size, or None. offline: do not download the processor's file.
    Raises UsageError if the processor is of another type, and InputError if it is invalid.
    """
    model = classifier.model
    config = model.config if is_hugging_face(model) else None
    if config is None and processor is None:
        return
    has_size, has_mean = (_is_set(model, name) for name in ("size", "mean"))
    size = None if config is None else naflex_size(config) or read_image_size(config)
    if config is not None:
        _set_classes(classifier, config)
        if size is not None and not has_size:
            classifier.preprocessing = Preprocessing.for_size(size)
            classifier.assumptions.discard("size")
    found = None
    if processor is not None:
        found = read_processor(processor, getattr(config, "model_type", ""), size, offline)
    if found is not None and not has_size:
        classifier.preprocessing = found.preprocessing
    if found is not None and not has_mean:
        set_normalization(classifier, found, getattr(config, "num_channels", None))
    if found is not None:
        classifier.notes.extend(found.notes)
        classifier.assumptions.clear()
    if found is None and not has_mean:
        classifier.notes.append(NO_PROCESSOR_NOTE)
        classifier.assumptions.discard("normalization")
        set_channels(classifier, read_channels(config))
    is_bgr = found is not None and found.is_bgr
    if config is not None:
        classifier.model = adapt_network(model, is_bgr=is_bgr, side=side)
    elif is_bgr:
        classifier.model = AdaptedNetwork(model, is_bgr=True)


def _is_set(model: nn.Module, attribute: str) -> bool:
    """Return whether the user has set an attribute of a module, which is not one of its tensors or methods."""
    value = getattr(model, attribute, None)
    return value is not None and not callable(value)


def _set_classes(classifier: Classifier, config: Any) -> None:
    """Set the class names and the meaning of the outputs."""
    wnids, labels = read_labels(classifier.name, config)
    if not classifier.labels and not classifier.wnids:
        classifier.labels, classifier.wnids = labels, wnids
    classifier.output, _ = read_output_kind(config)


def set_normalization(classifier: Classifier, processor: ImageProcessor, channels: int | None) -> None:
    """Set mean and std of a classifier to those of a processor. channels: the number of input channels, if it is known.

    Equal values of all channels apply to any number of channels.
    """
    mean, std = processor.mean, processor.std
    if channels is not None and channels != len(mean) and len(set(mean)) == len(set(std)) == 1:
        mean, std = mean[:1] * channels, std[:1] * channels
    for name, values in (("mean", mean), ("std", std)):
        tensor = torch.tensor(values, dtype=torch.float64).to(classifier.mean)
        setattr(classifier, name, tensor[:, None, None])
    classifier.channels = len(mean)


def set_channels(classifier: Classifier, channels: int | None) -> None:
    """Set the channels of a classifier without normalization, if their number is known."""
    if channels is None or channels == len(classifier.mean):
        return
    classifier.mean = classifier.mean.new_zeros((channels, 1, 1))
    classifier.std = classifier.std.new_ones((channels, 1, 1))
    classifier.channels = channels


def read_processor(processor: object, model_type: str, size: tuple[int, int] | None, offline: bool) -> ImageProcessor:
    """Return the preprocessing of an image processor, of its content, or of the processor file in a folder or repository.

    Raises UsageError for any other type, and InputError if there is no such file or its content is invalid.
    """
    if isinstance(processor, str | PathLike):
        reference = fspath(processor).removeprefix("hf:")
        content = read_processor_file(open_repository(f"hf:{reference}", reference, offline))
        if content is None:
            raise InputError(f"{reference!r} has no preprocessor_config.json", "pass the folder of an image processor")
        return read_image_processor(content, model_type, size)
    if hasattr(processor, "image_processor"):
        processor = processor.image_processor
    if hasattr(processor, "to_dict"):
        processor = processor.to_dict()
    if not isinstance(processor, Mapping):
        hint = "pass an image processor of transformers, or the folder of one"
        raise UsageError(f"the processor is of type {type(processor).__name__}", hint)
    return read_image_processor(processor, model_type, size)


def read_processor_file(repository: Repository) -> dict[str, Any] | None:
    """Return the content of preprocessor_config.json, or of processor_config.json if it describes images, or None."""
    path = repository.find("preprocessor_config.json")
    if path is not None:
        return read_json(repository, path)
    path = repository.find("processor_config.json")
    if path is None:
        return None
    content = read_json(repository, path).get("image_processor")
    return content if isinstance(content, dict) else None


def find_processor(repository: Repository, config: Any) -> ImageProcessor:
    """Return the image preparation of a model: of its processor file, or the default."""
    size = naflex_size(config) or read_image_size(config)
    if config.model_type == "timm_wrapper":
        return _timm_processor(config)
    content = read_processor_file(repository)
    if content is None:
        return default_processor(size)
    try:
        return read_image_processor(content, config.model_type, size)
    except InputError as error:
        raise InputError(f"{repository.name}: {error.message}", error.hint) from None


def _timm_processor(config: Any) -> ImageProcessor:
    """Return the image preparation of a timm model in the format of transformers."""
    import timm

    from xplain.models.timm_models import make_preprocessing

    settings = getattr(config, "pretrained_cfg", None) or timm.get_pretrained_cfg(config.architecture).to_dict()
    data = timm.data.resolve_data_config(settings)
    return ImageProcessor(make_preprocessing(data), tuple(data["mean"]), tuple(data["std"]))
