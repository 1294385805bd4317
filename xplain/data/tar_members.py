"""Join the images of a tar shard with their labels by key."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xplain.core.errors import InputError
from xplain.data.formats import is_read_suffix, is_unread_image

LABEL_SUFFIXES = ("cls", "json", "txt")


@dataclass(frozen=True)
class Member:
    """A file in a shard.

    name: its path in the shard. stem: the name without its last suffix. suffix: the last suffix in lower case, without the dot.
    base: the name up to the first dot, which is webdataset's key of a sample.
    start, size: position of its bytes in the tar file.
    """

    name: str
    stem: str
    suffix: str
    base: str
    path: Path
    start: int
    size: int
    is_file: bool = True

    @classmethod
    def of(cls, info: tarfile.TarInfo, path: Path) -> Member:
        """Return a member from its tar header."""
        folder, slash, file = info.name.rpartition("/")
        stem, _, suffix = file.rpartition(".") if "." in file else (file, "", "")
        base = file.partition(".")[0]
        is_file = info.isreg() and not info.issparse()
        prefix = folder + slash
        return cls(info.name, prefix + stem, suffix.lower(), prefix + base, path, info.offset_data, info.size, is_file)

    @property
    def is_image(self) -> bool:
        """Whether the suffix is that of an image."""
        return is_read_suffix(f".{self.suffix}")

    @property
    def is_hidden(self) -> bool:
        """Whether the name starts with a dot, as that of the files that macOS adds to archives."""
        return self.name.rpartition("/")[2].startswith(".")

    def label_keys(self) -> Iterator[str]:
        """Yield the keys under which a label of an image may be stored, the longest first: ``a.b.c``, ``a.b``, ``a``."""
        key = self.stem
        while len(key) > len(self.base):
            yield key
            key = key.rpartition(".")[0]
        yield self.base


@dataclass(frozen=True)
class ShardMembers:
    """The images of a shard in order, and the label members by key and suffix.

    unused: images that are not used. repeated: label members that repeat another one. unread: images of other formats.
    """

    images: list[Member]
    labels: dict[tuple[str, str], Member]
    unused: list[Member]
    repeated: list[Member]
    unread: list[Member]

    def find_labels(self, image: Member) -> Iterator[Member]:
        """Yield the label members of an image: ``.cls`` first, and of each suffix the longest key first.

        Keys of other images are left to these.
        """
        keys = [key for key in image.label_keys() if key == image.stem or key not in self.stems]
        for suffix in LABEL_SUFFIXES:
            for key in keys:
                if (key, suffix) in self.labels:
                    yield self.labels[key, suffix]

    @cached_property
    def stems(self) -> frozenset[str]:
        """The keys of the samples that have an image."""
        return frozenset(image.stem for image in self.images)


def read_members(path: Path, shard: str) -> ShardMembers:
    """Read the members of an uncompressed tar file. shard: its name in messages.

    An image belongs to the sample of its name without suffix. Of several images of a sample, the first is used. An image whose name
    has another dot is a field of the sample before the dot, and not used, if that sample has an image and this one has no own label.
    Raises InputError if two members have the same name.
    """
    labels: dict[tuple[str, str], Member] = {}
    images: dict[str, Member] = {}
    names: set[str] = set()
    unused: list[Member] = []
    repeated: list[Member] = []
    unread: list[Member] = []
    for member in _iterate_members(path):
        if not member.is_image and member.suffix not in LABEL_SUFFIXES:
            unread.extend([member] if is_unread_image(Path(member.name)) and not member.is_hidden else [])
            continue
        if member.is_hidden or not member.is_file:
            unused.extend([member] if member.is_image else [])
        elif member.suffix in LABEL_SUFFIXES:
            first = labels.setdefault((member.stem, member.suffix), member)
            if first is not member:
                _check_equal(first, member, shard)
                repeated.append(member)
        else:
            name = f"{member.stem}.{member.suffix}"
            if name in names:
                raise InputError(f"two images are named {f'{shard}/{name}'!r}", "rename one of them")
            names.add(name)
            if images.setdefault(member.stem, member) is not member:
                unused.append(member)
    fields = [image for image in images.values() if _is_field(image, images, labels)]
    used = [image for image in images.values() if not _is_field(image, images, labels)]
    return ShardMembers(used, labels, unused + fields, repeated, unread)


def _iterate_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            if not info.isdir():
                yield Member.of(info, path)
            tar.members = []  # type: ignore[attr-defined]  # otherwise memory grows with the shard


def _check_equal(first: Member, second: Member, shard: str) -> None:
    """Raise InputError if two label members of one name have different contents."""
    if first.size != second.size or read_bytes(first) != read_bytes(second):
        raise InputError(
            f"two members of {shard!r} are named {second.name!r} and have different contents", "remove one of them"
        )


def read_bytes(member: Member, limit: int | None = None) -> bytes:
    """Return the bytes of a member, or b"" if it has more than ``limit`` bytes."""
    if limit is not None and member.size > limit:
        return b""
    with member.path.open("rb") as stream:
        stream.seek(member.start)
        return stream.read(member.size)


def _is_field(image: Member, images: dict[str, Member], labels: dict[tuple[str, str], Member]) -> bool:
    """Return whether an image is another field of a sample that has an image, such as ``a.mask.png`` beside ``a.jpg``.

    It is an image of its own if it has a ``.cls`` member, or another label of the kind that the sample has.
    """
    if image.stem == image.base or not any(key in images for key in list(image.label_keys())[1:]):
        return False
    own = [suffix for suffix in LABEL_SUFFIXES if (image.stem, suffix) in labels]
    return not any(suffix == "cls" or (image.base, suffix) in labels for suffix in own)
