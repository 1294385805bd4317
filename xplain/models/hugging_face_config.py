"""Read the configuration of a Hugging Face model: refuse or remove what would run code, load other files or change the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xplain.core.errors import InputError, UsageError, did_you_mean, first_line
from xplain.data.class_names import is_wnid
from xplain.models.hugging_face_files import Repository, read_json
from xplain.models.output_request import ONE_LABEL_NOTE
from xplain.models.outputs import OutputKind

# Keys that select code, kernels, data types or outputs; a model is built without them.
REMOVED_PREFIXES = ("attn_implementation", "_attn_implementation")
REMOVED_KEYS = frozenset(
    (
        "auto_map",
        "quantization_config",
        "transformers_weights",
        "custom_pipelines",
        "_name_or_path",
        "_commit_hash",
        "dtype",
        "torch_dtype",
        "experts_implementation",
        "_experts_implementation",
        "use_kernels",
        "gradient_checkpointing",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "use_return_dict",
        "torchscript",
    )
)
# Types of models that transformers calls image classifiers and that do not map pixels to classes, with the reason.
UNSUPPORTED = {
    "imagegpt": "takes color clusters instead of pixels",
    "shieldgemma2": "generates text from images and text",
}
# Types of models without a classification class in transformers.
WITHOUT_HEAD = ("dinov3_vit", "dinov3_convnext", "aimv2", "vjepa2")
FACTORY_HINT = "load it with a classification head of your own in a python: factory"


def read_config(repository: Repository) -> tuple[dict[str, Any], list[str]]:
    """Return the content of config.json without keys that could run code, and notes for the user.

    A configuration of timm, with ``architecture`` and without ``model_type``, is returned too.
    Raises InputError for quantized weights, adapters, other weight files and models that require their own code.
    """
    path = repository.find("config.json")
    if repository.find("adapter_config.json") is not None:
        raise InputError(
            f"{repository.name!r} is an adapter of another model",
            "merge it: model.merge_and_unload().save_pretrained(FOLDER)",
        )
    content = read_json(repository, path or repository.require("config.json"))
    for key, value in _iterate_items(content):
        if key == "quantization_config" and value:
            method = value.get("quant_method") if isinstance(value, dict) else None
            kind = f" ({method})" if isinstance(method, str) else ""
            raise InputError(
                f"the weights of {repository.name!r} are quantized{kind} and have no gradients",
                "use the floating-point weights",
            )
        if key == "transformers_weights" and value:
            raise InputError(
                f"config.json of {repository.name!r} names another file of weights (transformers_weights)",
                "remove that entry, and name the file model.safetensors",
            )
    notes = []
    if content.get("auto_map"):
        _require_known_type(repository, content)
        notes.append("the repository contains its own code (auto_map), which is not executed")
    return _remove_keys(content), notes


def _require_known_type(repository: Repository, content: dict[str, Any]) -> None:
    """Raise InputError if transformers does not know the model type, so that only the repository's code could build it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if content.get("model_type") not in CONFIG_MAPPING:
        raise InputError(
            f"{repository.name!r} requires its own code (auto_map in config.json), which is not executed",
            "if you trust it, load it in a python: factory",
        )


def _iterate_items(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of nested dictionaries and lists."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _iterate_items(value)
    elif isinstance(content, list):
        for value in content:
            yield from _iterate_items(value)


def _remove_keys(content: Any) -> Any:
    """Return nested dictionaries and lists without the keys that are removed."""
    if isinstance(content, list):
        return [_remove_keys(value) for value in content]
    if not isinstance(content, dict):
        return content
    return {
        key: _remove_keys(value)
        for key, value in content.items()
        if key not in REMOVED_KEYS and not key.startswith(REMOVED_PREFIXES)
    }


def make_config(repository: Repository, content: dict[str, Any]) -> Any:
    """Return the configuration object of transformers. Raises InputError if the type is unknown or the content is invalid."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = content.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        hint = did_you_mean(str(model_type), CONFIG_MAPPING, "update transformers, or load it in a python: factory")
        raise InputError(f"config.json of {repository.name!r} has the unknown model type {model_type!r}", hint)
    if model_type == "timm_wrapper":
        _check_timm_wrapper(repository, content)
    names = content.get("id2label")
    if isinstance(names, dict) and names and "num_labels" not in content:
        content = content | {"num_labels": len(names)}  # some types (PVT) have another default
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(content))
    except Exception as error:  # configurations validate their fields with many types
        raise InputError(
            f"config.json of {repository.name!r} is invalid: {first_line(error)}", "correct it, or load the model again"
        ) from None


def _check_timm_wrapper(repository: Repository, content: dict[str, Any]) -> None:
    """Raise InputError if a model of timm would be loaded from elsewhere, or with options that load files."""
    architecture, options = content.get("architecture"), content.get("model_args") or {}
    loads_files = not isinstance(options, dict) or any(
        key in ("checkpoint_path", "cache_dir", "scriptable", "exportable") or key.startswith("pretrained")
        for key in options
    )
    if not isinstance(architecture, str) or not architecture.replace(".", "").isidentifier() or loads_files:
        raise InputError(
            f"config.json of {repository.name!r} makes timm load other files", "remove model_args from config.json"
        )


def check_is_classifier(repository: Repository, config: Any) -> None:
    """Raise UsageError unless transformers has an image classifier of this type that maps pixels to classes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModel

    model_type = config.model_type
    if model_type in UNSUPPORTED:
        raise UsageError(f"{repository.name!r} is a {model_type} model, which {UNSUPPORTED[model_type]}", FACTORY_HINT)
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return
    hint = FACTORY_HINT
    if model_type not in WITHOUT_HEAD and type(config) in AutoModel._model_mapping:
        known = sorted(found.model_type for found in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING)
        hint = did_you_mean(model_type, known, "use an image classifier such as vit, convnext or resnet")
    raise UsageError(f"{repository.name!r} is a {model_type} model, which is not an image classifier", hint)


def read_labels(name: str, config: Any) -> tuple[list[str], list[str]]:
    """Return (wnids, names) of ``config.id2label``, each [] if unknown. Raises InputError unless its keys are 0, 1, 2, ...

    name: of the model, for messages.
    """
    table = getattr(config, "id2label", None) or {}
    try:
        names = {int(key): str(label) for key, label in table.items()}
    except (TypeError, ValueError, AttributeError):
        names = {-1: ""}
    if sorted(names) != list(range(len(names))):
        raise InputError(
            f"id2label of {name!r} does not number its classes 0, 1, 2, ...", "correct id2label in config.json"
        )
    labels = [names[index] for index in range(len(names))]
    if all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        return [], []
    return (labels if all(map(is_wnid, labels)) else []), labels


def read_output_kind(config: Any) -> tuple[OutputKind, list[str]]:
    """Return the meaning of the outputs by ``config.problem_type``, and notes for the user."""
    problem_type = getattr(config, "problem_type", None)
    if problem_type == "multi_label_classification":
        return OutputKind("sigmoid", source="config"), []
    if problem_type == "regression":
        return OutputKind("none", source="config"), []
    if problem_type is None and getattr(config, "num_labels", 0) == 1:
        return OutputKind("none", source="config"), [ONE_LABEL_NOTE]
    return OutputKind("softmax", source="config"), []


def read_image_size(config: Any) -> tuple[int, int] | None:
    """Return the (height, width) of a model's input by its configuration, or None if it has none."""
    for part in (config, getattr(config, "vision_config", None)):
        size = getattr(part, "image_size", None)
        if isinstance(size, int) and not isinstance(size, bool):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size):
            return size[0], size[1]
    return None


def read_channels(config: Any) -> int | None:
    """Return the number of input channels by the configuration, or None if it has none."""
    for part in (config, getattr(config, "vision_config", None)):
        channels = getattr(part, "num_channels", None)
        if isinstance(channels, int) and channels > 0:
            return channels
    return None
