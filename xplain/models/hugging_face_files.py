"""Find the files of a model in a folder or on the Hugging Face Hub, and turn off all network access while they are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError, UsageError, first_line
from xplain.models.checkpoints import describe_weights_file
from xplain.models.classifier import Weights

REPOSITORY = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^@\s]+))?")
CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"  # environment variable of transformers
SHARD = re.compile(r"[\w.-]+\.safetensors")


@dataclass
class Repository:
    """The files of one model: those of a folder, or those of one commit on the hub, which are downloaded when they are needed.

    name: the model's name in messages. folder: the folder, or None for a repository of the hub.
    revision: branch, tag or commit; the commit once the first file was found.
    offline: use only files in the hub's cache.
    """

    name: str
    folder: Path | None = None
    repo: str = ""
    revision: str | None = None
    offline: bool = False
    is_pinned: bool = False

    @property
    def source(self) -> str:
        """The origin of the files for records: the name of the model, with the commit of a repository."""
        if self.folder is not None:
            return self.name
        return f"{self.name.partition('@')[0]}@{self.revision}"

    def find(self, file: str) -> Path | None:
        """Return the path of a file, or None if the model has no such file. Raises InputError if the hub cannot be reached."""
        if self.folder is not None:
            local = self.folder / file
            return local if local.is_file() else None
        if self.is_pinned:
            cached = self._find_cached(file)
            if cached is not None:
                return Path(cached) if isinstance(cached, str) else None
        path = self._download(file)
        if path is not None and not self.is_pinned:
            self.revision, self.is_pinned = path.parent.name, True  # all files must come from this commit
        return path

    def require(self, file: str) -> Path:
        """Return the path of a file. Raises InputError if it does not exist."""
        path = self.find(file)
        if path is None:
            raise InputError(f"{self.name!r} has no {file}", "use the folder or the repository of a model")
        return path

    def _find_cached(self, file: str) -> object:
        """Return the path of a file in the hub's cache as text, another object if the repository has no such file, or None if unknown."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(self.repo, file, revision=self.revision)

    def _download(self, file: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        # local_files_only alone does not stop requests about the program that uses the hub.
        context = hub_disabled() if self.offline else nullcontext()
        try:
            with context:
                return Path(hf_hub_download(self.repo, file, revision=self.revision, local_files_only=self.offline))
        except LocalEntryNotFoundError as error:
            if self.is_pinned and self.offline:
                return None
            raise self._missing_error(error) from None
        except EntryNotFoundError:
            return None
        except Exception as error:  # hub clients raise many types
            raise self._missing_error(error) from None

    def _missing_error(self, error: Exception) -> InputError:
        if self.offline:
            return InputError(
                f"{self.name!r} is not in the cache of the Hugging Face Hub, and --offline disables downloads",
                f"download it once without --offline, or use {self.name.partition(':')[0]}:FOLDER with a copy of its files",
            )
        return InputError(
            f"cannot download {self.name}: {first_line(error)}",
            "check the name, log in with: hf auth login, or use --offline for a model in the cache",
        )


def open_repository(name: str, reference: str, offline: bool) -> Repository:
    """Return the repository that ``reference`` names: an existing folder, or ``REPO`` or ``REPO@REVISION`` on the hub.

    name: of the model in messages. Raises InputError if the reference is neither, and UsageError if huggingface_hub is not installed.
    """
    folder = Path(reference)
    if reference and folder.is_dir():
        return Repository(name, folder)
    match = REPOSITORY.fullmatch(reference)
    if match is None:
        raise InputError(
            f"{name!r} is neither a folder nor a repository", "name a folder, OWNER/NAME or OWNER/NAME@REVISION"
        )
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        raise UsageError(
            f"{name!r} requires huggingface_hub", "install it with: pip install 'xplain-vision[hf]'"
        ) from None
    is_offline = offline or bool(constants.HF_HUB_OFFLINE)
    return Repository(name, None, match["repo"], match["revision"], is_offline)


def find_weights(repository: Repository) -> list[Path]:
    """Return the safetensors files of a model: one file, or an index followed by the files that it names.

    Raises InputError if there are none, or if the index is invalid or names a file outside the model's folder.
    """
    single = repository.find("model.safetensors")
    if single is not None:
        return [single]
    index = repository.find("model.safetensors.index.json")
    if index is None:
        raise InputError(
            f"{repository.name!r} has no model.safetensors, and pickled weights are not loaded",
            "convert them to safetensors, or load the model in a python: factory",
        )
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        is_valid = all(SHARD.fullmatch(shard) for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_valid = False
    if not is_valid:
        raise InputError(
            f"model.safetensors.index.json of {repository.name!r} is invalid",
            "it must map names of tensors to .safetensors files in the same folder",
        )
    return [index, *(repository.require(shard) for shard in shards)]


def describe_weights(source: str, files: list[Path]) -> Weights:
    """Return the source and the SHA-256 of weights: of the file, or of the digests of several files in their order."""
    digests = [describe_weights_file(path).sha256 for path in files]
    if len(digests) == 1:
        return Weights(source, digests[0])
    return Weights(source, hashlib.sha256(" ".join(digests).encode()).hexdigest())


def read_json(repository: Repository, path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises InputError if the file contains anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read {path.name} of {repository.name!r}: {first_line(error)}", "it must be valid JSON"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path.name} of {repository.name!r} is not a JSON object", "use the file of a model")
    return content


@contextmanager
def hub_disabled() -> Iterator[None]:
    """Disable every request to the hub, the conversion of weights, progress bars and log messages inside the block."""
    from huggingface_hub import constants

    is_offline, conversion = constants.HF_HUB_OFFLINE, os.environ.get(CONVERSION)
    constants.HF_HUB_OFFLINE, os.environ[CONVERSION] = True, "1"
    try:
        with _silent_transformers():
            yield
    finally:
        constants.HF_HUB_OFFLINE = is_offline
        os.environ.pop(CONVERSION)
        if conversion is not None:
            os.environ[CONVERSION] = conversion


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Hide progress bars and log messages of transformers inside the block, if it is in use."""
    if "transformers" not in sys.modules:
        yield
        return
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
