"""Tests of xplain.data.label_files, list_files and ground_truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.devkit import write_meta
from xplain.core.errors import InputError, ModelNote
from xplain.data.class_names import ClassNames, load_imagenet_classes
from xplain.data.datasets import read_dataset

PETS = ClassNames(("cat", "dog", "guinea pig", "tench, Tinca tinca"), count=4)
WNIDS, NAMES = load_imagenet_classes()
IMAGENET = ClassNames(NAMES, WNIDS, 1000)


def read_table(folder: Path, files: str, table: str, classes: ClassNames = PETS, name: str = "labels.csv"):
    """Return the labels of files, whose names are separated by spaces (``?`` is a space in a name), by a table beside them."""
    for file in files.split(" "):
        path = folder / "val" / file.replace("?", " ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (folder / name).write_bytes(table.encode())
    return {item.key: item.label for item in read_dataset(str(folder / "val"), classes, str(folder / name))}


@pytest.mark.parametrize(
    "table",
    [
        "p.jpg,dog\nq.png,0\n",
        "Id;Category\np;dog\nq;cat\n",
        "p\tdog\r\nq\tcat",
        "p.jpg 1\nq.png 0\n",
        "val/p.jpg    1\n./q.png\t0\n",
        "label,split,filename\ndog,test,p.jpg\ncat,test,q.png\n",
        '"p.jpg", "dog"\n"q.png", "cat"\n',
        "p.jpg dog\nval\\q.png cat\n",
    ],
)
def test_label_file_forms(tmp_path, table):
    assert read_table(tmp_path, "p.jpg q.png", table) == {"p.jpg": 1, "q.png": 0}


def test_label_file_with_spaces_in_names(tmp_path):
    table = "my?pets/p?1.jpg guinea pig\nmy?pets/q.png 1\nmy?pets/r.png x\n".replace("?", " ")
    with pytest.raises(InputError, match=r"line 3 of .*: unknown class 'x'"):
        read_table(tmp_path, "my?pets/p?1.jpg my?pets/q.png", table)
    table = 'my?pets/p?1.jpg guinea pig\nmy?pets/q.png 1\nr?s.png,"tench, Tinca tinca"\n'.replace("?", " ")
    assert read_table(tmp_path, "my?pets/p?1.jpg my?pets/q.png r?s.png", table) == {
        "my pets/p 1.jpg": 2,
        "my pets/q.png": 1,
        "r s.png": 3,
    }


def test_label_file_of_absolute_paths(tmp_path):
    table = f"{tmp_path}/val/p.jpg,dog\n{tmp_path}/val/../val/q.jpg,cat\n../{tmp_path.name}/val/r.jpg,1\n"
    assert read_table(tmp_path, "p.jpg q.jpg r.jpg", table) == {"p.jpg": 1, "q.jpg": 0, "r.jpg": 1}


def test_label_file_reads_kaggle_solution(tmp_path):
    table = (
        "ImageId,PredictionString\nILSVRC2012_val_00048981,n03995372 85 1 499 272 \n"
        "ILSVRC2012_val_00037956,n03481172 131 0 499 254 n03481172 1 2 3 4\n"
    )
    files = "ILSVRC2012_val_00037956.JPEG ILSVRC2012_val_00048981.JPEG"
    assert list(read_table(tmp_path, files, table, IMAGENET).values()) == [
        WNIDS.index("n03481172"),
        WNIDS.index("n03995372"),
    ]
    with pytest.raises(InputError, match=r"line 3 of .*: it names several classes: n01440764, n03481172"):
        read_table(tmp_path, files, table.replace("n03481172 1 2", "n01440764 1 2"), IMAGENET)


def test_label_file_reads_ilsvrc_val_txt(tmp_path):
    files = "ILSVRC2012_val_00000001.JPEG ILSVRC2012_val_00000002.JPEG"
    table = "ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\nILSVRC2012_val_00000003.JPEG 230\n"
    with pytest.warns(ModelNote, match=r"1 of the rows of '.*' name no image of the data set, such as line 3"):
        assert list(read_table(tmp_path, files, table, IMAGENET).values()) == [65, 970]
    with pytest.raises(InputError, match="numbers the images and is no class"):
        read_table(tmp_path, files, "ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000002 2\n", IMAGENET)


IDS = {2: "n01751748", 1: "n02105855", 490: "n03481172", 1001: "n00001740"}  # invented; 1001 is no class of the model


@pytest.mark.parametrize("place", [".", "..", "data", "../data", "../../ILSVRC2012_devkit_t12/data"])
@pytest.mark.parametrize("name", ["labels.txt", "ILSVRC2012_validation_ground_truth.txt"])
def test_ground_truth_uses_ilsvrc_ids(tmp_path, place, name):
    folder = tmp_path / "kit" / "lists"
    folder.mkdir(parents=True)
    files = "ILSVRC2012_val_00000001.JPEG ILSVRC2012_val_00000003.JPEG"
    refusal = (
        r"holds ILSVRC2012_IDs, but the meta\.mat that explains them was not found; "
        r"put the development kit's meta\.mat beside the list, or write file,class in each line"
    )
    with pytest.raises(InputError, match=refusal):
        read_table(folder, files, "490\n1\n2\n1\n", IMAGENET, name)
    (folder / place).mkdir(parents=True, exist_ok=True)
    write_meta(folder / place / "meta.mat", IDS)
    with pytest.warns(
        ModelNote, match="names no files; its lines are ILSVRC2012_IDs of the development kit: line 1 is"
    ):
        labels = read_table(folder, files, "490\n1\n2\n1\n", IMAGENET, name)
    assert [WNIDS[label] for label in labels.values()] == ["n03481172", "n01751748"]


@pytest.mark.parametrize(
    ("table", "classes", "message"),
    [
        ("490\n1\n1002\n", IMAGENET, r"line 3 of .*: ILSVRC2012_ID 1002 is not in 1 \.\. 1001"),
        ("490\n1\n1001\n", IMAGENET, r"line 3 of .*: unknown class 'n00001740'"),
        ("2\n1\n3\n", PETS, "the wnids of the model's classes are unknown; pass the wnids with --classes"),
    ],
)
def test_invalid_ilsvrc_ids_raise(tmp_path, table, classes, message):
    write_meta(tmp_path / "meta.mat", IDS)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path, "ILSVRC2012_val_00000001.JPEG ILSVRC2012_val_00000003.JPEG", table, classes)


def test_ground_truth_of_other_year_needs_its_kit(tmp_path):
    write_meta(tmp_path / "meta.mat", IDS)
    with pytest.raises(InputError, match=r"meta\.mat' does not list classes with ILSVRC2010_ID and WNID; use the file"):
        read_table(tmp_path, "ILSVRC2010_val_00000001.JPEG", "1\n", IMAGENET)
    write_meta(tmp_path / "meta.mat", IDS, "ILSVRC2010_ID")
    with pytest.warns(ModelNote, match="its lines are ILSVRC2010_IDs"):
        labels = read_table(tmp_path, "ILSVRC2010_val_00000001.JPEG", "1\n", IMAGENET)
    assert list(labels.values()) == [WNIDS.index("n02105855")]


@pytest.mark.parametrize("table", ["1\n0\n2\n", "dog\ncat\nguinea pig", "Label\ndog\n0\nguinea_pig\n"])
def test_ground_truth_follows_order_of_names(tmp_path, table):
    with pytest.warns(
        ModelNote, match=r"names no files; its lines are classes: line \d is 'a.png', line \d is 'c.png'"
    ):
        assert read_table(tmp_path, "c.png a.png b.png", table) == {"a.png": 1, "b.png": 0, "c.png": 2}


@pytest.mark.parametrize(
    ("files", "table", "message"),
    [
        ("a.png b.png", "1\n0\n2\n", "has 3 lines without file names for 2 images; write file,class"),
        ("img2.png img10.png", "1\n0\n", "the order of the images is ambiguous"),
        ("a.png b.png", "1\n9\n", r"line 2 of .*: class index 9 is out of range; write file,class"),
        (
            "a.png b.png",
            "a.png\nb.png\n",
            "line 1 of .* has 1 column: 'a.png'; write file,class or file class in each line",
        ),
        ("a.png b.png", "a.png,horse\nb.png,cat\n", "line 1 of .*: unknown class 'horse'"),
        ("a b", "x", "has no label|no image"),
    ],
)
def test_invalid_label_file_raises(tmp_path, files, table, message):
    with pytest.raises(InputError, match=message):
        read_table(tmp_path, files, table)


@pytest.mark.parametrize(
    "table",
    [
        "a.png,cat\nb.png,cat\na.png,dog\n",
        "a.png,0\nb.png,0\n./a.png,1\n",
        "a.png cat\nb.png cat\nval/a.png dog\n",
        "a,cat\nb,cat\na.png,dog",
    ],
)
def test_contradictory_labels_raise(tmp_path, table):
    with pytest.raises(
        InputError, match=r"lines 1 and 3 of '.*' contradict each other: 'a\.png' is '(cat|0)' and '(dog|1)'"
    ):
        read_table(tmp_path, "a.png b.png", table)


def test_contradictory_labels_of_other_files_raise(tmp_path):
    with pytest.raises(InputError, match=r"lines 2 and 3 of .* contradict each other: 'x//y\.png'"):
        read_table(tmp_path, "a.png", "a.png,0\nx/y.png,0\nx//y.png,1\n")


def test_repeated_labels_count_once(tmp_path):
    with pytest.warns(ModelNote, match=r"2 lines repeat earlier lines and count once in '.*', such as line 2"):
        assert read_table(tmp_path, "a.png b.png", "a.png,0\n./a.png,cat\nb,1\nb.png,dog\n") == {"a.png": 0, "b.png": 1}


def test_label_of_exact_path_wins_over_name(tmp_path):
    assert read_table(tmp_path, "1.png x/1.png", "x/1.png,0\n1.png,1\n") == {"1.png": 1, "x/1.png": 0}
    with pytest.warns(ModelNote, match=r"1 of the rows of .* label several images of the same name, such as line 1"):
        assert read_table(tmp_path / "2", "x/1.png y/1.png", "1.png,1\n") == {"x/1.png": 1, "y/1.png": 1}


def read_list(folder: Path, text: str) -> list[tuple[str, int | None]]:
    for name in ("a.png", "b c.JPG", "x/d.webp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "list.txt").write_text(text)
    return [(item.key, item.label) for item in read_dataset(str(folder / "list.txt"), PETS)]


@pytest.mark.parametrize(
    "text",
    [
        "a.png\tcat\nb c.JPG\t1\nx/d.webp\tguinea pig\n",
        "a.png 0\nb c.JPG 1\nx/d.webp guinea pig\n",
        "path,label\na.png,cat\nb c.JPG,dog\nx/d.webp,2\n",
        "label,path\ncat,a.png\ndog,b c.JPG\n2,x/d.webp\n",
        "a 0\nb c 1\nx/d 2",
    ],
)
def test_list_forms(tmp_path, text):
    assert read_list(tmp_path, text) == [("a.png", 0), ("b c.JPG", 1), ("x/d.webp", 2)]


def test_list_of_paths_with_spaces(tmp_path):
    assert read_list(tmp_path, "b c.JPG\nno such file 1.png\nno such 2\n") == [
        ("b c.JPG", None),
        ("no such file 1.png", None),
        ("no such 2", None),
    ]


def test_contradictory_list_raises(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for other in ("a.png", "./a.png", "x/../a.png", str(tmp_path / "a.png"), "link/a.png"):
        with pytest.raises(
            InputError, match=f"lines 2 and 3 of '.*list.txt' contradict each other: '{re.escape(other)}' is"
        ):
            read_list(tmp_path, f"x/d.webp\t0\na.png\tcat\n{other}\tdog\n")
    with pytest.warns(ModelNote, match="2 lines repeat earlier lines and count once in '.*list.txt', such as line 2"):
        assert read_list(tmp_path, "a.png\n./a.png\tdog\nx/../a.png\t1") == [("a.png", 1)]


def test_names_may_hold_other_line_separators(tmp_path):
    (tmp_path / "\x0ba\u2028b.png").write_bytes(b"x")
    (tmp_path / "list.txt").write_text("\x0ba\u2028b.png\t1\r\n", "utf-8", newline="")
    (item,) = read_dataset(str(tmp_path / "list.txt"), PETS)
    assert (item.key, item.label, item.source.path.is_file()) == ("\x0ba\u2028b.png", 1, True)
