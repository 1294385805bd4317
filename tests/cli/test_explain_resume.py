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
