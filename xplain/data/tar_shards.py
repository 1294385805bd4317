"""Find the images and labels in tar shards of the webdataset layout.

Only tar headers and small label members are read here; an image is read later from its location in the file.
Of webdataset (the extra ``webdataset``) only brace patterns are used; its decoders and URLs, which can run code, are not.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xplain.core.errors import InputError, UsageError, emit_note
from xplain.core.text_files import decode_text
from xplain.data.compressed_tars import uncompressed_tar
from xplain.data.formats import describe_unread
from xplain.data.sources import ImageSource
from xplain.data.tar_members import Member, ShardMembers, read_bytes, read_members

MAX_LABEL_BYTES = 1 << 16  # longer members are no labels
LABEL_KEYS = ("label", "cls", "class", "class_id", "target")  # of a JSON object


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
            raise InputError(f"shard {str(path)!r} not found", "check the pattern (shards must be local files)")
    return paths


@dataclass
class SkippedMembers:
    """Names of members that are not used, or used with an assumption, in all shards."""

    images: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)

    def note(self) -> None:
        """Emit a note for each reason."""
        for names, text in (
            (
                self.images,
                "images that are not read (hidden files, links, or further images of a sample)",
            ),
            (self.labels, "labels without an image"),
            (self.repeated, "labels that repeat an equal label of the same name"),
            (self.shared, "images that share the label of another image"),
        ):
            if names:
                emit_note(f"tar shards: {text}: {len(names)}, such as {names[0]!r}")
        if self.unread:
            emit_note("; ".join(describe_unread(self.unread)))


def read_shards(paths: Sequence[Path]) -> list[TarSample]:
    """Return the images of the shards in order. Notes count the members that are not used.

    Raises InputError if there is no image or a shard is not a tar file.
    """
    _import_webdataset(str(paths[0]))
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    samples: dict[str, TarSample] = {}
    skipped = SkippedMembers()
    for path in paths:
        shard = path.absolute().relative_to(root).as_posix()
        for sample in _read_shard(path, shard, skipped):
            if sample.key in samples:
                raise InputError(f"two images are named {sample.key!r}", "rename one of them")
            samples[sample.key] = sample
    if not samples and skipped.unread:
        raise InputError(
            f"no image in {str(paths[0])!r} that can be used: {describe_unread(skipped.unread)[0]}",
            describe_unread(skipped.unread)[1],
        )
    if not samples:
        raise InputError(
            f"no images found in the shards (the first of {len(paths)} is {str(paths[0])!r})",
            "name the members KEY.jpg or KEY.png",
        )
    skipped.note()
    return list(samples.values())


def _read_shard(path: Path, shard: str, skipped: SkippedMembers) -> list[TarSample]:
    """Return the images of a shard, and add the members that are not used to ``skipped``."""
    samples = []
    used: set[Member] = set()
    try:
        members = read_members(uncompressed_tar(path), shard)
        for image in members.images:
            sample, label = _make_sample(image, members, shard)
            samples.append(sample)
            if label in used:
                skipped.shared.append(sample.key)
            used.update([label] if label else [])
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(
            f"cannot read the shard {str(path)!r}: {error}", "use complete, uncompressed tar files"
        ) from None
    lonely = [label for (_, suffix), label in members.labels.items() if suffix == "cls" and label not in used]
    skipped.images.extend(f"{shard}/{member.name}" for member in members.unused)
    skipped.labels.extend(f"{shard}/{member.name}" for member in lonely)
    skipped.repeated.extend(f"{shard}/{member.name}" for member in members.repeated)
    skipped.unread.extend(Path(shard, member.name) for member in members.unread)
    return samples


def _import_webdataset(location: str) -> Any:
    try:
        import webdataset
    except ModuleNotFoundError:
        raise UsageError(
            f"the dataset {location!r} requires webdataset", "install it with: pip install 'xplain-vision[webdataset]'"
        ) from None
    return webdataset


def _make_sample(image: Member, members: ShardMembers, shard: str) -> tuple[TarSample, Member | None]:
    """Return an image with its label, and the member that holds the label."""
    stem = f"{shard}/{image.stem}"
    key = f"{stem}.{image.suffix}"
    source = ImageSource(image.path, stem, span=(image.start, image.size), member=key)
    for member in members.find_labels(image):
        label = _read_json_label(member) if member.suffix == "json" else _read_text(member)
        if label is not None:
            return TarSample(key, source, label, must_be_class=member.suffix == "cls"), member
    return TarSample(key, source, None, must_be_class=False), None


def _read_text(member: Member) -> str:
    """Return a member as text, or "" if it is too large for a label."""
    content = read_bytes(member, MAX_LABEL_BYTES)
    try:
        return decode_text(content, "replace").strip()
    except ValueError:  # binary data
        return content.decode("utf-8", "replace").strip()


def _read_json_label(member: Member) -> str | None:
    """Return the label in a JSON member: a whole number, a text, or the value of an object that has exactly one of LABEL_KEYS."""
    try:
        value = json.loads(_read_text(member))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        labels = [value[key] for key in LABEL_KEYS if key in value]
        value = labels[0] if len(labels) == 1 else None
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None
