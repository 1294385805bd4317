"""Where torch keeps weights that were downloaded, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch

from xplain.core.errors import InputError


def downloaded(url: str) -> Path:
    """The file that torchvision and timm download ``url`` to (below TORCH_HOME), whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def not_downloaded(path: Path, name: str) -> InputError:
    """What is said when the weights of the model ``name`` are not there and may not be fetched."""
    return InputError(
        f"the weights of {name} are not there as {path}, and --offline downloads nothing",
        "put the file there, or give --weights FILE",
    )
