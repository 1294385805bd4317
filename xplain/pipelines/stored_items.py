"""Check that the labels and the images of a run are those of its stored results, before and while it is continued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from xplain.core.errors import InputError, UsageError
from xplain.core.files import FileState
from xplain.core.run_store import RunStore, StoredItem
from xplain.data.class_names import ClassNames
from xplain.data.datasets import Item
from xplain.data.images import sha256
from xplain.data.loading import LoadedImage


def check_stored_items(store: RunStore, items: Sequence[Item], class_names: ClassNames) -> None:
    """Compare the items that a run has stored with the data set.

    A file is hashed only if its size or times are not those at which it had the stored hash; the new state is then stored.
    Raises UsageError naming the first label or image that differs, and InputError if an image cannot be read.
    """
    stored = [item for item in items if item.key in store.items]
    _check_labels(store, stored, class_names)
    unsure = [item for item in stored if not _is_unchanged(store, item)]
    with ThreadPoolExecutor(4) as pool:
        hashed = list(pool.map(lambda item: _hash(store, item), unsure))
    digests = [image.digest for image in hashed]
    _check_digests(store, unsure, digests)
    store.append(
        [
            {"key": item.key, "mark": "file", "sha256": image.digest, "file": image.state}
            for item, image in zip(unsure, hashed, strict=True)
            if image.state is not None
        ]
    )


def check_loaded_items(store: RunStore, items: Sequence[Item], loaded: Sequence[LoadedImage]) -> None:
    """Raise UsageError if an image that was read is not the one whose results are stored."""
    stored = [(item, image.digest) for item, image in zip(items, loaded, strict=True) if item.key in store.items]
    _check_digests(store, [item for item, _ in stored], [digest for _, digest in stored])


def _check_labels(store: RunStore, items: Sequence[Item], class_names: ClassNames) -> None:
    def describe(label: int | None, labels: tuple[int, ...] | None = None) -> str:
        if labels is not None and len(labels) != 1:
            return " and ".join(map(describe, labels)) or "none"
        if label is None:
            return "none"
        name = class_names.labels[label] if label in range(len(class_names.labels)) else None
        return str(label) if name is None else f"{label} ({name})"

    changed = _find_changed(store, items, lambda item, known: (item.label, item.labels) != (known.label, known.labels))
    if changed:
        item = changed[0]
        known = store.items[item.key]
        old, new = describe(known.label, known.labels), describe(item.label, item.labels)
        raise UsageError(
            f"{str(store.folder)!r} holds a run with other labels: its label of {item.key!r} is {old}, not {new}"
            f"{_and_others(changed)}",
            "choose another --output or restore the labels",
        )


def _check_digests(store: RunStore, items: Sequence[Item], digests: Sequence[str]) -> None:
    """Raise UsageError unless the items have the stored hashes."""
    digest_by_key = {item.key: digest for item, digest in zip(items, digests, strict=True)}
    changed = _find_changed(store, items, lambda item, known: digest_by_key[item.key] != known.sha256)
    if changed:
        raise UsageError(
            f"{str(store.folder)!r} holds results of other images: the bytes of {changed[0].key!r} have changed since"
            f"{_and_others(changed)}",
            "choose another --output or restore the files",
        )


def _find_changed(store: RunStore, items: Sequence[Item], is_changed: Callable[[Item, StoredItem], bool]) -> list[Item]:
    return [item for item in items if is_changed(item, store.items[item.key])]


def _and_others(changed: Sequence[Item]) -> str:
    """Return how many more items have changed than the first."""
    return f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""


class _HashedFile(NamedTuple):
    digest: str
    state: FileState | None


def _is_unchanged(store: RunStore, item: Item) -> bool:
    state = item.source.state()
    return state is not None and store.is_unchanged(item.key, state)


def _hash(store: RunStore, item: Item) -> _HashedFile:
    """Hash an image. Raises InputError if it cannot be read."""
    state = item.source.state()  # before reading, so that a later change is noticed
    try:
        return _HashedFile(sha256(item.source.read()), state)
    except InputError as error:
        raise InputError(
            f"{str(store.folder)!r} holds results of {item.key!r}, which cannot be read: {error}"
        ) from None
