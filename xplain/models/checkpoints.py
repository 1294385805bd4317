"""Read a file of weights without executing anything in it, and put it into a network."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from xplain.errors import InputError
from xplain.models.classifier import Weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file. Raises InputError."""
    _check_there(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        hint = "save the state dict alone: torch.save(model.state_dict(), FILE), or a .safetensors file"
        raise InputError(
            f"the weights file {str(path)!r} holds more than tensors, and nothing is run from it", hint
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, Exception) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"cannot read the weights file {str(path)!r}: {first}", "give a .pth or .safetensors file"
        ) from None
    return _state_dict(content, path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no weights file {str(path)!r}", "check --weights")


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors, taken out of the wrappers that training scripts put around it."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"the weights file {str(path)!r} is not a state dict", "save model.state_dict()")
    return {str(name): tensor for name, tensor in content.items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put ``state`` into ``model``. Raises InputError naming the first keys and shapes that differ."""
    own = model.state_dict()
    for prefix in ("module.", "model."):  # what training wrappers put before every name
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (("missing", missing), ("unknown", extra), ("another shape", shapes))
        if names
    ]
    if problems:
        raise InputError(
            f"the weights of {source} do not fit the model: {'; '.join(problems)}", "check --model and --weights"
        )
    model.load_state_dict(state, strict=False)


def file_weights(path: Path) -> Weights:
    """The record of a weights file: its path and the SHA-256 of its bytes. Raises InputError when it is not there."""
    _check_there(path)
    with path.open("rb") as stream:
        return Weights(str(path), hashlib.file_digest(stream, "sha256").hexdigest())
