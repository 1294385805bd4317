"""``xplain explain`` again: existing files, other settings, and interruptions."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import SAMPLES, TINY, interrupt

CAT = SAMPLES / "cat.jpg"


def test_explain_keeps_existing_files(xp, monkeypatch):
    first = xp("explain", CAT, *TINY, "-a", "sm", "--json").records
    picture = Path("xplain-out/cat.saliency.overlay.png")
    content = picture.read_bytes()
    os.utime(picture, (1, 1))
    monkeypatch.setattr(
        "xplain.pipelines.method_run.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    again = xp("explain", CAT, *TINY, "-a", "sm", "--json")
    assert again.code == 0
    assert again.records == first
    assert picture.read_bytes() == content
    assert picture.stat().st_mtime > 1e9, "make would run the command again"


def test_explain_resumes_interrupted_run(xp, photos, method_calls):
    xp("explain", photos, *TINY, "-a", "sm", "-b", "1", "--stability", "off")
    Path("xplain-out/espresso/b.saliency.overlay.png").unlink()
    method_calls.sizes.clear()
    assert len(xp("explain", photos, *TINY, "-a", "sm", "-b", "1", "--stability", "off").lines) == 3
    assert method_calls.sizes == [1]


MODEL = "python-tests.helpers.factories-tiny"
RECIPES = {  # options, and the name that the picture gets beside the plain one
    "": "integrated-gradients",
    "--sign signed": f"integrated-gradients.{MODEL}.sign=signed",
    "--clip 5,95 --cmap hot --opacity 1": f"integrated-gradients.{MODEL}.clip=5,95.cmap=hot.opacity=1.0",
    "--reduce max": f"integrated-gradients.{MODEL}.reduce=max",
    "--score prob": f"integrated-gradients.{MODEL}.score=prob",
    "--seed 4": f"integrated-gradients.{MODEL}.seed=4",
    "--precision bf16": f"integrated-gradients.{MODEL}.bf16",
    "--image-size 40": f"integrated-gradients.{MODEL}.size=40",
    "--target 0": "integrated-gradients.0",
    "--target 0 --against 1": "integrated-gradients.0.vs-1",
    "--target 0 --against 1,2": "integrated-gradients.0.vs-1,2",
    "--against runner-up": "integrated-gradients.vs-runner-up",
    "-a ig:rule=left": f"integrated-gradients_rule=left.{MODEL}",
    "-a ig:rule=left,steps=9": f"integrated-gradients_rule=left,steps=9.{MODEL}",
    "-m python:tests.helpers.factories:smooth": "integrated-gradients.python-tests.helpers.factories-smooth",
}


def test_recipes_have_distinct_files(xp, method_calls):
    """Each recipe keeps the files of the others, and finds its own again."""
    commands = [
        ("explain", CAT, *TINY, *shlex.split(options if "-a " in options else f"-a ig {options}"))
        for options in RECIPES
    ]
    for command, name in zip(commands, RECIPES.values(), strict=True):
        ran = xp(*command)
        assert (ran.code, ran.lines) == (0, [f"xplain-out/cat.{name}.overlay.png"])
    contents = {path: path.read_bytes() for path in Path("xplain-out").iterdir()}
    assert len(contents) == len(RECIPES)
    method_calls.sizes.clear()
    assert {xp(*command).code for command in commands} == {0}
    assert not method_calls.sizes
    assert {path: path.read_bytes() for path in Path("xplain-out").iterdir()} == contents


def test_settings_without_a_name_have_a_digest(xp):
    """The files of weights with the same name in other folders."""
    from tests.helpers import factories

    for folder, scale in (("a", 1), ("b", 2)):
        Path(folder).mkdir()
        weights = {name: scale * value for name, value in factories.tiny().state_dict().items()}
        torch.save(weights, f"{folder}/w.pth")
    names = [
        Path(xp("explain", CAT, *TINY, "-a", "sm", "--weights", f"{folder}/w.pth").lines[0]).name.split(".")
        for folder in ("a", "b", "a")
    ]
    assert names[0] == names[2] == ["cat", "saliency", "overlay", "png"]
    Path("xplain-out/cat.saliency.overlay.png").unlink()
    xp("explain", CAT, *TINY, "-a", "sm")
    paths = [xp("explain", CAT, *TINY, "-a", "sm", "--weights", f"{folder}/w.pth").lines[0] for folder in ("a", "b")]
    assert [len(set(paths)), len(list(Path("xplain-out").iterdir()))] == [2, 3]


def test_long_settings_are_shortened(xp):
    folder = Path("baseline images " + "x" * 100)
    folder.mkdir()
    shutil.copy(SAMPLES / "rocket.jpg", folder)
    ran = xp("explain", CAT, *TINY, "-a", f"eg:samples=1,baselines={folder}", "-a", "eg:samples=1")
    assert ran.code == 0
    assert all(len(Path(path).name) < 80 for path in ran.lines)


def test_overwrite_replaces_plain_file(xp):
    xp("explain", CAT, *TINY, "-a", "ig:steps=2")
    before = Path("xplain-out/cat.integrated-gradients.overlay.png").read_bytes()
    ran = xp("explain", CAT, *TINY, "-a", "ig:steps=3", "--overwrite")
    assert ran.lines == ["xplain-out/cat.integrated-gradients.overlay.png"]
    assert Path(ran.lines[0]).read_bytes() != before


def test_former_name_with_contrast_class_is_kept(xp, method_calls):
    (new,) = xp("explain", CAT, *TINY, "-a", "sm", "--target", "0", "--against", "1").lines
    former = Path("xplain-out/cat.saliency.0.overlay.png")
    Path(new).rename(former)
    method_calls.sizes.clear()
    ran = xp("explain", CAT, *TINY, "-a", "sm", "--target", "0", "--against", "1")
    assert (ran.lines, method_calls.sizes) == ([str(former)], [])
    assert xp("explain", CAT, *TINY, "-a", "sm", "--target", "0").code == 0


def test_kinds_of_one_explanation_have_one_name(xp):
    xp("explain", CAT, *TINY, "-a", "ig:steps=2")
    xp("explain", CAT, *TINY, "-a", "ig:steps=3", "--save", "heatmap")
    ran = xp("explain", CAT, *TINY, "-a", "ig:steps=2", "--save", "overlay", "--save", "heatmap")
    assert ran.code == 0
    name = f"xplain-out/cat.integrated-gradients_steps=2.{MODEL}"
    assert ran.lines == [f"{name}.overlay.png", f"{name}.heatmap.png"]


def test_file_that_explain_did_not_write_is_refused(xp):
    Path("xplain-out").mkdir()
    for content in (b"", CAT.read_bytes()):
        Path("xplain-out/cat.saliency.overlay.png").write_bytes(content)
        ran = xp("explain", CAT, *TINY, "-a", "sm")
        assert (ran.code, ran.out) == (2, "")
        assert (
            "'xplain-out/cat.saliency.overlay.png' already exists and was not written by explain; use --over" in ran.err
        )
        assert Path("xplain-out/cat.saliency.overlay.png").read_bytes() == content


def test_files_of_other_image_are_rejected(xp):
    shutil.copy(CAT, "x.jpg")
    xp("explain", "x.jpg", *TINY, "-a", "sm")
    shutil.copy(SAMPLES / "rocket.jpg", "x.jpg")
    ran = xp("explain", "x.jpg", *TINY, "-a", "sm")
    assert (ran.code, ran.out) == (3, "")
    assert "already exists for another image; use --overwrite" in ran.err


def test_ctrl_c_keeps_finished_files(xp, photos, method_calls):
    off = ("--stability", "off")  # one run per image
    method_calls.before[2] = interrupt
    ran = xp("explain", photos, *TINY, "-a", "sm", "-b", "1", *off)
    assert (ran.code, len(ran.lines)) == (130, 1)
    command = shlex.join(["xplain", "explain", str(photos), *TINY, "-a", "sm", "-b", "1", *off])
    assert ran.err.endswith(f"xplain: interrupted; 1 of 3 results are kept. To resume, run: {command}\n")
    assert [p.name for p in Path("xplain-out").rglob("*") if p.is_file()] == ["a.saliency.overlay.png"]
    again = xp("explain", photos, *TINY, "-a", "sm", "-b", "1", *off)
    assert again.err.splitlines()[0] == "xplain: 1 of 3 results are kept from an earlier command; computing the others"
    assert "results are kept" not in xp("explain", photos, *TINY, "-a", "sm", "-b", "1", *off).err


@pytest.mark.parametrize(
    "target", [("--target", "cat"), ("--target", "label"), ("--target", "cat", "--against", "rocket"), ()]
)
@pytest.mark.parametrize("command", ["explain", "compare"])
def test_changed_class_names_need_overwrite(xp, tmp_path, command, target):
    """Explanations name classes: those of an earlier --classes are not taken for those of a corrected one."""
    (tmp_path / "cat").mkdir()
    shutil.copy(CAT, tmp_path / "cat" / "a.jpg")
    names = ["cat", "espresso", "rocket", "astronaut", "nothing"]
    options = ("--no-metrics",) if command == "compare" else ("--save", "raw")
    request = (
        command,
        "cat/a.jpg",
        *TINY,
        "-a",
        "sm",
        *options,
        *target,
        "--classes",
        "classes.txt",
        "-o",
        "out",
        "--json",
    )
    Path("classes.txt").write_text("\n".join(names))
    first = xp(*request)
    assert first.code == 0
    assert xp(*request).records == first.records
    swapped = (
        [names[1], names[0], *names[2:]] if "--against" not in target else ["cat", "rocket", "espresso", *names[3:]]
    )
    Path("classes.txt").write_text("\n".join(swapped))
    ran = xp(*request)
    fresh = xp(*(part if part != "out" else "fresh" for part in request))
    if ran.code == 0:  # the class, or the contrast class, is part of the file name
        assert ran.records[0]["target"] == fresh.records[0]["target"]
        assert ran.records[0]["files"] != first.records[0]["files"]
    else:
        assert (ran.code, ran.err.count("\n")) == (3 if command == "explain" else 2, 1)
        assert "with other class names or baseline images; use --overwrite or " in ran.err
        assert xp(*request, "--overwrite").code == 0
