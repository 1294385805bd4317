"""Find the images and labels in tar shards of the webdataset layout.

Only tar headers and small label members are read here; an image is read later from its location in the file.
webdataset (the extra ``webdataset``) groups the members into samples; its decoders and URLs, which can run code, are not used.
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

MAX_LABEL_BYTES = 1 << 16  # longer members are no labels
LABEL_KEYS = ("label", "cls", "class", "class_id", "target")  # of a JSON object


@dataclass(frozen=True)
class MemberLocation:
    """The position of a member's bytes in its tar file."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class TarSample:
    """An image of a shard.

    key: shard and member. label: text of the label member, or None.
    must_be_class: the label comes from a ``.cls`` member, which must name a class; text from other members may be a caption.
    """

    key: str
    source: ImageSource
    label: str | None
    must_be_class: bool


def find_shards(location: str) -> list[Path]:
    """Return the shards of a ``.tar`` file or a brace pattern (``shards-{0000..0003}.tar``). Raises InputError if one is missing."""
    if Path(location).is_file():
        return [Path(location)]
    paths = [Path(name) for name in _import_webdataset(location).shardlists.expand_urls(location)]
    for path in paths:
        if not path.is_file():
            raise InputError(f"no shard {str(path)!r}", "check the pattern; shards must be local files")
    return paths


def read_shards(paths: Sequence[Path]) -> list[TarSample]:
    """Return the images of the shards in order. Raises InputError if there is none or a shard is not a tar file."""
    webdataset = _import_webdataset(str(paths[0]))
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    samples: dict[str, TarSample] = {}
    for path in paths:
        shard = path.absolute().relative_to(root).as_posix()
        try:
            for group in webdataset.tariterators.group_by_keys(_iterate_members(path)):
                sample = _make_sample(group, shard)
                if sample is None:
                    continue
                if sample.key in samples:
                    raise InputError(f"two images are named {sample.key!r}", "rename one of them")
                samples[sample.key] = sample
        except (tarfile.TarError, OSError, ValueError) as error:
            # webdataset appends arguments to its ValueErrors
            reason = error.args[0] if error.args and isinstance(error, ValueError) else error
            raise InputError(
                f"cannot read the shard {str(path)!r}: {reason}", "use complete, uncompressed tar files"
            ) from None
    if not samples:
        raise InputError(f"no image in {str(paths[0])!r} and {len(paths) - 1} more shards", "name members KEY.jpg")
    return list(samples.values())


def _import_webdataset(location: str) -> Any:
    try:
        import webdataset
    except ModuleNotFoundError:
        raise UsageError(
            f"the data set {location!r} requires webdataset", "pip install 'xplain-vision[webdataset]'"
        ) from None
    return webdataset


def _iterate_members(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the regular members of a tar file with their locations, as webdataset's ``group_by_keys`` expects them."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isreg() and not member.issparse():
                location = MemberLocation(path, member.offset_data, member.size)
                yield {"fname": member.name, "data": location, "__url__": str(path)}
            tar.members = []  # type: ignore[attr-defined]  # otherwise memory grows with the shard


def _make_sample(group: dict[str, Any], shard: str) -> TarSample | None:
    """Return the sample for the first image in a group of tar members, or None if the group has no image."""
    suffix = next((suffix for suffix in group if f".{suffix}" in SUFFIXES), None)
    if suffix is None:
        return None
    location: MemberLocation = group[suffix]
    stem = f"{shard}/{group['__key__']}"
    key = f"{stem}.{suffix}"
    source = ImageSource(location.path, stem, span=(location.start, location.size), member=key)
    if "cls" in group:
        return TarSample(key, source, _read_text(group["cls"]), must_be_class=True)
    label = _read_json_label(group["json"]) if "json" in group else None
    if label is None and "txt" in group:
        label = _read_text(group["txt"])
    return TarSample(key, source, label, must_be_class=False)


def _read_text(location: MemberLocation) -> str:
    """Return a member as text, or "" if it is too large for a label."""
    if location.size > MAX_LABEL_BYTES:
        return ""
    with location.path.open("rb") as stream:
        stream.seek(location.start)
        return stream.read(location.size).decode("utf-8", "replace").strip()


def _read_json_label(location: MemberLocation) -> str | None:
    """Return the label in a JSON member: a whole number, a text, or the value of an object that has exactly one of LABEL_KEYS."""
    try:
        value = json.loads(_read_text(location))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        labels = [value[key] for key in LABEL_KEYS if key in value]
        value = labels[0] if len(labels) == 1 else None
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
