"""Tables of images with several labels."""

from pathlib import Path

import pytest
from PIL import Image

from xplain.core.errors import InputError
from xplain.data.class_names import ClassNames
from xplain.data.datasets import Item, read_dataset, select_items, split_labels
from xplain.data.sources import ImageSource

NAMES = ClassNames(["cat", "dog", "sea; shore", "sun"], count=4)
KEYS = ["a.png", "b.png", "c d.png"]


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a table and returns the labels of the images."""
    for key in KEYS:
        Image.new("RGB", (4, 4)).save(tmp_path / key)

    def read_table(text: str) -> list:
        table = tmp_path.parent / f"{tmp_path.name}.csv"
        table.write_text(text, "utf-8")
        items = read_dataset(str(tmp_path), NAMES, str(table), has_label_sets=True)
        assert [item.key for item in items] == KEYS
        return [(item.label, item.labels) for item in items]

    return read_table


EXPECTED = [(0, (0, 1)), (3, (3,)), (None, ())]


@pytest.mark.parametrize(
    "text",
    [
        "a.png,cat;dog\nb.png,sun\nc d.png,\n",
        "file,labels\na.png,cat;dog\nb.png,sun\nc d.png,\n",
        "image,label\na.png,cat; dog\nb.png,3\nc d.png,\n",
        "a\t0;1\nb\tsun;\nc d\t\n",
        "c d.png,\nb.png,sun;sun\na.png,cat;1\n",
    ],
)
def test_labels_are_joined_by_semicolons(read, text):
    assert read(text) == EXPECTED


def test_name_with_a_semicolon(read):
    assert read("a,sea; shore\nb,sun\nc d,cat\n")[0] == (2, (2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,cat;dgo\nb.png,sun\nc d.png,\n", "line 1 of {!r}: unknown class 'dgo'; did you mean 'dog'?"),
        ("a.png,cat;9\nb.png,sun\nc d.png,\n", "line 1 of {!r}: class index 9 is out of range; write file,label;label;..."),
        ("b.png,sun\na.png;cat;dog\nc d.png,\n", "line 2 of {!r} has 1 column: 'a.png;cat;dog'; write file,label;label;... in"),
        ("a.png,cat\nb.png,sun\n", "{!r} has no label for 1 of the images, such as 'c d.png'; add a row for every file: write"),
        ("a.png,cat\na.png,dog\nb.png,sun\nc d.png,\n", "lines 1 and 2 of {!r} contradict each other: 'a.png' is 'cat' and 'dog'"),
    ],
)  # fmt: skip
def test_invalid_label_sets_are_refused(read, tmp_path, text, message):
    with pytest.raises(InputError) as refusal:
        read(text)
    assert str(refusal.value).startswith(message.format(str(tmp_path.parent / f"{tmp_path.name}.csv")))


def make(key: str, *labels: int) -> Item:
    return Item(key, ImageSource(None, key, content=b""), labels[0] if labels else None, labels)


def test_one_item_per_label():
    items = [make("a", 2, 0), make("b", 1), make("c"), Item("d", ImageSource(Path("d"), "d"), 3)]
    split = split_labels(items)
    assert [(item.key, item.label, item.image_key) for item in split] == [
        ("a#2", 2, "a"), ("a#0", 0, "a"), ("b", 1, "b"), ("d", 3, "d"),
    ]  # fmt: skip
    assert split[0].labels == (2, 0)


def test_per_class_counts_every_label():
    items = [make("a", 0, 1), make("b", 1), make("c", 1), make("d", 2, 0)]
    assert [item.key for item in select_items(items, None, 1)] == ["a", "d"]


def test_folders_of_values_have_no_classes(tmp_path):
    (tmp_path / "17").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "17" / "a.png")
    (item,) = read_dataset(str(tmp_path), NAMES, has_classes=False)
    assert (item.key, item.label, item.labels) == ("17/a.png", None, None)
