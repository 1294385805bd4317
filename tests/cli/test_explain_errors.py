"""Errors of ``xplain explain``: one line with what to do, an exit code, and the other images explained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import SAMPLES, TINY

CAT = SAMPLES / "cat.jpg"


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["nowhere.jpg"], 3, "no such file: 'nowhere.jpg'; check the path"),
        (["empty"], 3, "no images found in the directory 'empty'; supported suffixes are"),
        (["zero.jpg"], 3, "'zero.jpg' is empty (0 bytes); pass an image file"),
        (["short.jpg"], 3, "'short.jpg' is damaged: "),
        (["text.jpg"], 3, "'text.jpg' is not an image that Pillow can read"),
        (["*.bmp"], 3, "no file matches '*.bmp'"),
        (["@none.txt"], 3, "cannot read the list 'none.txt'"),
        ([], 2, "no images specified; pass files, directories"),
        ([CAT, "-a", "agii"], 2, "unknown method 'agii'; did you mean 'agi'?"),
        ([CAT, "-a", "agi:step=3"], 2, "agi has no parameter 'step'; did you mean 'steps'"),
        ([CAT, "-a", "agi:steps=0"], 2, "agi: invalid value steps=0; use an integer >= 1"),
        ([CAT, "-a", "agi:variant=paperr"], 2, "agi: invalid value variant=paperr; did you mean 'paper'?"),
        ([CAT, "-a", "agi:steps"], 2, "invalid parameter 'steps' in 'agi:steps'; use NAME:key=value,key=value"),
        ([CAT, "--target", "rockett"], 2, "unknown class 'rockett'; did you mean 'rocket'?"),
        ([CAT, "--target", "9"], 2, "class index 9 is out of range; use an index from 0 to 4"),
        ([CAT, "--target", "top:0"], 2, "invalid target 'top:0'; use top:K with K >= 1"),
        ([CAT, "--target", "cat", "--against", "cat"], 2, "the target class is also a contrast class"),
        ([CAT, "--save", "overly"], 2, "unknown value 'overly' for --save; choose from overlay"),
        ([CAT, "--clip", "99,80"], 2, "invalid clip '99,80': the percentiles must satisfy 0 <= LOW < HIGH <= 100"),
        ([CAT, "--cmap", "infrno"], 2, "unknown colormap 'infrno'; did you mean 'inferno'"),
        (
            [CAT, "--layer", "act2"],
            2,
            "--layer act2 is not supported by neflag; remove it or add a layer-based method",
        ),
        ([CAT, "-a", "grad-cam", "--layer", "act9"], 2, "the model has no layer 'act9'; did you mean 'act"),
        ([CAT, "-b", "0"], 2, "invalid batch size '0'; use auto or a positive integer"),
        ([CAT, "--device", "cuda:7"], 4, "device 'cuda:7' is not available"),
        ([CAT, "--device", "tpu"], 2, "unknown device 'tpu'; use auto, cpu, cuda, cuda:N or mps"),
        ([CAT, "--weights", "none.pth"], 3, "weights file 'none.pth' not found; check --weights"),
        (
            [CAT, "-o", "-", "--save", "raw"],
            2,
            "--output - writes a single PNG; pass one image, one method and one --save value other than raw",
        ),
        ([CAT, "-o", "-", "--json"], 2, "--output - cannot be combined with --json, because both write to stdout"),
        ([CAT, "-o", "zero.jpg/x"], 3, "cannot write 'zero.jpg/x/cat.neflag.overlay.png'"),
        ([CAT, "--nothing"], 2, "no such option"),
        ([CAT, "--seed", "x"], 2, "'--seed'"),
        ([CAT, "--config", "none.toml"], 3, "cannot read the configuration file 'none.toml'"),
    ],
)
def test_explain_error_is_one_line(xp, args, code, text):
    Path("empty").mkdir()
    Path("zero.jpg").touch()
    Path("short.jpg").write_bytes(CAT.read_bytes()[:2000])
    Path("text.jpg").write_text("not a picture")
    ran = xp("explain", *TINY, *args)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("xplain: error: ")
    assert text in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "code", "text"),
    [
        (
            "python:tests.helpers.factories:tinny",
            2,
            "module 'tests.helpers.factories' has no function 'tinny'; did you mean 'tiny'?",
        ),
        ("python:tests.nowhere:tiny", 2, "module 'tests.nowhere' of model 'python:tests.nowhere:tiny' not found"),
        ("python:tests.helpers.factories", 2, "invalid model name 'python:tests.helpers.factories'"),
        ("tests.helpers.factories:tiny", 2, "did you mean 'python:tests.helpers.factories:tiny'?"),
        ("tests/helpers/factories.py:tiny", 2, "did you mean 'python:tests.helpers.factories:tiny'?"),
        ("python:tests/helpers/factories.py:tiny", 2, "did you mean 'python:tests.helpers.factories:tiny'?"),
        ("python:tests.helpers.factories.py:tiny", 2, "did you mean 'python:tests.helpers.factories:tiny'?"),
        ("Timm:resnet18", 2, "unknown model 'Timm:resnet18'; did you mean 'timm:resnet18'?"),
        ("python:tests.nowhere:tiny", 2, "not found; install it or run the command in its directory"),
        ("python:tests.helpers.factories:not_a_model", 3, "returned str, not an nn.Module"),
        ("resnet51", 2, "unknown model 'resnet51'; did you mean 'resnet5"),
    ],
)
def test_invalid_model_is_one_line(xp, model, code, text):
    ran = xp("explain", CAT, "-m", model)
    assert ran.code == code
    assert text in ran.err
    assert ran.err.count("\n") == 1


def test_explain_skips_bad_image(xp, photos):
    (photos / "cat" / "bad.jpg").write_text("x")
    ran = xp("explain", photos, *TINY, "-a", "sm")
    assert (ran.code, len(ran.lines)) == (5, 3)
    assert ran.err.splitlines()[-1] == "xplain: explanations written: 3, failures: 1"
    assert xp("explain", photos, *TINY, "-a", "sm", "--fail-fast").code == 3


def test_bad_logits_fail_the_image(xp, tmp_path):
    Image.new("RGB", (40, 40), "black").save("dark.png")
    shutil.copy(CAT, "cat.jpg")
    broken = ("-m", "python:tests.helpers.factories:broken", "--device", "cpu")
    ran = xp("explain", "dark.png", *broken, "-a", "sm")
    assert ran.code == 3
    assert "the logits of 'dark.png' contain NaN or infinity" in ran.err
    both = xp("explain", "dark.png", "cat.jpg", *broken, "-a", "sm")
    assert (both.code, both.lines) == (5, ["xplain-out/cat.saliency.overlay.png"])


def test_unknown_label_fails_the_image(xp, photos):
    (photos / "cat").rename(photos / "chat")
    ran = xp("explain", photos, *TINY, "-a", "sm", "--target", "label")
    assert ran.code == 5
    assert "has no label: unknown class 'chat'; did you mean 'cat'" in ran.err
    assert len(ran.lines) == 2
