"""Build models of transformers, with the weights of a folder or untrained, and refuse weights that do not match the configuration."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xplain.core.errors import InputError, device_error, first_line
from xplain.models.hugging_face_files import Repository, hub_disabled


def build_untrained(repository: Repository, config: Any, auto_class: Any) -> nn.Module:
    """Return a model with untrained weights in float32. Raises InputError if it cannot be built."""
    try:
        with hub_disabled(), redirect_stdout(sys.stderr):
            return auto_class.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # models raise many types for invalid configurations
        raise _load_error(repository, error) from None


def load_pretrained(
    repository: Repository, config: Any, auto_class: Any, files: list[Path], **options: Any
) -> nn.Module:
    """Return a model with the weights in its folder, in float32.

    options: arguments of the model.
    Raises InputError if weights are missing or do not have the shapes that the configuration describes.
    """
    try:
        with hub_disabled(), redirect_stdout(sys.stderr):
            model, info = auto_class.from_pretrained(
                files[0].parent,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # models raise many types for invalid files
        raise _load_error(repository, error) from None
    if info["mismatched_keys"]:
        raise _mismatch_error(repository, config, sorted(info["mismatched_keys"]))
    if info["missing_keys"]:
        raise _missing_error(repository, config, sorted(info["missing_keys"]))
    return model


def _load_error(repository: Repository, error: Exception) -> Exception:
    known = device_error(error)
    if known is not None:
        return known
    hint = "install it" if isinstance(error, ImportError) else "check config.json and model.safetensors"
    return InputError(f"cannot load {repository.name}: {first_line(error)}", hint)


def _mismatch_error(repository: Repository, config: Any, mismatches: list[Any]) -> InputError:
    """Return the error of tensors of other shapes. mismatches: (name, shape in the file, shape by the configuration)."""
    sides = {(tuple(stored[:1]), tuple(expected[:1])) for _, stored, expected in mismatches}
    is_head = all(
        stored[1:] == expected[1:] and expected[:1] == (config.num_labels,)
        for _, stored, expected in ((name, tuple(stored), tuple(expected)) for name, stored, expected in mismatches)
    )
    if is_head and len(sides) == 1:
        ((stored, _),) = sides
        return InputError(
            f"config.json of {repository.name!r} has {config.num_labels} classes, but the weights have {stored[0]}",
            "correct id2label in config.json",
        )
    name, stored, expected = mismatches[0]
    return InputError(
        f"the weights of {repository.name!r} do not match config.json: {name} is {tuple(stored)}, not {tuple(expected)}",
        "use the config.json that belongs to the weights",
    )


def _missing_error(repository: Repository, config: Any, names: list[str]) -> InputError:
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING as ZERO_SHOT

    shown = " and ".join(names[:2]) if len(names) < 3 else f"{', '.join(names[:2])} and {len(names) - 2} more tensors"
    hint = "it has no trained classification head; use a fine-tuned model"
    if type(config) in ZERO_SHOT:
        hint = "use --prompt to compare images with texts, or use a fine-tuned model"
    return InputError(f"{repository.name!r} has no weights for {shown}", hint)
