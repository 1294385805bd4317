"""Tar shards as webdataset lays them out: which images they hold, where each lies, and what is written beside it.

Only the headers and the small label members are read here; an image's bytes are read by their location when its turn comes. The samples
are grouped by webdataset (extra ``webdataset``); its decoders and its URLs, which can run code, are not used.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError, UsageError
from xplain.data.sources import SUFFIXES, ImageSource

LONGEST_LABEL = 1 << 16  # bytes of a label member that are worth reading
LABEL_KEYS = ("label", "cls", "class", "class_id", "target")  # of a JSON object beside the image


@dataclass(frozen=True)
class MemberLocation:
    """Where a member's bytes lie in its tar file."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class Sample:
    """An image of a shard. key: shard and member. label: what is written beside it; ``sure``: by a ``.cls`` member."""

    key: str
    source: ImageSource
    label: str | None
    sure: bool


def find_shards(location: str) -> list[Path]:
    """The shards that ``location`` stands for: a ``.tar`` file, or a brace pattern such as ``shards-{0000..0003}.tar``."""
    if Path(location).is_file():
        return [Path(location)]
    paths = [Path(each) for each in _webdataset(location).shardlists.expand_urls(location)]
    for path in paths:
        if not path.is_file():
            raise InputError(f"no shard {str(path)!r}", "check the pattern; shards are local files")
    return paths


def read_shards(paths: Sequence[Path]) -> list[Sample]:
    """The images of the shards in order. Raises InputError when there is none, or a shard is no tar file."""
    library = _webdataset(str(paths[0]))
    top = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    found: dict[str, Sample] = {}
    for path in paths:
        name = path.absolute().relative_to(top).as_posix()
        try:
            for group in library.tariterators.group_by_keys(_members(path)):
                if (sample := _read_sample(group, name)) is None:
                    continue
                if sample.key in found:
                    raise InputError(f"{sample.key!r} is there twice", "give every image a name of its own")
                found[sample.key] = sample
        except (tarfile.TarError, OSError, ValueError) as error:
            why = error.args[0] if error.args and isinstance(error, ValueError) else error  # webdataset adds to them
            raise InputError(f"cannot read the shard {str(path)!r}: {why}", "give whole, uncompressed files") from None
    if not found:
        raise InputError(f"no image in {str(paths[0])!r} and {len(paths) - 1} more shards", "name members KEY.jpg")
    return list(found.values())


def _webdataset(location: str) -> Any:
    try:
        import webdataset
    except ModuleNotFoundError:
        raise UsageError(
            f"the data set {location!r} needs webdataset", "pip install 'xplain-vision[webdataset]'"
        ) from None
    return webdataset


def _members(path: Path) -> Iterator[dict[str, Any]]:
    """The regular members of a tar file with their places, as webdataset's grouping takes them."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isreg() and not member.issparse():
                location = MemberLocation(path, member.offset_data, member.size)
                yield {"fname": member.name, "data": location, "__url__": str(path)}
            tar.members = []  # type: ignore[attr-defined]  # the list would grow with the shard


def _read_sample(group: dict[str, Any], shard: str) -> Sample | None:
    """The first image of a group; None where it has none."""
    suffix = next((suffix for suffix in group if f".{suffix}" in SUFFIXES), None)
    if suffix is None:
        return None
    location: MemberLocation = group[suffix]
    key = f"{shard}/{group['__key__']}.{suffix}"
    source = ImageSource(
        location.path, key.removesuffix(f".{suffix}"), span=(location.start, location.size), member=key
    )
    if "cls" in group:
        return Sample(key, source, _read_text(group["cls"]), sure=True)
    label = _read_json(group["json"]) if "json" in group else None
    if label is None and "txt" in group:
        label = _read_text(group["txt"])
    return Sample(key, source, label, sure=False)


def _read_text(location: MemberLocation) -> str:
    """A small member as text; empty where it is none."""
    if location.size > LONGEST_LABEL:
        return ""
    with location.path.open("rb") as stream:
        stream.seek(location.start)
        return stream.read(location.size).decode("utf-8", "replace").strip()


def _read_json(location: MemberLocation) -> str | None:
    """The label in a JSON member: a number or a text, or an object that has exactly one of LABEL_KEYS."""
    try:
        found = json.loads(_read_text(location))
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        named = [found[key] for key in LABEL_KEYS if key in found]
        found = named[0] if len(named) == 1 else None
    return str(found) if isinstance(found, int | str) and not isinstance(found, bool) else None
