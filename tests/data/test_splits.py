"""Tests of xplain.data.splits."""

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
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.data.datasets import read_dataset
from xplain.data.images import decode_image
from xplain.data.preprocessing import Preprocessing
from xplain.data.splits import read_split


def write_classes(folder: Path, counts: dict[str, int], side: int = 4) -> Path:
    """Write class folders of gray images, each with a different gray level."""
    level = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (side, side), (level, level, level)).save(folder / name / f"{i:02}.png")
            level += 1
    return folder


def read_levels(images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def sort_contents(images, classes) -> list[tuple[str, bytes]]:
    pairs = zip(images.pixels, images.labels.tolist(), strict=True)
    return sorted((classes[label], pixels.numpy().tobytes()) for pixels, label in pairs)


def test_read_split_from_train_and_test(tmp_path):
    data = make_set(12, 6)
    split, failed = read_split(str(write_set(data, tmp_path)))
    assert (failed, split.classes, split.origin) == ([], ("level", "upright"), "predefined train and test folders")
    for images, expected in ((split.train, data.train), (split.test, data.test)):
        assert sort_contents(images, split.classes) == sort_contents(expected, data.classes)


def test_read_split_divides_each_class(tmp_path):
    folder = str(write_classes(tmp_path / "set", {"a": 10, "b": 5, "c": 2}))
    split, _ = read_split(folder)
    assert torch.bincount(split.train.labels).tolist() == [8, 4, 1]
    assert torch.bincount(split.test.labels).tolist() == [2, 1, 1]
    assert sorted(read_levels(split.train) + read_levels(split.test)) == list(range(17))
    assert split.origin == "80%/20% split of each class into training and test images, seed 0"
    again, _ = read_split(folder)
    assert read_levels(again.test) == read_levels(split.test)
    others = {tuple(read_levels(read_split(folder, seed=seed)[0].test)) for seed in range(1, 6)}
    assert len(others - {tuple(read_levels(split.test))}) >= 3


def test_numbered_classes_sort_numerically(tmp_path):
    split, _ = read_split(str(write_classes(tmp_path / "set", {"10": 2, "9": 2, "0": 2})))
    assert split.classes == ("0", "9", "10")


def test_per_class_limits_both_parts(tmp_path):
    split, _ = read_split(str(write_classes(tmp_path / "set", {"a": 10, "b": 5})), per_class=3)
    assert torch.bincount(split.train.labels).tolist() == [3, 3]
    assert torch.bincount(split.test.labels).tolist() == [2, 1]


def test_images_are_resized_only_with_size(tmp_path):
    folder = write_classes(tmp_path / "set", {"a": 3, "b": 3})
    Image.new("RGB", (6, 8)).save(folder / "a" / "zz.png")
    with pytest.raises(UsageError, match=r"'a/zz\.png' has 8 x 6 pixels, but the first image has 4 x 4; set size=4"):
        read_split(str(folder))
    split, _ = read_split(str(folder), size=3)
    assert split.train.pixels.shape[1:] == (3, 3, 3)


def test_unreadable_image_is_reported(tmp_path):
    folder = write_set(make_set(8, 4), tmp_path)
    (folder / "train" / "level" / "bad.png").write_text("no picture")
    split, failed = read_split(str(folder))
    assert [failure.name for failure in failed] == ["train/level/bad.png"]
    assert (len(split.train), len(split.train.pixels), len(split.test)) == (8, 8, 4)


@pytest.mark.parametrize("part", ["train", "test"])
def test_part_without_readable_image_raises(tmp_path, part):
    folder = write_set(make_set(4, 2), tmp_path)
    for path in (folder / part).glob("*/*.png"):
        path.write_text("no picture")
    with pytest.raises(InputError, match=rf"none of . images can be read \(the first is '{part}/level/001\.png'\)"):
        read_split(str(folder))


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array in the format of the MNIST files."""
    path.write_bytes(
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def write_mnist(folder: Path) -> np.ndarray:
    """Write MNIST with five train images (labels 3, 1, 4, 1, 5) and two test images (9, 2). Returns the pixels."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5, 9, 2], dtype=np.uint8)
    for part, index in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels[index])
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[index])
    return pixels


def test_read_dataset_returns_test_part(tmp_path):
    """read_dataset returns the test part, with labels in the order of the data set's class names."""
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


def test_read_split_from_mnist(tmp_path):
    pixels = write_mnist(tmp_path)
    split, failed = read_split(f"torchvision:MNIST:{tmp_path}")
    assert failed == []
    assert np.array_equal(split.train.pixels.numpy(), np.repeat(pixels[:5, None], 3, axis=1))
    assert (split.train.labels.tolist(), split.test.labels.tolist()) == ([3, 1, 4, 1, 5], [9, 2])
    assert (len(split.classes), split.origin) == (10, "torchvision's MNIST")


def test_read_split_from_cifar10(tmp_path, monkeypatch):
    """Reads small files in the format of CIFAR-10, whose digests replace the real ones."""
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
    split, _ = read_split(f"torchvision:CIFAR10:{tmp_path}")
    assert np.array_equal(split.train.pixels.numpy(), pixels[:3])
    assert np.array_equal(split.test.pixels.numpy(), pixels[3:])
    assert (split.train.labels.tolist(), split.test.labels.tolist(), split.classes) == ([6, 9, 9], [3, 8], tuple(names))


@pytest.mark.parametrize(
    ("location", "kind", "text"),
    [
        ("torchvision:CIFAR10:nowhere", InputError, "CIFAR10 is missing or incomplete in 'nowhere'; download it with: python -c "),
        ("torchvision:CIFAR11:x", UsageError, "cannot read the data set 'torchvision:CIFAR11:x'; did you mean"),
        ("torchvision:CIFAR10", UsageError, "cannot read the data set 'torchvision:CIFAR10'; write torchvision:NAME:ROOT"),
        ("nowhere", InputError, "training dataset 'nowhere' not found; pass a directory of class folders or torchvision:CIFAR10:ROOT"),
        ("flat", InputError, "'flat/a.png' is not in a class folder; move every image into a class folder"),
        ("single", InputError, "class 'b' has fewer than two images, so none is left for testing; add images to this class"),
        ("unknown", InputError, "test class 'c' in 'unknown/test' is not a training class; remove its folder"),
    ],
)  # fmt: skip
def test_read_split_rejects_invalid_location(tmp_path, monkeypatch, location, kind, text):
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


def test_too_large_split_raises_before_reading(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "set", {"a": 4, "b": 4})
    monkeypatch.setattr("xplain.data.splits.MAX_BYTES", 8 * 3 * 4 * 4 - 1)
    with pytest.raises(InputError, match=r"8 images of 4 x 4 pixels require .* of memory; set size=32 or per_class=N"):
        read_split(str(folder))


def test_read_split_reports_untrained_folder(tmp_path):
    write_classes(tmp_path / "all", {"ant": 3, "bee": 0, "cow": 3})
    with pytest.warns(ModelNote, match="class folders without images are not trained: 1, such as 'bee'"):
        data, _ = read_split(str(tmp_path / "all"))
    assert data.classes == ("ant", "cow")
