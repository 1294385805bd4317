"""``xplain explain`` again: existing files, other settings, and interruptions."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import SAMPLES, TINY, interrupt

CAT = SAMPLES / "cat.jpg"


def test_explain_keeps_existing_files(xp, monkeypatch):
    first = xp("explain", CAT, *TINY, "-a", "sm", "--json").records
    before = Path("xplain-out/cat.saliency.overlay.png").stat().st_mtime_ns
    monkeypatch.setattr(
        "xplain.pipelines.attribution.MethodRun.attribute", lambda *_, **__: pytest.fail("computed again")
    )
    again = xp("explain", CAT, *TINY, "-a", "sm", "--json")
    assert again.code == 0
    assert again.records == first
    assert Path("xplain-out/cat.saliency.overlay.png").stat().st_mtime_ns == before


def test_explain_resumes_interrupted_run(xp, photos, method_calls):
    xp("explain", photos, *TINY, "-a", "sm", "-b", "1")
    Path("xplain-out/espresso/b.saliency.overlay.png").unlink()
    method_calls.sizes.clear()
    assert len(xp("explain", photos, *TINY, "-a", "sm", "-b", "1").lines) == 3
    assert method_calls.sizes == [1]


def test_files_of_other_settings_need_overwrite(xp):
    xp("explain", CAT, *TINY, "-a", "ig:steps=5")
    ran = xp("explain", CAT, *TINY, "-a", "ig:steps=6")
    assert ran.code == 2
    assert ran.err == (
        "xplain: error: 'xplain-out/cat.integrated-gradients.overlay.png' already exists with different settings; "
        "use --overwrite or another --output\n"
    )
    assert xp("explain", CAT, *TINY, "-a", "ig:steps=6", "--overwrite").code == 0


def test_files_of_other_image_are_rejected(xp):
    shutil.copy(CAT, "x.jpg")
    xp("explain", "x.jpg", *TINY, "-a", "sm")
    shutil.copy(SAMPLES / "rocket.jpg", "x.jpg")
    ran = xp("explain", "x.jpg", *TINY, "-a", "sm")
    assert (ran.code, ran.out) == (3, "")
    assert "already exists for another image; use --overwrite" in ran.err


def test_ctrl_c_keeps_finished_files(xp, photos, method_calls):
    method_calls.before[2] = interrupt
    ran = xp("explain", photos, *TINY, "-a", "sm", "-b", "1")
    assert (ran.code, len(ran.lines)) == (130, 1)
    command = shlex.join(["xplain", "explain", str(photos), *TINY, "-a", "sm", "-b", "1"])
    assert ran.err == f"xplain: interrupted; finished results are saved. To resume, run: {command}\n"
    assert [p.name for p in Path("xplain-out").rglob("*") if p.is_file()] == ["a.saliency.overlay.png"]


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
    if ran.code == 0:  # the class is part of the file name
        assert ran.records[0]["target"] == fresh.records[0]["target"] != first.records[0]["target"]
    else:
        assert (ran.code, ran.err.count("\n")) == (3 if command == "explain" else 2, 1)
        assert "with other class names or baseline images; use --overwrite or choose another --output" in ran.err
        assert xp(*request, "--overwrite").code == 0
