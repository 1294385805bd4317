"""Read small labeled data sets with a train and a test part into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xplain.core.errors import Failure, InputError, UsageError, did_you_mean
from xplain.core.rng import seed_of
from xplain.data.class_folders import list_class_folders, note_untrained_folders
from xplain.data.folders import SkippedFiles, is_output_folder
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import ImageSource, find_images

TORCHVISION = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST")
TEST_FRACTION = 0.2  # of a folder without train and test
MAX_BYTES = 16 * 2**30


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Labeled images in memory.

    pixels: uint8 (N, 3, H, W). labels: int64 (N,). removed: bool (N, H, W), the pixels that are replaced by the image's mean color.
    """

    pixels: Tensor
    labels: Tensor
    removed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def mean_colors(self) -> Tensor:
        """(N, 3, 1, 1) mean of each channel of each unmodified image, in [0, 1]."""
        area = self.pixels.shape[2] * self.pixels.shape[3]
        sums = self.pixels.sum(dim=(2, 3), keepdim=True, dtype=torch.int64)  # exact, so equal on every device
        return sums.float() / (255 * area)

    def batch(self, index: Tensor | slice) -> Tensor:
        """Return the images at ``index`` as float32 (n, 3, H, W) in [0, 1]."""
        x = self.pixels[index].float() / 255
        return x if self.removed is None else torch.where(self.removed[index][:, None], self.mean_colors[index], x)

    def to(self, device: torch.device) -> LabeledImages:
        """Return the images on a device."""
        removed = None if self.removed is None else self.removed.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), removed=removed)


@dataclass(frozen=True, eq=False)
class TrainTestSplit:
    """Images for training and for testing. classes: names by index. origin: how they were split, in words, for the record."""

    train: LabeledImages
    test: LabeledImages
    classes: tuple[str, ...]
    origin: str = ""

    def to(self, device: torch.device) -> TrainTestSplit:
        """Return the data set on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Entry:
    """An image that is not read yet. key: its name in the data set. read: returns it as 8-bit RGB."""

    key: str
    label: int
    read: Callable[[], Image.Image]


def read_split(
    location: str, size: int | None = None, per_class: int | None = None, seed: int = 0
) -> tuple[TrainTestSplit, list[Failure]]:
    """Read a data set with a train and a test part. Returns it and the images that cannot be read.

    location: one of
        a folder with the folders ``train`` and ``test``, both of class folders;
        a folder of class folders, each of which is split 80 : 20 at random;
        ``torchvision:NAME:ROOT``.
    size: side in pixels to which images are resized and cropped; None keeps the images, which must then have equal sizes.
    per_class: keep at most this number of images per class and part, the first ones.
    seed: seed of the random split.
    Raises InputError if the images cannot be used, and UsageError if their sizes differ.
    """
    train, test, classes, origin = find_entries(location, seed)
    if len(classes) < 2:
        raise InputError(f"training dataset {location!r} has one class, {classes[0]!r}", "add images of other classes")
    if per_class is not None:
        train = _first_of_each_class(train, per_class)
        test = _first_of_each_class(test, per_class)
    side = (size, size) if size is not None else _first_size(train)
    needed = 3 * side[0] * side[1] * (len(train) + len(test))
    if needed > MAX_BYTES:
        raise InputError(
            f"{len(train) + len(test)} images of {side[0]} x {side[1]} pixels require {needed / 2**30:.0f} GiB of memory",
            "set size=32 or per_class=N",
        )
    train_images, train_failures = _read_entries(train, side, resize=size is not None)
    test_images, test_failures = _read_entries(test, side, resize=size is not None)
    return TrainTestSplit(train_images, test_images, classes, origin), train_failures + test_failures


def find_entries(location: str, seed: int) -> tuple[list[Entry], list[Entry], tuple[str, ...], str]:
    """Return (train entries, test entries, class names, origin of the split). Arguments and errors as in ``read_split``."""
    if is_torchvision(location):
        return _find_in_torchvision(location)
    path = Path(location)
    if not path.is_dir():
        raise InputError(
            f"training dataset {location!r} not found", "pass a directory of class folders or torchvision:CIFAR10:ROOT"
        )
    if has_train_and_test(path):
        skipped = SkippedFiles()
        train, classes = _find_in_folder(path / "train", skipped, "train/")
        test, _ = _find_in_folder(path / "test", skipped, "test/", classes)
        skipped.emit_notes()
        return train, test, classes, "predefined train and test folders"
    skipped = SkippedFiles()
    entries, classes = _find_in_folder(path, skipped)
    skipped.emit_notes()
    train, test = _split_at_random(entries, classes, seed)
    percent = 100 * TEST_FRACTION
    return (
        train,
        test,
        classes,
        f"{100 - percent:.0f}%/{percent:.0f}% split of each class into training and test images, seed {seed}",
    )


def is_torchvision(location: str) -> bool:
    """Return whether a location is a torchvision data set (``torchvision:NAME:ROOT``)."""
    return location.startswith("torchvision:")


def has_train_and_test(path: Path) -> bool:
    """Return whether a folder holds the folders ``train`` and ``test``, both with folders inside."""
    return all(any(_is_class_folder(child) for child in path.glob(f"{part}/*")) for part in ("train", "test"))


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not is_output_folder(path)


def _find_in_folder(
    path: Path, skipped: SkippedFiles, prefix: str = "", classes: Sequence[str] = ()
) -> tuple[list[Entry], tuple[str, ...]]:
    """Find the images in the class folders of ``path``. ``skipped`` receives what is not read.

    Classes are ``classes``, or else the folder names, numbers in numeric order.
    """
    sources = find_images([str(path)], skipped=skipped)
    files = [source.path.relative_to(path) for source in sources if source.path is not None]
    for file in files:
        if len(file.parts) == 1:
            raise InputError(f"{str(path / file)!r} is not in a class folder", "move every image into a class folder")
    if not classes:
        note_untrained_folders(sorted(set(list_class_folders(path)) - {file.parts[0] for file in files}))
    names = sorted({file.parts[0] for file in files}, key=lambda name: (int(name) if name.isdecimal() else -1, name))
    for name in names:
        if classes and name not in classes:
            raise InputError(f"test class {name!r} in {str(path)!r} is not a training class", "remove its folder")
    index = {name: i for i, name in enumerate(classes or names)}
    entries = [
        Entry(prefix + file.as_posix(), index[file.parts[0]], partial(_decode, source))
        for source, file in zip(sources, files, strict=True)
    ]
    return entries, tuple(index)


def _decode(source: ImageSource) -> Image.Image:
    return decode_image(source.read(), source.name)


def _split_at_random(entries: Sequence[Entry], classes: Sequence[str], seed: int) -> tuple[list[Entry], list[Entry]]:
    """Draw TEST_FRACTION of the images of each class (at least one) for testing. Both parts keep the order of ``entries``."""
    members: dict[int, list[int]] = {}
    for i, entry in enumerate(entries):
        members.setdefault(entry.label, []).append(i)
    chosen: set[int] = set()
    for label, name in enumerate(classes):
        positions = members.get(label, [])
        if len(positions) < 2:
            raise InputError(
                f"class {name!r} has fewer than two images, so none is left for testing", "add images to this class"
            )
        generator = torch.Generator().manual_seed(seed_of(seed, "split", name))
        order = torch.randperm(len(positions), generator=generator).tolist()
        chosen.update(positions[k] for k in order[: max(1, round(TEST_FRACTION * len(positions)))])
    train = [entry for i, entry in enumerate(entries) if i not in chosen]
    test = [entry for i, entry in enumerate(entries) if i in chosen]
    return train, test


def _find_in_torchvision(location: str) -> tuple[list[Entry], list[Entry], tuple[str, ...], str]:
    """Find the images of ``torchvision:NAME:ROOT`` on disk. Downloads nothing."""
    import torchvision

    _, _, rest = location.partition(":")
    name, _, root = rest.partition(":")
    if name not in TORCHVISION or not root:
        usage = f"write torchvision:NAME:ROOT with {', '.join(TORCHVISION)}"
        hint = usage if name in TORCHVISION else did_you_mean(name, TORCHVISION, usage)
        raise UsageError(f"cannot read the data set {location!r}", hint)
    dataset_class = getattr(torchvision.datasets, name)
    try:
        train = dataset_class(root, train=True, download=False)
        test = dataset_class(root, train=False, download=False)
    except Exception:  # damaged files raise many types; torchvision verifies a file's hash before it unpickles the file
        command = f"from torchvision.datasets import {name}; {name}({root!r}, download=True)"
        raise InputError(
            f"{name} is missing or incomplete in {root!r}", f'download it with: python -c "{command}"'
        ) from None
    return _to_entries(train, "train"), _to_entries(test, "test"), tuple(train.classes), f"torchvision's {name}"


def _to_entries(dataset: Any, part: str) -> list[Entry]:
    """Convert a torchvision data set, which holds its images in one array."""
    arrays = np.asarray(dataset.data)
    labels = [int(label) for label in dataset.targets]
    return [Entry(f"{part}/{i}", label, partial(_to_rgb, arrays[i])) for i, label in enumerate(labels)]


def _to_rgb(array: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(array).convert("RGB")


def _first_of_each_class(entries: Sequence[Entry], count: int) -> list[Entry]:
    seen: dict[int, int] = {}
    selected = []
    for entry in entries:
        seen[entry.label] = seen.get(entry.label, 0) + 1
        if seen[entry.label] <= count:
            selected.append(entry)
    return selected


def _first_size(entries: Sequence[Entry]) -> tuple[int, int]:
    """Return the (height, width) of the first readable image."""
    for entry in entries:
        try:
            width, height = entry.read().size
        except InputError:
            continue
        return height, width
    raise _none_readable(entries)


def _none_readable(entries: Sequence[Entry]) -> InputError:
    return InputError(
        f"none of {len(entries)} images can be read (the first is {entries[0].key!r})", "use JPEG or PNG files"
    )


def _read_entries(
    entries: Sequence[Entry], side: tuple[int, int], *, resize: bool
) -> tuple[LabeledImages, list[Failure]]:
    """Read the images into one tensor. Returns them and the images that cannot be read."""
    pixels = torch.empty(len(entries), 3, *side, dtype=torch.uint8)

    def read(i: int) -> Failure | None:
        try:
            pixels[i] = _read_pixels(entries[i], side, resize=resize)
        except InputError as error:
            return Failure(entries[i].key, error)
        return None

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, range(len(entries))))
    failures = [failure for failure in results if failure is not None]
    labels = torch.tensor([entry.label for entry in entries])
    if len(failures) == len(entries):
        raise _none_readable(entries)
    if failures:
        readable = torch.tensor([failure is None for failure in results])
        pixels, labels = pixels[readable], labels[readable]
    return LabeledImages(pixels, labels), failures


def _read_pixels(entry: Entry, side: tuple[int, int], *, resize: bool) -> Tensor:
    """Return an image as uint8 (3, H, W). Raises UsageError if it is not resized and its size is not ``side``."""
    image = entry.read()
    if resize:
        return (preprocess(image, Preprocessing(side, min(side))) * 255).round().to(torch.uint8)
    if (image.height, image.width) != side:
        raise UsageError(
            f"{entry.key!r} has {image.height} x {image.width} pixels, but the first image has {side[0]} x {side[1]}",
            f"set size={min(side)}",
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
