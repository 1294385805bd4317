"""Read a file of weights without executing anything in it, and put it into a network."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, ModelNote, first_line
from xplain.models.classifier import Weights

# Where training scripts put the state dict; averages over the training come first, since they are what is evaluated.
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLACES = ("state_dict", "model_state_dict", "model")
AVERAGED = frozenset((*AVERAGES, "ema_model", "module_ema"))  # in a prefix of names
PREFIXES = ("module.", "model.", "_orig_mod.", "ema.", "ema_model.", "model_ema.")
# Beside the tensors, what scripts save; building one of these runs nothing of the file's choice.
SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    *(type(np.dtype(each)) for each in ("float32", "float64", "int64")),
    (SCALAR, "numpy._core.multiarray.scalar"),
    (SCALAR, "numpy.core.multiarray.scalar"),
]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file. Raises InputError."""
    _check_there(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(path)
        else:
            _check_archive(path)
            with torch.serialization.safe_globals(INERT):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        hint = "save the state dict alone: torch.save(model.state_dict(), FILE), or a .safetensors file"
        raise InputError(
            f"the weights file {str(path)!r} holds more than tensors, and nothing is run from it", hint
        ) from None
    except InputError:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise InputError(
            f"cannot read the weights file {str(path)!r}: {first_line(error)}", "give a .pth or .safetensors file"
        ) from None
    return _state_dict(content, path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no weights file {str(path)!r}", "check --weights")


def _check_archive(path: Path) -> None:
    """Raise InputError for a program, which would have to be run, and for an archive that unpacks to far more than it holds."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = ["/".join(each.filename.split("/")[1:]) for each in entries]
    for kind, found in (
        ("script", any(name.startswith("code/") for name in names)),
        ("export", "archive_format" in names or any(each.filename.startswith("serialized_exp") for each in entries)),
    ):
        if found:
            hint = f"name it as the model, -m {kind}:{path}, if you trust it"
            raise InputError(f"the weights file {str(path)!r} is a program, and nothing is run from weights", hint)
    size, held = sum(each.file_size for each in entries), path.stat().st_size
    if size > held:  # tensors are saved as they are
        raise InputError(f"the weights file {str(path)!r} holds {held} bytes that unpack to {size}", "save it again")


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors, taken out of the wrappers that training scripts put around it."""
    for key in (*AVERAGES, *PLACES):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping) and content[key]:
            if key in AVERAGES:
                _note(f"{str(path)!r} holds averaged weights: {key!r} is used")
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"the weights file {str(path)!r} is not a state dict", "save model.state_dict()")
    return {str(name): tensor for name, tensor in content.items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put ``state`` into ``model``. Raises InputError naming the first keys and shapes that differ."""
    own = model.state_dict()
    state = match_names(state, own, source)
    missing = [name for name in own if name not in state and not _is_counter(name)]
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
    versioned = OrderedDict(state)
    # the names and shapes are those of the model as it is, and so is the version, without which some networks load nothing (MNASNet)
    versioned._metadata = own._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)


def match_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """The entries of ``state`` under the model's own names: what stands under a prefix, where all names stand under one.

    Training wrappers put a prefix before every name (``module.``, ``model.``, ``_orig_mod.``), some beside other networks' names,
    such as a loss's. Of several copies the averaged one is taken. Raises InputError for several of the same standing.
    """
    needed = [name for name in own if not _is_counter(name)]
    ends = [name.removesuffix(needed[0]) for name in state if needed and name.endswith(needed[0])]
    whole = [start for start in ends if start[-1:] in ("", ".") and all(start + name in state for name in needed)]
    if not whole:
        return _stripped(state, own)
    averaged = [start for start in whole if AVERAGED & set(start.split("."))]
    if len(averaged) == 1 and len(whole) > 1:
        _note(f"{source!r} holds averaged weights: {averaged[0]!r} is used")
    chosen = averaged if len(averaged) == 1 else [start for start in whole if not start] or whole
    if len(chosen) > 1:
        raise InputError(
            f"{source!r} holds the weights {len(chosen)} times: under {', '.join(chosen)}",
            "save the ones that are meant",
        )
    others = tuple(start for start in whole if start and start != chosen[0])
    if not chosen[0]:
        return {name: tensor for name, tensor in state.items() if not (others and name.startswith(others))}
    return {name.removeprefix(chosen[0]): tensor for name, tensor in state.items() if name.startswith(chosen[0])}


def _stripped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without the usual prefixes, so that what is missing is named as the model names it."""
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def count_finetuned_classes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> int | None:
    """The number of classes of a fine-tuned model: where only the first side of some tensors differs, all alike; else None.

    own: of the model with its usual number of classes.
    """
    state = match_names(state, own, source)
    pairs = [
        (state[name].shape, own[name].shape) for name in own if name in state and state[name].shape != own[name].shape
    ]
    found = {(theirs[0], ours[0]) for theirs, ours in pairs if theirs[1:] == ours[1:] and len(theirs)}
    return next(iter(found))[0] if len(found) == 1 and all(theirs[1:] == ours[1:] for theirs, ours in pairs) else None


def _note(text: str) -> None:
    warnings.warn(text, ModelNote, stacklevel=1)


def describe_weights_file(path: Path) -> Weights:
    """The record of a weights file: its path and the SHA-256 of its bytes. Raises InputError when it is not there."""
    _check_there(path)
    with path.open("rb") as stream:
        return Weights(str(path), hashlib.file_digest(stream, "sha256").hexdigest())


def hash_tensors(model: nn.Module) -> str:
    """The SHA-256 of a model's parameters and buffers under their names, for weights that came from no file."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def download_path(url: str) -> Path:
    """The file that torchvision and timm download ``url`` to (below TORCH_HOME), whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def missing_download_error(path: Path, name: str) -> InputError:
    """What is said when the weights of the model ``name`` are not there and may not be fetched."""
    return InputError(
        f"the weights of {name} are not there as {path}, and --offline downloads nothing",
        "put the file there, or give --weights FILE",
    )
