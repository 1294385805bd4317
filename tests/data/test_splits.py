"""Image sets in memory: folders, the seeded division, torchvision's files, and what cannot be used."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import toys
from tests.helpers.patches import make_set, write_set
from xplain.core.errors import InputError, UsageError
from xplain.data.datasets import read_dataset
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing
from xplain.data.splits import read_split


def write_classes(folder: Path, counts: dict[str, int], side: int = 4) -> Path:
    """Class folders of grey images; every image has a level of its own."""
    level = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (side, side), (level, level, level)).save(folder / name / f"{i:02}.png")
            level += 1
    return folder


def levels(images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def contents(images, classes) -> list[tuple[str, bytes]]:
    found = zip(images.pixels, images.labels.tolist(), strict=True)
    return sorted((classes[label], pixels.numpy().tobytes()) for pixels, label in found)


def test_train_and_test_folders_are_read_to_the_bit(tmp_path):
    data = make_set(12, 6)
    found, failed = read_split(str(write_set(data, tmp_path)))
    assert (failed, found.classes, found.origin) == ([], ("level", "upright"), "its train and test folders")
    for mine, theirs in ((found.train, data.train), (found.test, data.test)):
        assert contents(mine, found.classes) == contents(theirs, data.classes)


def test_class_folders_are_divided_by_the_seed_class_by_class(tmp_path):
    folder = str(write_classes(tmp_path / "set", {"a": 10, "b": 5, "c": 2}))
    found, _ = read_split(folder)
    assert torch.bincount(found.train.labels).tolist() == [8, 4, 1]
    assert torch.bincount(found.test.labels).tolist() == [2, 1, 1]
    assert sorted(levels(found.train) + levels(found.test)) == list(range(17))
    assert found.origin == "of each class, 80 % to train and 20 % to test, by seed 0"
    again, _ = read_split(folder)
    assert levels(again.test) == levels(found.test)
    others = {tuple(levels(read_split(folder, seed=seed)[0].test)) for seed in range(1, 6)}
    assert len(others - {tuple(levels(found.test))}) >= 3


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    found, _ = read_split(str(write_classes(tmp_path / "set", {"10": 2, "9": 2, "0": 2})))
    assert found.classes == ("0", "9", "10")


def test_so_many_of_each_class(tmp_path):
    found, _ = read_split(str(write_classes(tmp_path / "set", {"a": 10, "b": 5})), per_class=3)
    assert torch.bincount(found.train.labels).tolist() == [3, 3]
    assert torch.bincount(found.test.labels).tolist() == [2, 1]


def test_images_are_resized_only_when_asked(tmp_path):
    folder = write_classes(tmp_path / "set", {"a": 3, "b": 3})
    Image.new("RGB", (6, 8)).save(folder / "a" / "zz.png")
    with pytest.raises(UsageError, match=r"'a/zz\.png' has 8 x 6 pixels, the first image 4 x 4; give size=4"):
        read_split(str(folder))
    found, _ = read_split(str(folder), size=3)
    assert found.train.pixels.shape[1:] == (3, 3, 3)


def test_what_is_no_image_is_left_out_and_named(tmp_path):
    folder = write_set(make_set(8, 4), tmp_path)
    (folder / "train" / "level" / "bad.png").write_text("no picture")
    found, failed = read_split(str(folder))
    assert [each.name for each in failed] == ["train/level/bad.png"]
    assert (len(found.train), len(found.train.pixels), len(found.test)) == (8, 8, 4)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_any_image_is_refused(tmp_path, part):
    folder = write_set(make_set(4, 2), tmp_path)
    for path in (folder / part).glob("*/*.png"):
        path.write_text("no picture")
    with pytest.raises(InputError, match=rf"none of . images can be read, '{part}/level/001\.png' the first"):
        read_split(str(folder))


def write_idx(path: Path, array: np.ndarray) -> None:
    """The MNIST files' format."""
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def write_mnist(folder: Path) -> np.ndarray:
    """The pixels of five images to train on (3, 1, 4, 1, 5) and two to test on (9, 2), as torchvision keeps them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)
    for part, some in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels[some])
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[some])
    return pixels


def test_single_images_are_those_to_test_on(tmp_path):
    """For metrics of single images: the test part, in the order of the classes' names for a model that has none."""
    clf = toys.classifier(toys.Linear(torch.zeros(10, 3, 28, 28)), preprocessing=Preprocessing((28, 28), 28))
    pixels = write_mnist(tmp_path)
    items = read_dataset(f"torchvision:MNIST:{tmp_path}", clf.class_names)
    assert [(item.key, item.label, item.source.name) for item in items] == [
        ("test/0", 9, "test/0"), ("test/1", 2, "test/1")
    ]  # fmt: skip
    for item, expected in zip(items, pixels[5:], strict=True):
        assert np.array_equal(np.asarray(decode_image(item.source.read(), item.key)), np.stack([expected] * 3, axis=2))
    folder = write_set(make_set(4, 2), tmp_path / "parts")
    assert {item.key: item.label for item in read_dataset(str(folder), clf.class_names)} == {
        "test/level/001.png": 0, "test/upright/000.png": 1
    }  # fmt: skip


def test_torchvisions_mnist(tmp_path):
    pixels = write_mnist(tmp_path)
    found, failed = read_split(f"torchvision:MNIST:{tmp_path}")
    assert failed == []
    assert np.array_equal(found.train.pixels.numpy(), np.repeat(pixels[:5, None], 3, axis=1))
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([3, 1, 4, 1, 5], [9, 2])
    assert (len(found.classes), found.origin) == (10, "torchvision's MNIST")


def test_torchvisions_cifar10(tmp_path, monkeypatch):
    """A small file in CIFAR-10's format, whose digests are put in the place of the real ones'."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    train = write("one", {"data": pixels[:3].reshape(3, -1), "labels": [6, 9, 9]})
    test = write("two", {"data": pixels[3:].reshape(2, -1), "labels": [3, 8]})
    meta = write("meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "train_list", [["one", train]])
    monkeypatch.setattr(CIFAR10, "test_list", [["two", test]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": meta})
    found, _ = read_split(f"torchvision:CIFAR10:{tmp_path}")
    assert np.array_equal(found.train.pixels.numpy(), pixels[:3])
    assert np.array_equal(found.test.pixels.numpy(), pixels[3:])
    assert (found.train.labels.tolist(), found.test.labels.tolist(), found.classes) == ([6, 9, 9], [3, 8], tuple(names))


@pytest.mark.parametrize(
    ("location", "kind", "text"),
    [
        ("torchvision:CIFAR10:nowhere", InputError, "no whole CIFAR10 in 'nowhere'; get it once by python -c "),
        ("torchvision:CIFAR11:x", UsageError, "cannot read the data set 'torchvision:CIFAR11:x'; did you mean"),
        ("torchvision:CIFAR10", UsageError, "cannot read the data set 'torchvision:CIFAR10'; write torchvision:NAME:ROOT"),
        ("nowhere", InputError, "no folder 'nowhere' to train on; give class folders, or torchvision:CIFAR10:ROOT"),
        ("flat", InputError, "'flat/a.png' lies in no class folder; give class folders to train on"),
        ("single", InputError, "the class 'b' has one image, none to test on; give two or more of each class"),
        ("unknown", InputError, "the class 'c' of 'unknown/test' is not among those to train on; leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(tmp_path, monkeypatch, location, kind, text):
    monkeypatch.chdir(tmp_path)
    Path("flat").mkdir()
    Image.new("RGB", (4, 4)).save("flat/a.png")
    write_classes(Path("single"), {"a": 2, "b": 1})
    write_classes(Path("unknown/train"), {"a": 2, "b": 2})
    write_classes(Path("unknown/test"), {"a": 1, "c": 1})
    with pytest.raises(kind) as error:
        read_split(location)
    assert str(error.value).startswith(text)
    assert "\n" not in str(error.value)


def test_sets_that_do_not_fit_are_refused_before_they_are_read(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "set", {"a": 4, "b": 4})
    monkeypatch.setattr("xplain.data.splits.MOST_BYTES", 8 * 3 * 4 * 4 - 1)
    with pytest.raises(InputError, match=r"8 images of 4 x 4 take .* of memory; give size=32, or per_class=N"):
        read_split(str(folder))
