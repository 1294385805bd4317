"""Tests of xplain.data.datasets."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.helpers import toys
from tests.helpers.factories import imagenet_like
from tests.helpers.folders import make_files
from xplain.core.errors import InputError, ModelNote
from xplain.data.datasets import Item, match_folders_to_classes, read_dataset, select_items, select_shard
from xplain.data.sources import ImageSource
from xplain.models import Classifier, load_classifier


@pytest.fixture(scope="module")
def imagenet():
    return load_classifier(imagenet_like(), device="cpu")


def read_labels(location, classifier, **options) -> dict[str, int | None]:
    return {item.key: item.label for item in read_dataset(str(location), classifier.class_names, **options)}


def test_wnid_folders_match_classes(tmp_path, imagenet):
    make_files(tmp_path, "n02123159/a.JPEG", "n01440764/b.JPEG", "n07920052/c.jpg")
    assert read_labels(tmp_path, imagenet) == {"n01440764/b.JPEG": 0, "n02123159/a.JPEG": 282, "n07920052/c.jpg": 967}


def test_named_folders_match_classes(tmp_path, imagenet):
    make_files(tmp_path, "espresso/a.png", "tiger_cat/b.png")
    assert read_labels(tmp_path, imagenet) == {"tiger_cat/b.png": 282, "espresso/a.png": 967}


def make_model(count: int, labels: Sequence[str] = ()) -> Classifier:
    """Return a model with ``count`` classes and optional names."""
    model = toys.small_net(classes=count)
    model.size, model.labels = (8, 10), list(labels)
    return load_classifier(model, device="cpu")


def test_numbered_folders_are_class_indices(tmp_path):
    """Emits a note, because ImageFolder sorts these names in another order."""
    make_files(tmp_path, "10/a.png", "2/b.png", "0/c.png")
    with pytest.warns(
        ModelNote,
        match=r"folder names as class indices \('10' is class 10\)\. torchvision's ImageFolder sorts folder names as text",
    ):
        assert list(read_labels(tmp_path, make_model(11)).items()) == [("0/c.png", 0), ("2/b.png", 2), ("10/a.png", 10)]


def test_padded_numbers_emit_no_note(tmp_path):
    make_files(tmp_path, "00/a.png", "02/b.png", "10/c.png")
    model = make_model(11)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelNote)
        assert read_labels(tmp_path, model) == {"00/a.png": 0, "02/b.png": 2, "10/c.png": 10}


@pytest.mark.parametrize("labels", [(), ("a", "b", "c")])
def test_numbers_from_one_raise(tmp_path, labels):
    make_files(tmp_path, "1/a.png", "2/b.png", "3/c.png")  # numbered from 1
    with pytest.raises(InputError) as error:
        read_labels(tmp_path, make_model(3, labels))
    assert str(error.value) == (
        "folder '3' does not match any class: class index 3 is out of range (0 to 2); "
        "pass --classes with the folder names in the order of the classes"
    )


def test_numbers_match_class_names_first(tmp_path):
    """Class names in the order of torchvision's ImageFolder; also tests find_folder, for explain --target label."""
    model = make_model(3, ["1", "10", "2"])
    make_files(tmp_path, "1/a.png", "2/b.png", "10/c.png")
    assert read_labels(tmp_path, model) == {"1/a.png": 0, "10/c.png": 1, "2/b.png": 2}
    assert [model.class_names.find_folder(name) for name in ("1", "10", "2", "0")] == [0, 1, 2, 0]


def test_unnamed_classes_number_folders_in_order(tmp_path):
    make_files(tmp_path, "b/1.png", "a/1.png", "c/1.png")
    note = "the classes of SmallNet have no names; assuming that the sorted folders are classes 0 ('a') to 2 ('c')"
    with pytest.warns(ModelNote, match=f"^{re.escape(note)}$"):
        assert read_labels(tmp_path, make_model(3)) == {"a/1.png": 0, "b/1.png": 1, "c/1.png": 2}


def test_unnamed_classes_number_wnid_folders(tmp_path):
    make_files(tmp_path, "n02102040/1.png", "n01440764/1.png")
    with pytest.warns(ModelNote, match=r"classes 0 \('n01440764'\) to 1 \('n02102040'\)"):
        assert read_labels(tmp_path, make_model(2)) == {"n01440764/1.png": 0, "n02102040/1.png": 1}
    with pytest.raises(InputError, match=r"the folders are named by wnids \(n01440764, \.\.\.\), but the wnids"):
        read_labels(tmp_path, make_model(3))
    with pytest.raises(InputError, match=r"the folders are named by wnids \(n01440764, \.\.\.\), but the wnids"):
        read_labels(tmp_path, make_model(2, ["tench", "springer"]))


@pytest.mark.parametrize("count", [2, 4])
def test_wrong_folder_count_leaves_images_unlabeled(tmp_path, count):
    make_files(tmp_path, "b/1.png", "a/1.png", "c/1.png")
    note = (
        f"the images are not labeled, because SmallNet has {count} classes without names but there are 3 class folders "
        "('a', ...); pass a --classes file with one name per class"
    )
    with pytest.warns(ModelNote, match=re.escape(note)):
        items = read_dataset(str(tmp_path), make_model(count).class_names, None)
    assert [(item.key, item.label) for item in items] == [("a/1.png", None), ("b/1.png", None), ("c/1.png", None)]


def test_torchvision_class_order_is_kept(tmp_path):
    """FashionMNIST's names are not sorted."""
    names = ["T-shirt/top", "Trouser", "Pullover"]
    with pytest.warns(ModelNote, match=r"classes 0 \('T-shirt/top'\) to 2 \('Pullover'\)"):
        assert match_folders_to_classes(names, make_model(3).class_names) == {
            "T-shirt/top": 0,
            "Trouser": 1,
            "Pullover": 2,
        }


def test_number_above_class_count_raises(tmp_path, imagenet):
    make_files(tmp_path, "2/a.png", "1000/b.png")
    with pytest.raises(
        InputError, match=r"folder '1000' does not match any class: class index 1000 is out of range \(0 to 999\)"
    ):
        read_labels(tmp_path, imagenet)


def test_flat_folder_reads_labels_from_csv(tmp_path, imagenet):
    make_files(tmp_path / "flat", "a.png", "b.png")
    assert read_labels(tmp_path / "flat", imagenet) == {"a.png": None, "b.png": None}
    labels = tmp_path / "labels.csv"
    labels.write_text("file,class\na.png,n02123159\nb.png,967\n")
    assert read_labels(tmp_path / "flat", imagenet, labels=str(labels)) == {"a.png": 282, "b.png": 967}


def test_list_paths_are_relative_to_list(tmp_path, imagenet):
    make_files(tmp_path, "x/a.png", "b.png")
    (tmp_path / "list.txt").write_text("x/a.png\tespresso\nb.png\n")
    items = read_dataset(str(tmp_path / "list.txt"), imagenet.class_names)
    assert [(item.key, item.label) for item in items] == [("x/a.png", 967), ("b.png", None)]
    assert all(item.source.path.is_file() for item in items)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (
            ["espreso/a.png"],
            "folder 'espreso' does not match any class: unknown class 'espreso'; did you mean 'espresso'",
        ),
        (["n00000000/a.png"], "unknown class 'n00000000'"),
        (["a.txt"], "no images found in the directory"),
    ],
)
def test_invalid_dataset_raises(tmp_path, imagenet, files, text):
    make_files(tmp_path, *files)
    with pytest.raises(InputError, match=text):
        read_dataset(str(tmp_path), imagenet.class_names)


def test_list_line_without_file_raises(tmp_path, imagenet):
    make_files(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text("a.png\n\n/\n")
    with pytest.raises(
        InputError, match=r"line 3 of the list '.*list.txt' is not a file path; write one path per line"
    ):
        read_dataset(str(tmp_path / "list.txt"), imagenet.class_names)


def test_labels_csv_must_be_complete(tmp_path, imagenet):
    make_files(tmp_path / "flat", "a.png", "b.png")
    (tmp_path / "l.csv").write_text("a.png,1\n")
    with pytest.raises(InputError, match=r"has no label for 1 of the images, such as 'b\.png'"):
        read_dataset(str(tmp_path / "flat"), imagenet.class_names, str(tmp_path / "l.csv"))
    (tmp_path / "l.csv").write_text("a.png,1\nb.png,nonsense\n")
    with pytest.raises(InputError, match=r"line 2 .*unknown class 'nonsense'"):
        read_dataset(str(tmp_path / "flat"), imagenet.class_names, str(tmp_path / "l.csv"))


def test_random_choice_depends_on_seed_and_name_only():
    names = [f"{label}/{i}.png" for label in range(3) for i in range(20)] + ["2/\udcff.png"]  # bytes that are not UTF-8
    items = [Item(name, ImageSource(None, name, content=b""), int(name[0])) for name in names]
    chosen = {item.key for item in select_items(items, None, 5, 0)}
    assert [sum(key.startswith(f"{label}/") for key in chosen) for label in range(3)] == [5, 5, 5]
    assert {item.key for item in select_items(items[::-1], None, 5, 0)} == chosen
    assert {item.key for item in select_items([item for item in items if item.key in chosen], None, 5, 0)} == chosen
    assert chosen < {item.key for item in select_items(items, None, 6, 0)}
    assert len({frozenset(item.key for item in select_items(items, None, 5, seed)) for seed in range(20)}) == 20
    counts = Counter(item.key for seed in range(400) for item in select_items(items[:20], None, 5, seed))
    assert all(60 < counts[item.key] < 140 for item in items[:20])  # 100 on average, with a deviation of 9
    keys = [item.key for item in select_items(items, None, 5, 0)]
    assert keys == sorted(keys, key=names.index)  # in the order of the data set


def test_select_items_and_select_shard(tmp_path):
    make_files(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(5)))
    items = read_dataset(str(tmp_path), make_model(2).class_names)
    assert [i.key for i in select_items(items, None, 1)] == ["a/0.png", "b/0.png"]
    assert [i.key for i in select_items(items, 4, None)] == ["a/0.png", "a/2.png", "b/0.png", "b/2.png"]
    assert [i.key for i in select_items(items, 3, 2)] == ["a/0.png", "a/1.png", "b/0.png"]
    parts = [select_shard(items, k, 3) for k in range(3)]
    assert sorted(i.key for part in parts for i in part) == [i.key for i in items]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_empty_class_folder_keeps_its_number(tmp_path):
    make_files(tmp_path, "ant/1.png", "cow/1.png")
    (tmp_path / "bee").mkdir()
    with pytest.warns(ModelNote, match="1 folder without images counts as a class, such as 'bee'"):
        assert read_labels(tmp_path, make_model(3)) == {"ant/1.png": 0, "cow/1.png": 2}


def test_empty_folder_that_is_no_class_is_not_numbered(tmp_path):
    make_files(tmp_path, "ant/1.png", "cow/1.png")
    (tmp_path / "bee").mkdir()
    (tmp_path / ".cache").mkdir()
    assert read_labels(tmp_path, make_model(2)) == {"ant/1.png": 0, "cow/1.png": 1}
    assert read_labels(tmp_path, make_model(3, ["cow", "emu", "ant"])) == {"cow/1.png": 0, "ant/1.png": 2}


def test_empty_numbered_folder_shows_numbering_from_one(tmp_path):
    make_files(tmp_path, "1/a.png", "2/b.png")
    (tmp_path / "3").mkdir()
    with pytest.raises(
        InputError, match=r"folder '3' does not match any class: class index 3 is out of range \(0 to 2\)"
    ):
        read_labels(tmp_path, make_model(3))


def test_test_part_is_numbered_by_training_folders(tmp_path):
    make_files(tmp_path, "train/ant/1.png", "train/bee/1.png", "train/cow/1.png", "test/ant/2.png", "test/cow/2.png")
    with pytest.warns(ModelNote, match="such as 'bee'"):
        assert read_labels(tmp_path, make_model(3)) == {"test/ant/2.png": 0, "test/cow/2.png": 2}
