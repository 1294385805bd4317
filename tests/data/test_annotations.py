"""Tests of xplain.data.annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xplain.core.errors import InputError, ModelNote
from xplain.data.annotations import Annotations, Box, locate_boxes, read_annotations
from xplain.data.class_names import ClassNames
from xplain.data.file_index import FileIndex
from xplain.data.preprocessing import Preprocessing, preprocess

TABLE = "image,x0,y0,x1,y1,class\na/1.jpg, 1,2,3.5,4,cat\n2.jpg,0,0,9,9\n\na/1.jpg,5,6,7,8,dog\n"
VOC = """<annotation><filename>other</filename><size><width>50</width></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>dog</name><bndbox><ymin>6</ymin><xmin>5</xmin><xmax>7</xmax><ymax>8</ymax></bndbox>
<part><name>head</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>6</xmax><ymax>7</ymax></bndbox></part></object>
</annotation>"""


PETS = ClassNames(("cat", "dog"), ("n02121808", "n02084071"), 2)


def read_boxes(path: Path, *keys: str, folder: Path = Path("/data/val")) -> Annotations:
    """Return the boxes of images with these keys in a data set."""
    return read_annotations(str(path)).assign(FileIndex(folder, keys), PETS)


def test_read_annotations_from_csv(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(TABLE)
    annotations = read_boxes(path, "a/1.jpg", "deep/folder/2.jpg", "3.jpg")
    assert annotations.find_boxes("a/1.jpg") == (Box(1, 2, 3.5, 4, "cat"), Box(5, 6, 7, 8, "dog"))
    assert annotations.find_boxes("deep/folder/2.jpg") == (Box(0, 0, 9, 9),)  # by the file's name
    assert annotations.find_boxes("3.jpg") == ()
    assert len(read_boxes(path, "/photos/a/1.jpg").find_boxes("/photos/a/1.jpg")) == 2  # by the end of its path
    path.write_text("x.jpg,0,0,1,1\n")
    assert read_boxes(path, "2.jpg").find_boxes("2.jpg") == ()  # modified, so read again


def test_read_annotations_from_xml(tmp_path):
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "7.xml").write_text(VOC)
    (tmp_path / "8.xml").write_text(VOC.replace("30", "31"))
    annotations = read_boxes(tmp_path, "n1/7.JPEG", "n2/8.JPEG", "n2/7.JPEG")
    assert annotations.find_boxes("n1/7.JPEG") == (Box(0, 1, 30, 40, "cat"), Box(4, 5, 7, 8, "dog"))
    assert annotations.find_boxes("n2/8.JPEG")[0].right == 31
    assert annotations.find_boxes("n2/7.JPEG") == ()


@pytest.mark.parametrize(
    "name",
    [
        "{root}/val/n1/7.jpg",
        "{root}/./val//n1/7",
        "{root.name}/val/n1/7.jpg",
        "val/n1/7.jpg",
        "val\\n1\\7.jpg",
        "../val/n1/7.jpg",
        "n1/7",
        "7.jpg",
    ],
)
@pytest.mark.parametrize("key", ["n1/7.jpg", "./n1/7.jpg", "{root}/val/n1/7.jpg", "../val/n1/7.jpg"])
def test_boxes_are_found_by_longer_and_shorter_paths(tmp_path, name, key):
    name, key = name.format(root=tmp_path), key.format(root=tmp_path)
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "boxes.csv").write_text(f"{name},1,2,3,4\n")
    boxes = read_boxes(tmp_path / "boxes" / "boxes.csv", key, folder=tmp_path / "val")
    assert boxes.find_boxes(key) == (Box(1, 2, 3, 4),)


def test_xml_boxes_are_found_by_longer_paths(tmp_path):
    (tmp_path / "data/val/n1").mkdir(parents=True)
    (tmp_path / "data/val/n1/7.xml").write_text(VOC)
    assert len(read_boxes(tmp_path, "n1/7.JPEG").find_boxes("n1/7.JPEG")) == 2


@pytest.mark.parametrize("name", ["/other/val/n1/7.jpg", "train/n1/7.jpg", "n1/7.png", "1/7.jpg", "../n1/7.jpg"])
def test_boxes_of_other_paths_are_noted(tmp_path, name):
    path = tmp_path / "boxes.csv"
    path.write_text(f"8.jpg,1,2,3,4\n{name},1,2,3,4\n{name},2,2,3,4\nx,0,0,1,1\n")
    with pytest.warns(ModelNote) as notes:
        assert list(read_boxes(path, "n1/7.jpg", "8.jpg").rows) == ["8.jpg"]
    assert [str(note.message) for note in notes] == [
        f"3 of the boxes in {str(path)!r} name no image of the data set, such as {name!r} (line 2 of {str(path)!r})"
    ]


def test_boxes_of_several_images_are_noted(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("1.jpg,1,2,3,4\ny/1.jpg,5,6,7,8\n")
    with pytest.warns(
        ModelNote, match=r"^1 of the boxes in '.*' belong to several images of the same name, such as '1\.jpg' "
    ):
        annotations = read_boxes(path, "x/1.jpg", "y/1.jpg")
    assert annotations.find_boxes("x/1.jpg") == (Box(1, 2, 3, 4),)
    assert annotations.find_boxes("y/1.jpg") == (Box(1, 2, 3, 4), Box(5, 6, 7, 8))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no bounding boxes found in"),
        ("image,x0,y0,x1,y1\n", "no bounding boxes found in"),
        ("a.jpg,0,0,1,1\nb.jpg,0,0,1\n", "line 2 of .* is not a box: b.jpg,0,0,1; write image,x0,y0,x1,y1"),
        ("a.jpg,0,0,1,1\nb.jpg,5,0,5,1\n", "line 2 of .* is not a box"),
        ("a.jpg,0,0,1,1\nb.jpg,nan,0,5,1\n", "line 2 of .* is not a box"),
    ],
)
def test_damaged_csv_raises_with_line(tmp_path, text, message):
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_annotations(str(path))


def test_csv_with_wrong_encoding_raises(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_bytes("b\u00e4r.jpg,0,0,1,1".encode("latin-1"))
    with pytest.raises(InputError, match=r"cannot read the boxes '.*boxes.csv': it is not UTF-8 text"):
        read_annotations(str(path))


@pytest.mark.parametrize("text", ["<annotation>", VOC.replace("<xmin>1</xmin>", ""), VOC.replace(">30<", ">many<")])
def test_damaged_xml_raises_with_file(tmp_path, text):
    (tmp_path / "7.xml").write_text(text)
    with pytest.raises(InputError, match=r"cannot read the boxes in '.*7.xml'"):
        read_annotations(str(tmp_path))


@pytest.mark.parametrize(
    ("width", "height"), [(200, 100), (100, 160), (64, 64), (40, 1), (3, 400), (37, 53)]
)  # fmt: skip
@pytest.mark.parametrize(
    "preprocessing", [Preprocessing((48, 48), 64), Preprocessing((64, 32), 40), Preprocessing((80, 80), 60)]
)
def test_locate_boxes_follows_preprocessing(tmp_path, width, height, preprocessing):
    """Preprocesses a white rectangle on black; the white pixels must lie inside the box, up to one pixel of blur."""
    box = (width * 0.3, height * 0.25, width * 0.8, height * 0.85)
    left, top, right, bottom = (round(edge) for edge in box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    is_white = preprocess(Image.fromarray(pixels), preprocessing)[0] > 0.5
    path = tmp_path / "boxes.csv"
    path.write_text(f"a.jpg,{left},{top},{right},{bottom}\n")
    boxes = locate_boxes(read_boxes(path, "a.jpg"), ["a.jpg"], [(height, width)], [0], preprocessing, PETS.find)
    (edges,) = boxes[0].tolist()
    rows, columns = (torch.arange(side) + 0.5 for side in preprocessing.size)
    inside = [(axis > low) & (axis < high) for axis, low, high in ((rows, *edges[1::2]), (columns, *edges[::2]))]
    assert int((is_white.any(dim=1) ^ inside[0]).sum()) <= 2 * is_white.any()
    assert int((is_white.any(dim=0) ^ inside[1]).sum()) <= 2 * is_white.any()


def test_locate_boxes_skips_other_classes(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(TABLE)
    keys, sizes = ["a/1.jpg", "a/1.jpg", "2.jpg", "3.jpg"], [(10, 10)] * 4
    boxes = locate_boxes(read_boxes(path, *keys[1:]), keys, sizes, [0, 1, 1, 1], Preprocessing((10, 10), 20), PETS.find)
    edges = [[[2, 4, 7, 8]], [[10, 12, 14, 16]], [[0, 0, 18, 18]]]  # twice the size, and 5 cut off
    assert boxes[:3].tolist() == [[[edge - 5 for edge in box] for box in image_boxes] for image_boxes in edges]
    assert boxes[3].isnan().all()


def test_locate_boxes_rejects_unknown_class(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("a.jpg,0,0,1,1,horse\n")
    with pytest.raises(InputError, match=r"a box in '.*boxes.csv': unknown class 'horse'; use the model's class names"):
        locate_boxes(read_boxes(path, "a.jpg"), ["a.jpg"], [(9, 9)], [0], Preprocessing(), PETS.find)


@pytest.mark.parametrize(
    "text",
    [
        "image,x0,y0,x1,y1,class\nv/p.png,1,2,3,4,cat\n",
        "filename;width;height;class;xmin;ymin;xmax;ymax\nv/p.png;48;40;cat;1;2;3;4\n",
        "label\tymin\txmin\tymax\txmax\timage_id\ncat\t2\t1\t4\t3\tv/p\n",
        "bild,links,oben,rechts,unten,art\n./v/p.png,1,2,3,4,cat\nv//p.png,1,2,3,4,cat\n",
    ],
)
def test_heading_states_columns(tmp_path, text):
    (tmp_path / "boxes.csv").write_text(text)
    assert read_boxes(tmp_path / "boxes.csv", "v/p.png").find_boxes("v/p.png") == (Box(1, 2, 3, 4, "cat"),)


@pytest.mark.parametrize(
    "text",
    [
        "image,xmin,ymin,xmax,ymax,width,height\nv/p.png,1,2,3,4,48,40\n",
        "filename,x1,y1,x2,y2,score\nv/p.png,1,2,3,4,1\n",
        ",filename,x0,y0,x1,y1\n0,v/p.png,1,2,3,4\n",
    ],
)
def test_columns_beside_boxes_are_not_classes(tmp_path, text):
    (tmp_path / "boxes.csv").write_text(text)
    assert read_boxes(tmp_path / "boxes.csv", "v/p.png").find_boxes("v/p.png") == (Box(1, 2, 3, 4),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p.png 0 0 1 1\nq.png,0,0,1,1\n", r"line 1 of .* is not a box: p\.png 0 0 1 1"),
        ("p;1,5;2;20;30\nq.png,0,0,1,1\n", r"line 1 of .* is not a box"),
        ("p.png,9,0,3,4\nq.png,0,0,1,1\n", r"line 1 of .* is not a box: p\.png,9,0,3,4; write image,x0,y0,x1,y1"),
        ("p,nan,0,3,4\nq,0,0,1,1\n", r"line 1 of .* is not a box"),
        ("p.png,left,top,right,bottom\nq.png,0,0,1,1\n", r"line 1 of .* is not a box"),
        ("p,,,,\nq.png,0,0,1,1\n", r"line 1 of .* is not a box"),
        ("image,x,y,w,h\nq.png,0,0,1,1\n", "its heading does not name the columns x0, y0, x1 and y1"),
        ("image,xmin,xmax,ymin\nq.png,0,0,1,1\n", "its heading does not name the columns x0, y0, x1 and y1"),
        ("p.png,0.1,0.1,0.5,0.9\nq.png,0,0,1,1\n", r"the boxes in '.*' are fractions of the image"),
    ],
)
def test_invalid_first_row_raises(tmp_path, text, message):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_annotations(str(tmp_path / "boxes.csv"))


@pytest.mark.parametrize(
    "second",
    [
        "p.png,1,2,3,4,dog",
        "./p.png,1,2,3,4,1",
        "p,1,2,3,4,horse",
        "x/../p.png,1.0,2,3,4",
        "/data/val/p.png,1,2,3,4,n02084071",
    ],
)
@pytest.mark.parametrize("keys", [("p.png",), ("a/q.png",)])
def test_contradictory_boxes_raise(tmp_path, second, keys):
    path = tmp_path / "boxes.csv"
    other = second if keys[0] == "p.png" else "p.png," + second.partition(",")[2]
    path.write_text(f"p.png,1,2,3,4,cat\nq.png,0,0,1,1\n{other}\n")
    with pytest.raises(
        InputError, match=r"line 1 of .* and line 3 of .* contradict each other: the same box of 'p\.png'"
    ):
        read_boxes(path, *keys)


def test_boxes_under_two_spellings_are_merged(tmp_path):
    (tmp_path / "boxes.csv").write_text("p.png,1,2,3,4\n./p.png,1,2,3,4\np,5,6,7,8\nval/p.png,5,6,7,8\n")
    with pytest.warns(
        ModelNote, match=r"2 of the boxes in '.*' repeat another box of their image and count once, such as"
    ):
        annotations = read_boxes(tmp_path / "boxes.csv", "p.png")
    assert annotations.find_boxes("p.png") == (Box(1, 2, 3, 4), Box(5, 6, 7, 8))


@pytest.mark.parametrize("same", ["0", "cat", "n02121808", "Cat", "N02121808"])
def test_class_name_and_index_are_one_box(tmp_path, same):
    path = tmp_path / "boxes.csv"
    path.write_text(f"p.png,1,2,3,4,cat\np.png,1,2,3,4,{same}\np.png,1,2,3,5,dog\n")
    with pytest.warns(ModelNote, match=r"^1 of the boxes in '.*' repeat another box"):
        annotations = read_boxes(path, "p.png")
    assert annotations.find_boxes("p.png") == (Box(1, 2, 3, 4, "cat"), Box(1, 2, 3, 5, "dog"))


def locate(path, key: str, height: int, width: int):
    return locate_boxes(read_boxes(path, key), [key], [(height, width)], [0], Preprocessing(), PETS.find)


@pytest.mark.parametrize("edges", ["0,0,31,20", "0,0,30,21", "-1,0,5,5", "0,-0.5,5,5", "100,100,200,200"])
@pytest.mark.parametrize("label", ["", ",dog"])
def test_box_outside_image_raises(tmp_path, edges, label):
    (tmp_path / "boxes.csv").write_text(f"p.png,0,0,30,20\np.png,{edges}{label}\n")
    with pytest.raises(InputError, match=rf"the box {edges} \(line 2 of '.*'\) is outside 'p\.png' of 30 x 20 pixels"):
        locate(tmp_path / "boxes.csv", "p.png", 20, 30)


def test_xml_box_of_other_size_raises(tmp_path):
    (tmp_path / "7.xml").write_text(VOC.replace("</width>", "</width><height>60</height>"))
    assert locate(tmp_path, "7.jpg", 60, 50).shape == locate(tmp_path, "7.jpg", 50, 60).shape == (1, 1, 4)
    with pytest.raises(InputError, match=r"'.*7\.xml' was drawn on 50 x 60 pixels, but '7\.jpg' has 100 x 120"):
        locate(tmp_path, "7.jpg", 120, 100)
    with pytest.raises(InputError, match=r"is outside '7\.jpg' of 25 x 30 pixels"):
        locate(tmp_path, "7.jpg", 30, 25)


def test_xml_boxes_from_zero_start_at_first_pixel(tmp_path):
    (tmp_path / "7.xml").write_text(VOC.replace("<xmin>1<", "<xmin>0<"))
    with pytest.warns(ModelNote, match=r"boxes in '.*' start at 0 \(number of boxes: 1\)"):
        assert read_boxes(tmp_path, "7").find_boxes("7")[0] == Box(0, 1, 30, 40, "cat")
