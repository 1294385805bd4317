"""Read weight files without executing code in them, match them to a network, hash them, and find downloaded files."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from xplain.core.errors import InputError, emit_note, first_line
from xplain.models.classifier import Weights

State = Mapping[str, Tensor]

# Keys under which training scripts save the state dict. Averages over the training come first: they are what is evaluated.
AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
STATE_KEYS = ("state_dict", "model_state_dict", "model")
# Parts of a name's prefix that mark averaged weights.
AVERAGED_PREFIXES = frozenset((*AVERAGED_KEYS, "ema_model", "module_ema"))
WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.", "ema.", "ema_model.", "model_ema.")
# Types that training scripts save with the tensors. Unpickling one of them runs no code from the file.
NUMPY_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
SAFE_TYPES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int64")),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file.

    Raises InputError if the file is missing, damaged or a program, or contains anything but tensors and plain values.
    """
    _check_exists(path)
    try:
        content = _load_file(path)
    except InputError:
        raise
    except pickle.UnpicklingError:
        raise InputError(
            f"the weights file {str(path)!r} contains pickled objects other than tensors, which are not loaded",
            "save only the state dict with torch.save(model.state_dict(), FILE) or use a .safetensors file",
        ) from None
    except Exception as error:  # corrupted files raise many types
        raise InputError(
            f"cannot read the weights file {str(path)!r}: {first_line(error)}", "use a .pth or .safetensors file"
        ) from None
    return _unwrap_state_dict(content, path)


def _load_file(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    _check_archive(path)
    with torch.serialization.safe_globals(SAFE_TYPES):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"weights file {str(path)!r} not found", "check --weights")


def _check_archive(path: Path) -> None:
    """Raise InputError if the file is a program (which would have to be run) or a zip bomb."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    kind = _program_kind([entry.filename for entry in entries])
    if kind:
        raise InputError(
            f"{str(path)!r} contains a program, which is not executed when loading weights",
            f"if you trust the file, load it as a model with --model {kind}:{path}",
        )
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > size:  # torch.save does not compress tensors
        raise InputError(
            f"the weights file {str(path)!r} is compressed ({size} bytes expand to {unpacked})",
            "save it again with torch.save",
        )


def _program_kind(names: Sequence[str]) -> str:
    """Return ``script`` for the archive of a TorchScript program, ``export`` for an exported one, else ``""``."""
    inner_names = ["/".join(name.split("/")[1:]) for name in names]  # without the archive's top folder
    if any(name.startswith("code/") for name in inner_names):
        return "script"
    if "archive_format" in inner_names or any(name.startswith("serialized_exp") for name in names):
        return "export"
    return ""


def _unwrap_state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """Return the mapping of names to tensors inside the dictionaries that training scripts save."""
    for key in (*AVERAGED_KEYS, *STATE_KEYS):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping) and content[key]:
            if key in AVERAGED_KEYS:
                _note_averaged(str(path), key)
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"the weights file {str(path)!r} does not contain a state dict",
            "save it with torch.save(model.state_dict(), FILE)",
        )
    return {str(name): tensor for name, tensor in content.items()}


def load_weights(model: nn.Module, state: State, source: str) -> None:
    """Load a state dict into a model, after removing the prefix of a wrapper from its names.

    source: the file or model that the state comes from, for messages.
    Raises InputError with the first missing and unknown names and different shapes. Batch counters may be missing.
    """
    expected = model.state_dict()
    state = match_names(state, expected, source)
    missing = [name for name in expected if name not in state and not _is_counter(name)]
    unknown = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        _list_problems(label, names)
        for label, names in (("missing keys", missing), ("unexpected keys", unknown), ("size mismatch", shapes))
        if names
    ]
    if problems:
        raise InputError(
            f"the weights from {source} do not match the model: {', '.join(problems)}", "check --model and --weights"
        )
    versioned = OrderedDict(state)
    # Names and shapes are those of the current model, and so is the version. Some networks (MNASNet) need it.
    versioned._metadata = expected._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)


def _list_problems(label: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{label} ({', '.join(names[:3])}{more})"


def match_names(state: State, expected: State, source: str) -> State:
    """Return the entries of ``state`` that belong to the model, under the names of the model's state dict.

    Training wrappers add a prefix to every name (``module.``, ``model.``, ``_orig_mod.``), and some also save other networks,
    such as a loss, in the same file. If there are several sets of weights, the averaged set is used.

    expected: state dict of the model.
    source: name of the file or model, used in error messages.
    Raises InputError if the set of weights to use is ambiguous.
    """
    prefixes = _complete_prefixes(state, expected)
    if not prefixes:
        return _remove_wrapper_prefixes(state, expected)
    prefix = _choose_prefix(prefixes, source)
    if prefix:
        return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    others = tuple(other for other in prefixes if other)
    return {name: tensor for name, tensor in state.items() if not name.startswith(others)}


def _complete_prefixes(state: State, expected: State) -> list[str]:
    """Return the prefixes under which ``state`` contains all names of the model's state dict, with ``""`` for no prefix."""
    needed = [name for name in expected if not _is_counter(name)]
    if not needed:
        return []
    candidates = [name.removesuffix(needed[0]) for name in state if name.endswith(needed[0])]
    return [
        prefix for prefix in candidates if prefix[-1:] in ("", ".") and all(prefix + name in state for name in needed)
    ]


def _choose_prefix(prefixes: Sequence[str], source: str) -> str:
    """Return the prefix of the averaged weights if there is one, else ``""``, else the only prefix."""
    averaged = [prefix for prefix in prefixes if AVERAGED_PREFIXES & set(prefix.split("."))]
    if len(averaged) == 1:
        if len(prefixes) > 1:
            _note_averaged(source, averaged[0])
        return averaged[0]
    if "" in prefixes:
        return ""
    if len(prefixes) > 1:
        raise InputError(
            f"{source!r} contains {len(prefixes)} sets of weights (prefixes {', '.join(prefixes)})",
            "save only the set to use",
        )
    return prefixes[0]


def _remove_wrapper_prefixes(state: State, expected: State) -> State:
    """Remove the usual prefixes, so that messages call missing tensors as the model does."""
    for prefix in WRAPPER_PREFIXES * 2:
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in expected):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def count_finetuned_classes(state: State, expected: State, source: str) -> int | None:
    """Return the number of classes of a fine-tuned model, or None if ``state`` does not come from one.

    It comes from one if tensors differ from the model's in their first side only, and all of them in the same way.
    expected: state dict of the model with its usual number of classes. source: for messages.
    """
    state = match_names(state, expected, source)
    shapes = [(state[name].shape, tensor.shape) for name, tensor in expected.items() if name in state]
    different = [(shape, usual) for shape, usual in shapes if shape != usual]
    if any(len(shape) != len(usual) or shape[1:] != usual[1:] for shape, usual in different):
        return None
    first_sides = {(shape[0], usual[0]) for shape, usual in different}
    return first_sides.pop()[0] if len(first_sides) == 1 else None


def _note_averaged(source: str, key: str) -> None:
    emit_note(f"{source!r} contains averaged weights; using {key!r}")


def describe_weights_file(path: Path) -> Weights:
    """Return the path of a weights file and the SHA-256 of its bytes. Raises InputError if it does not exist."""
    _check_exists(path)
    with path.open("rb") as stream:
        return Weights(str(path), hashlib.file_digest(stream, "sha256").hexdigest())


def hash_tensors(model: nn.Module) -> str:
    """Return the SHA-256 of a model's parameters and buffers with their names, for weights that come from no file."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def download_path(url: str) -> Path:
    """Return the path to which torchvision and timm download ``url`` (below TORCH_HOME). The file need not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def missing_download_error(path: Path, name: str) -> InputError:
    """Return the error for the model ``name`` with --offline if ``path`` does not exist."""
    return InputError(
        f"weights of {name} not found at {path}, and --offline disables downloads",
        "put the file there or use --weights FILE",
    )
