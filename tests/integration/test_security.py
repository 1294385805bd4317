"""Untrusted input: no code in it is executed, pages show it as text, and it cannot name files outside the output directory.

See also the tests of checkpoints, tar shards and array stores, and of the pages in a browser.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import SAMPLES, TINY
from xplain.core.array_store import ArrayStore
from xplain.core.checkpoint_store import DirectoryCheckpoints
from xplain.core.config_file import read_toml
from xplain.core.errors import InputError
from xplain.data.annotations import read_annotations
from xplain.data.sources import find_images
from xplain.data.splits import find_entries
from xplain.reports.render import read_record


class Trap:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code in the data was run",)


def save_trap(path: Path) -> None:
    """Write an NPZ file whose arrays are pickled objects."""
    trap = np.array([Trap()], dtype=object)
    np.savez(path, attribution=trap, record=trap, image=trap)


def test_trap_fails_when_loaded(tmp_path):
    save_trap(tmp_path / "a.npz")
    with pytest.raises(pytest.fail.Exception), np.load(tmp_path / "a.npz", allow_pickle=True) as content:
        content["record"]


def test_array_files_run_no_code(xp, tmp_path):
    """explain treats the file as one with other settings, and the array store as a missing one."""
    shutil.copy(SAMPLES / "cat.jpg", "cat.jpg")
    Path("out").mkdir()
    save_trap(Path("out/cat.saliency.raw.npz"))
    assert read_record(Path("out/cat.saliency.raw.npz")) is None
    ran = xp("explain", "cat.jpg", *TINY, "-a", "sm", "--save", "raw", "-o", "out")
    assert ran.code == 2
    assert "already exists and was not written by explain" in ran.err
    shelf = ArrayStore(tmp_path / "maps", "attribution")
    shelf.save("a", "m", "mark", np.zeros((1, 2, 2)), {})
    save_trap(shelf.path("a", "m", "mark"))
    assert shelf.load("a", "m", "mark") is None


def test_training_checkpoints_run_no_code(tmp_path):
    torch.save({"epoch": Trap()}, tmp_path / "one.pt")
    (tmp_path / "two.pt").write_bytes(pickle.dumps(Trap()))
    for name in ("one", "two"):
        with pytest.raises(InputError, match="cannot resume from checkpoint"):
            DirectoryCheckpoints(tmp_path).load(name)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "MNIST"])
def test_torchvision_data_run_no_code(tmp_path, name):
    import torchvision

    kind = getattr(torchvision.datasets, name)
    if name == "MNIST":
        folder, files = tmp_path / "MNIST" / "processed", [kind.training_file, kind.test_file]
    else:
        folder, files = tmp_path / kind.base_folder, [entry[0] for entry in (*kind.train_list, *kind.test_list)]
        files.append(kind.meta["filename"])
    folder.mkdir(parents=True)
    for each in files:
        (folder / each).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=f"{name} is missing or incomplete in"):
        find_entries(f"torchvision:{name}:{tmp_path}", 0)


LAUGHS = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 9))
SECRET = '<!ENTITY a0 SYSTEM "file:///etc/hostname">'


@pytest.mark.parametrize("declared", ['<!ENTITY a0 "ha">' + LAUGHS, SECRET, '<!ENTITY % a0 "x">'])
def test_box_files_reject_entities(tmp_path, declared):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
    use = "&a8;" if "a8" in declared else "&a0;" if "% " not in declared else "x"
    text = f"<!DOCTYPE x [{declared}]><annotation><object><name>{use}</name>{box}</object></annotation>"
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
        with pytest.raises(InputError, match="XML entities are not allowed \(found 'a0'\); use Pascal VOC XML"):
            read_annotations(str(tmp_path))


def test_toml_runs_no_code(tmp_path):
    (tmp_path / "c.toml").write_text('model = "__import__(\'os\').abort()"\nseed = "${HOME}"\n')
    assert read_toml(tmp_path / "c.toml") == {"model": "__import__('os').abort()", "seed": "${HOME}"}


NAME = "<script>alert(1)<\\script> &amp; ' \" `${x}` --><b onload=x> \n \x1b[31m é 猫 $x$ {{DATA}} ]]>"  # no slash: of files
LABEL = NAME + "</script></style></title></svg>"


class Tags(HTMLParser):
    """The elements of a page with the names of their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(sorted(name for name, _ in attributes))))
        self.text += "".join(f"{value}" for _, value in attributes)

    def handle_data(self, data):
        self.text += data


def check_page(path: Path, plain: Path, *names: str) -> None:
    """Assert that a page has the elements of the page with plain names, and contains ``names`` as text."""
    page, expected = Tags(path.read_text()), Tags(plain.read_text())
    assert page.tags == expected.tags
    for name in names:
        assert name in page.text, name


def check_svg(path: Path) -> None:
    """Assert that an SVG file is well-formed and contains no active content."""
    for element in ElementTree.parse(path).iter():
        name = str(element.tag).rpartition("}")[2]
        assert name not in ("script", "foreignObject", "iframe", "image") or element.get(
            "{http://www.w3.org/1999/xlink}href", ""
        ).startswith("data:image/png;base64,")
        assert not any(key.lower().startswith("on") for key in element.attrib)


@pytest.fixture
def data_sets(tmp_path):
    """Return two data sets of the same images, with plain and with hostile names."""
    for place, folder in (("plain", "cat"), (NAME, NAME)):
        for k, photo in enumerate(("cat", "rocket")):
            path = tmp_path / place / folder / f"{k}{'' if place == 'plain' else NAME}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(SAMPLES / f"{photo}.jpg") as image:
                image.resize((32, 32)).save(path)
    return tmp_path / "plain", tmp_path / NAME


@pytest.fixture
def hostile_labels(monkeypatch):
    """Return model options for the tiny network with hostile class names, one of which is the folder of the data set."""
    import tests.helpers.factories as factories

    tiny = factories.tiny

    def named():
        model = tiny()
        model.labels = [f"{k} {LABEL}" for k in range(5)]
        model.labels[0] = NAME
        return model

    monkeypatch.setattr(factories, "named", named, raising=False)
    return ("-m", "python:tests.helpers.factories:named", "--device", "cpu")


def test_report_escapes_names(xp, data_sets, hostile_labels):
    plain, hostile = data_sets
    options = ("-M", "deletion:steps=2", "-a", "ig:steps=2", "-M", "pointing-game:boxes=boxes.csv")
    Path("boxes.csv").write_text("other.png,0,0,9,9\n")
    assert xp("evaluate", plain, *TINY, *options, "-o", "plain-run").code in (0, 5)
    shutil.copy("boxes.csv", "<i>&boxes.csv")
    ran = xp(
        "evaluate", hostile, *hostile_labels, *options[:-1], "pointing-game:boxes=<i>&boxes.csv", "-o", f"{NAME}run"
    )
    assert ran.code in (0, 5)
    folder = Path(f"{NAME}run")
    check_page(
        folder / "report.html", Path("plain-run/report.html"), str(hostile)[:20], "<script>alert(1)", "<i>&boxes.csv"
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["run"]["dataset"]["location"] == str(hostile)
    rows = list(csv.DictReader(io.StringIO((folder / "summary.csv").read_text())))
    assert [row["metric"] for row in rows] == [row["metric"] for row in summary["rows"]]
    assert "pointing-game:boxes=<i>&boxes.csv" in {row["metric"] for row in rows}


def test_image_comparison_escapes_names(xp, data_sets, hostile_labels):
    plain, hostile = data_sets
    options = (
        "-a",
        "sm",
        "-a",
        "ig:steps=2",
        "-M",
        "deletion:steps=2",
        "--show",
        "overlay",
        "--show",
        "curves",
        "--save",
        "svg",
    )
    assert xp("compare", plain, *TINY, *options, "-o", "a").code == 0
    assert xp("compare", hostile, *hostile_labels, *options, "-o", "b").code == 0
    check_page(Path("b/compare.html"), Path("a/compare.html"))
    record = json.loads(Path("b/compare.json").read_text())
    assert {row["input"] for row in record["rows"]} == {str(path) for path in hostile.rglob("*.png")}
    for name in ("compare.svg", "agreement.svg"):
        check_svg(Path("b", name))


def test_run_comparison_escapes_names(xp, data_sets, hostile_labels):
    plain, hostile = data_sets
    for k, method in enumerate(("sm", "gxi")):
        for place, folder, model in ((plain, "run", TINY), (hostile, f"{NAME}run", hostile_labels)):
            assert xp("evaluate", place, *model, "-M", "deletion:steps=2", "-a", method, "-o", f"{folder}{k}").code == 0
    assert xp("compare", "run0", "run1", "--save", "svg", "-o", "a").code == 0
    ran = xp("compare", f"{NAME}run0", f"{NAME}run1", "--save", "svg", "-o", "b")
    assert ran.code == 0
    check_page(Path("b/compare.html"), Path("a/compare.html"), "<script>alert(1)<\\script>")
    check_svg(Path("b/compare.svg"))


def test_image_records_keep_names(xp, data_sets, hostile_labels):
    _, hostile = data_sets
    kinds = [part for kind in ("overlay", "heatmap", "masked", "figure", "raw") for part in ("--save", kind)]
    ran = xp("explain", hostile, *hostile_labels, "-a", "sm", *kinds, "--json", "--target", NAME)
    assert ran.code == 0
    for record in ran.records:
        assert record["target"]["name"] == NAME
        for path in map(Path, record["files"].values()):
            saved = read_record(path)
            assert (saved["input"], saved["target"]["name"]) == (record["input"], NAME)


@pytest.mark.skipif(os.name != "posix", reason="needs names of bytes")
def test_commands_accept_undecodable_names(xp, tmp_path, data_sets):
    plain, _ = data_sets
    place = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(plain, place)
    (place / "cat" / "1.png").rename(place / "cat" / os.fsdecode(b"\xff\xfe.png"))
    options = (place, *TINY, "-a", "sm", "-a", "gxi")
    ran = xp("explain", *options, "--save", "figure", "--save", "raw", "--json")
    assert ran.code == 0
    assert {record["input"] for record in ran.records} == {f"{place}/cat/0.png", f"{place}/cat/\udcff\udcfe.png"}
    assert all(Path(path).exists() for record in ran.records for path in record["files"].values())
    ran = xp("evaluate", *options, "-M", "deletion:steps=2", "-o", "run", "--json")
    assert (ran.code, ran.records[0]["items"]["evaluated"]) == (0, 2)
    assert xp("compare", *options, "-M", "deletion:steps=2", "--save", "svg", "--json", "-o", "out").code == 0
    check_svg(Path("out/compare.svg"))
    assert (
        xp("compare", *options, "-M", "deletion:steps=2", "--save", "svg", "-o", "out").code == 0
    )  # and the result is recognized


parts = st.sampled_from(["..", ".", "", "a", "b.png", "a.png", "...", "..png", "c d.jpg", "x\ny.png", "~", "-o"])
paths = st.lists(parts, min_size=1, max_size=12).map("/".join) | st.lists(parts, max_size=6).map(
    lambda p: "/" + "/".join(p)
)


@given(st.lists(paths.filter(lambda path: Path(path).name not in ("", "..")), min_size=1, max_size=6))
def test_output_names_stay_inside(named):
    for source in find_images([path if not path.startswith(("@", "-")) else f"./{path}" for path in named]):
        inside = os.path.normpath(f"/out/put/{source.stem}.saliency.overlay.png")
        assert inside.startswith("/out/put/")


def test_parent_paths_stay_inside(xp, tmp_path, monkeypatch):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    up = "../" * 40 + str(tmp_path).lstrip("/")
    for folder in ("", "a", "a/b"):
        shutil.copy(SAMPLES / "cat.jpg", tmp_path / folder / "same.jpg")
    monkeypatch.chdir(deep)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    ran = xp("explain", "same.jpg", "../same.jpg", f"{up}/same.jpg", *TINY, "-a", "sm", "-o", "out")
    assert (ran.code, len(ran.lines)) == (0, 3)
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(made) == 3
    assert all(path.is_relative_to(deep / "out") for path in made)


def test_tar_members_stay_inside(xp, tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    here = tmp_path / "deep" / "here"
    here.mkdir(parents=True)
    photo = (SAMPLES / "cat.jpg").read_bytes()
    with tarfile.open(here / "a.tar", "w") as tar:
        for name in ("../../evil.jpg", f"{tmp_path}/evil.jpg", "x/../../../evil2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(photo)
            tar.addfile(member, io.BytesIO(photo))
    monkeypatch.chdir(here)
    (here / "refs").mkdir()
    (here / "refs" / "a.jpg").write_bytes(photo)
    shutil.copy(SAMPLES / "rocket.jpg", here / "refs")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    options = (
        "evaluate",
        "a.tar",
        *TINY,
        "-a",
        "sm",
        "-M",
        "deletion:steps=2",
        "--save-maps",
        "--save-curves",
        "-o",
        "run",
    )
    assert xp(*options).code == 0
    twice = ("-a", "eg:baselines=../here/refs,samples=2", "-a", "eg:baselines=../../deep/here/refs,samples=2")
    assert xp("explain", "refs/a.jpg", *TINY, *twice, "-o", "out").code == 0
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(made) > 10
    assert all(path.is_relative_to(here / "run") or path.is_relative_to(here / "out") for path in made)
