"""Small labelled images, to train on and to test on, read into memory: class folders, or a data set of torchvision."""

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
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing, preprocess
from xplain.data.sources import ImageSource, find_images

TORCHVISION = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST")
TEST_SHARE = 0.2  # where the data set itself does not say
MOST_BYTES = 16 * 2**30


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Labelled images in memory.

    pixels: (N, 3, H, W) in 8 bits. labels: (N,). removed: (N, H, W) bool, the pixels that show the image's mean colour instead.
    """

    pixels: Tensor
    labels: Tensor
    removed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def colours(self) -> Tensor:
        """(N, 3, 1, 1) the mean of each channel of each unmodified image."""
        area = self.pixels.shape[2] * self.pixels.shape[3]
        sums = self.pixels.sum(dim=(2, 3), keepdim=True, dtype=torch.int64)  # exact, and the same on every device
        return sums.float() / (255 * area)

    def batch(self, some: Tensor | slice) -> Tensor:
        """(n, 3, H, W) float32 pixels in [0, 1] of some of the images."""
        x = self.pixels[some].float() / 255
        return x if self.removed is None else torch.where(self.removed[some][:, None], self.colours[some], x)

    def to(self, device: torch.device) -> LabeledImages:
        """The images on a device."""
        removed = None if self.removed is None else self.removed.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), removed=removed)


@dataclass(frozen=True, eq=False)
class TrainTestSplit:
    """Images to train on and images to test on. origin: how they were divided, for the record."""

    train: LabeledImages
    test: LabeledImages
    classes: tuple[str, ...]
    origin: str = ""

    def to(self, device: torch.device) -> TrainTestSplit:
        """The set on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


@dataclass(frozen=True)
class Entry:
    """An image that is to be read: its name within the data set, its class, and how to get it (8 bits, RGB)."""

    key: str
    label: int
    read: Callable[[], Image.Image]


def read_split(
    location: str, size: int | None = None, per_class: int | None = None, seed: int = 0
) -> tuple[TrainTestSplit, list[Failure]]:
    """The images of a data set, and those that could not be read.

    location: a folder with ``train`` and ``test``, which hold class folders; a folder of class folders, each of which is
    divided 80 : 20 by ``seed``; or ``torchvision:NAME:ROOT``.
    size: side to which images are resized and cropped; None: as they are, and then they must be alike.
    per_class: at most so many images of a class in either part, the first ones.
    Raises InputError when the images cannot be used, and UsageError when they differ in size.
    """
    train, test, classes, origin = find_entries(location, seed)
    if per_class is not None:
        train, test = _first_of_each(train, per_class), _first_of_each(test, per_class)
    side = (size, size) if size is not None else _size_of(train)
    if (needed := 3 * side[0] * side[1] * (len(train) + len(test))) > MOST_BYTES:
        raise InputError(
            f"{len(train) + len(test)} images of {side[0]} x {side[1]} take {needed / 2**30:.0f} GiB of memory",
            "give size=32, or per_class=N",
        )
    (first, lost), (second, more) = (_read(part, side, resize=size is not None) for part in (train, test))
    return TrainTestSplit(first, second, classes, origin), lost + more


def find_entries(location: str, seed: int) -> tuple[list[Entry], list[Entry], tuple[str, ...], str]:
    """(to train on, to test on, class names, where the division comes from). Raises as ``read_split``."""
    if is_torchvision(location):
        return _from_torchvision(location)
    path = Path(location)
    if not path.is_dir():
        raise InputError(f"no folder {location!r} to train on", "give class folders, or torchvision:CIFAR10:ROOT")
    if not has_parts(path):
        every, classes = _from_folder(path)
        train, test = _divide(every, classes, seed)
        return (
            train,
            test,
            classes,
            f"of each class, {100 * (1 - TEST_SHARE):.0f} % to train and {100 * TEST_SHARE:.0f} % to test, by seed {seed}",
        )
    train, classes = _from_folder(path / "train", "train/")
    test, _ = _from_folder(path / "test", "test/", classes)
    return train, test, classes, "its train and test folders"


def is_torchvision(location: str) -> bool:
    """Whether a data set is one that torchvision keeps."""
    return location.startswith("torchvision:")


def has_parts(path: Path) -> bool:
    """Whether a folder holds a set to train on and one to test on, and not classes."""
    return all(any(each.is_dir() for each in path.glob(f"{part}/*")) for part in ("train", "test"))


def _from_folder(path: Path, prefix: str = "", classes: Sequence[str] = ()) -> tuple[list[Entry], tuple[str, ...]]:
    """The images of the class folders in ``path``; the classes are those given, or the folders'."""
    sources = find_images([str(path)])
    inside = [each.path.relative_to(path) for each in sources if each.path is not None]
    if loose := next((each for each in inside if len(each.parts) == 1), None):
        raise InputError(f"{str(path / loose)!r} lies in no class folder", "give class folders to train on")
    folders = [each.parts[0] for each in inside]
    names = sorted(set(folders), key=lambda name: (int(name) if name.isdecimal() else -1, name))
    if classes and (unknown := next((name for name in names if name not in classes), None)):
        raise InputError(f"the class {unknown!r} of {str(path)!r} is not among those to train on", "leave it out")
    index = {name: i for i, name in enumerate(classes or names)}
    found = zip(sources, inside, folders, strict=True)
    return [Entry(prefix + i.as_posix(), index[f], partial(_decode, s)) for s, i, f in found], tuple(index)


def _decode(source: ImageSource) -> Image.Image:
    return decode_image(source.read(), source.name)


def _divide(entries: Sequence[Entry], classes: Sequence[str], seed: int) -> tuple[list[Entry], list[Entry]]:
    """Of each class, TEST_SHARE of the images (at least one) to test on, drawn by the seed; in their order."""
    held = set[int]()
    members: dict[int, list[int]] = {}
    for i, each in enumerate(entries):
        members.setdefault(each.label, []).append(i)
    for label, name in enumerate(classes):
        own = members.get(label, [])
        if len(own) < 2:
            raise InputError(f"the class {name!r} has one image, none to test on", "give two or more of each class")
        generator = torch.Generator().manual_seed(seed_of(seed, "split", name))
        drawn = torch.randperm(len(own), generator=generator).tolist()
        held.update(own[k] for k in drawn[: max(1, round(TEST_SHARE * len(own)))])
    return [e for i, e in enumerate(entries) if i not in held], [e for i, e in enumerate(entries) if i in held]


def _from_torchvision(location: str) -> tuple[list[Entry], list[Entry], tuple[str, ...], str]:
    """``torchvision:NAME:ROOT``, as torchvision keeps it on disk; nothing is downloaded."""
    import torchvision

    _, _, rest = location.partition(":")
    name, _, root = rest.partition(":")
    if name not in TORCHVISION or not root:
        near = did_you_mean(name, TORCHVISION) if name not in TORCHVISION else ""
        raise UsageError(
            f"cannot read the data set {location!r}",
            near or f"write torchvision:NAME:ROOT with {', '.join(TORCHVISION)}",
        )
    make = getattr(torchvision.datasets, name)
    try:
        train, test = (make(root, train=part, download=False) for part in (True, False))
    except Exception:  # damaged files raise many kinds; torchvision runs nothing of a file whose hash it does not know
        command = f"from torchvision.datasets import {name}; {name}({root!r}, download=True)"
        raise InputError(f"no whole {name} in {root!r}", f'get it once by python -c "{command}"') from None
    return _wrap(train, "train"), _wrap(test, "test"), tuple(train.classes), f"torchvision's {name}"


def _wrap(dataset: Any, part: str) -> list[Entry]:
    """The images of a torchvision data set, held as one array."""
    arrays, labels = np.asarray(dataset.data), [int(each) for each in dataset.targets]
    return [Entry(f"{part}/{i}", label, partial(_to_rgb, arrays[i])) for i, label in enumerate(labels)]


def _to_rgb(array: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(array).convert("RGB")


def _first_of_each(entries: Sequence[Entry], count: int) -> list[Entry]:
    seen: dict[int, int] = {}
    chosen = []
    for entry in entries:
        seen[entry.label] = seen.get(entry.label, 0) + 1
        if seen[entry.label] <= count:
            chosen.append(entry)
    return chosen


def _size_of(entries: Sequence[Entry]) -> tuple[int, int]:
    """(height, width) of the first image that can be read."""
    for entry in entries:
        try:
            width, height = entry.read().size
        except InputError:
            continue
        return height, width
    raise _nothing(entries)


def _nothing(entries: Sequence[Entry]) -> InputError:
    return InputError(
        f"none of {len(entries)} images can be read, {entries[0].key!r} the first", "give JPEG or PNG files"
    )


def _read(entries: Sequence[Entry], side: tuple[int, int], *, resize: bool) -> tuple[LabeledImages, list[Failure]]:
    """The images in one tensor, and those that are no images."""
    pixels = torch.empty(len(entries), 3, *side, dtype=torch.uint8)

    def read(i: int) -> Failure | None:
        try:
            pixels[i] = _pixels(entries[i], side, resize=resize)
        except InputError as error:
            return Failure(entries[i].key, error)
        return None

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, range(len(entries))))
    lost = [each for each in results if each is not None]
    labels = torch.tensor([entry.label for entry in entries])
    if len(lost) == len(entries):
        raise _nothing(entries)
    if lost:
        whole = torch.tensor([each is None for each in results])
        pixels, labels = pixels[whole], labels[whole]
    return LabeledImages(pixels, labels), lost


def _pixels(entry: Entry, side: tuple[int, int], *, resize: bool) -> Tensor:
    """(3, H, W) in 8 bits."""
    image = entry.read()
    if resize:
        return (preprocess(image, Preprocessing(side, min(side))) * 255).round().to(torch.uint8)
    if (image.height, image.width) != side:
        raise UsageError(
            f"{entry.key!r} has {image.height} x {image.width} pixels, the first image {side[0]} x {side[1]}",
            f"give size={min(side)}",
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
