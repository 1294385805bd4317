"""Tests of xplain.data.annotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xplain.core.errors import InputError, UsageError
from xplain.data.annotations import Box, locate_boxes, read_annotations
from xplain.data.preprocessing import Preprocessing, preprocess

TABLE = "image,x0,y0,x1,y1,class\na/1.jpg, 1,2,3.5,4,cat\n2.jpg,0,0,9,9\n\na/1.jpg,5,6,7,8,dog\n"
VOC = """<annotation><filename>other</filename><size><width>50</width></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>dog</name><bndbox><ymin>6</ymin><xmin>5</xmin><xmax>7</xmax><ymax>8</ymax></bndbox>
<part><name>head</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>6</xmax><ymax>7</ymax></bndbox></part></object>
</annotation>"""


def find_class(name: str) -> int:
    if name not in ("cat", "dog"):
        raise UsageError(f"unknown class {name!r}")
    return ("cat", "dog").index(name)


def test_read_annotations_from_csv(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(TABLE)
    annotations = read_annotations(str(path))
    assert annotations.find_boxes("a/1.jpg") == (Box(1, 2, 3.5, 4, "cat"), Box(5, 6, 7, 8, "dog"))
    assert annotations.find_boxes("deep/folder/2.jpg") == (Box(0, 0, 9, 9),)  # by the file's name
    assert annotations.find_boxes("1.jpg") == ()
    assert annotations.find_boxes("/photos/a/1.jpg") == annotations.find_boxes("a/1.jpg")  # by the end of its path
    path.write_text("x.jpg,0,0,1,1\n")
    assert read_annotations(str(path)).find_boxes("2.jpg") == ()  # modified, so read again


def test_read_annotations_from_xml(tmp_path):
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "7.xml").write_text(VOC)
    (tmp_path / "8.xml").write_text(VOC.replace("30", "31"))
    annotations = read_annotations(str(tmp_path))
    assert annotations.find_boxes("n1/7.JPEG") == (Box(0, 1, 30, 40, "cat"), Box(4, 5, 7, 8, "dog"))
    assert annotations.find_boxes("n2/8.JPEG")[0].right == 31
    assert annotations.find_boxes("n2/7.JPEG") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no box in"),
        ("image,x0,y0,x1,y1\n", "no box in"),
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
    boxes = locate_boxes(read_annotations(str(path)), ["a.jpg"], [(height, width)], [0], preprocessing, find_class)
    (edges,) = boxes[0].tolist()
    rows, columns = (torch.arange(side) + 0.5 for side in preprocessing.size)
    inside = [(axis > low) & (axis < high) for axis, low, high in ((rows, *edges[1::2]), (columns, *edges[::2]))]
    assert int((is_white.any(dim=1) ^ inside[0]).sum()) <= 2 * is_white.any()
    assert int((is_white.any(dim=0) ^ inside[1]).sum()) <= 2 * is_white.any()


def test_locate_boxes_skips_other_classes(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(TABLE)
    keys, sizes = ["a/1.jpg", "a/1.jpg", "2.jpg", "3.jpg"], [(10, 10)] * 4
    boxes = locate_boxes(
        read_annotations(str(path)), keys, sizes, [0, 1, 1, 1], Preprocessing((10, 10), 20), find_class
    )
    edges = [[[2, 4, 7, 8]], [[10, 12, 14, 16]], [[0, 0, 18, 18]]]  # twice the size, and 5 cut off
    assert boxes[:3].tolist() == [[[edge - 5 for edge in box] for box in image_boxes] for image_boxes in edges]
    assert boxes[3].isnan().all()


def test_locate_boxes_rejects_unknown_class(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("a.jpg,0,0,1,1,horse\n")
    with pytest.raises(InputError, match=r"a box in '.*boxes.csv': unknown class 'horse'; use the model's class names"):
        locate_boxes(read_annotations(str(path)), ["a.jpg"], [(9, 9)], [0], Preprocessing(), find_class)
