"""``xplain explain``: files, output, records and configuration."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
from tests.conftest import SAMPLES, TINY
from xplain.data.preprocessing import Preprocessing

CAT = SAMPLES / "cat.jpg"


def test_explain_writes_overlay(xp):
    ran = xp("explain", CAT, *TINY)
    assert ran.code == 0
    assert ran.err == f"xplain: {CAT}: neflag: espresso 0.27\n"
    assert ran.lines == ["xplain-out/cat.neflag.overlay.png"]
    assert Image.open(ran.lines[0]).size == (32, 32)


def test_save_writes_every_kind(xp):
    ran = xp(
        "explain",
        CAT,
        *TINY,
        "-a",
        "ig",
        *(part for kind in ("overlay", "heatmap", "masked", "figure", "raw") for part in ("--save", kind)),
    )
    assert ran.lines == [
        f"xplain-out/cat.integrated-gradients.{kind}"
        for kind in ("overlay.png", "heatmap.png", "masked.png", "figure.png", "raw.npz")
    ]
    assert all(Path(line).stat().st_size > 0 for line in ran.lines)
    assert not list(Path("xplain-out").glob(".*"))


def test_raw_equals_library(xp):
    xp("explain", CAT, *TINY, "-a", "agi:steps=3,classes=2", "--save", "raw", "--seed", "7")
    content = np.load("xplain-out/cat.agi.raw.npz", allow_pickle=False)
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    image = xplain.read_image(CAT, preprocessing=clf.preprocessing)
    att = xplain.attribute(clf, image[None], "agi", steps=3, classes=2, seed=7)
    np.testing.assert_array_equal(content["attribution"], att.values[0].float().numpy())
    np.testing.assert_array_equal(content["image"], image.numpy())
    record = json.loads(str(content["record"]))
    assert record["params"] == {"variant": "official", "path": "curve", "step_size": 0.05, "steps": 3, "classes": 2}
    assert record["seed"] == 7


def test_record_is_complete(xp):
    (record,) = xp("explain", CAT, *TINY, "-a", "ig:steps=10", "--json").records
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    x = xplain.read_image(CAT, preprocessing=clf.preprocessing)[None]
    probabilities = clf(x).detach().softmax(1)[0]
    best = int(probabilities.argmax())
    assert record["input"] == str(CAT)
    assert record["sha256"] == hashlib.sha256(CAT.read_bytes()).hexdigest()
    assert (record["method"], record["score"]) == ("integrated-gradients", "logit")
    assert record["target"]["index"] == best
    assert record["target"]["name"] == clf.labels[best]
    assert record["target"]["probability"] == pytest.approx(float(probabilities[best]), abs=1e-9)
    assert [entry["index"] for entry in record["prediction"]] == probabilities.argsort(descending=True).tolist()[:5]
    assert (record["cost"]["forwards"], record["cost"]["backwards"]) == (10, 10)
    values = xplain.attribute(clf, x, "ig", steps=10)
    drop = float((clf(x)[0, best] - clf(torch.zeros_like(x))[0, best]).detach())
    assert record["completeness"]["expected"] == pytest.approx(drop, abs=1e-6)
    assert record["completeness"]["sum"] == pytest.approx(float(values.values.sum()), abs=1e-6)
    assert record["completeness"]["gap"] == pytest.approx(float(values.values.sum()) - drop, abs=1e-6)
    assert record["model"]["name"] == "python:tests.helpers.factories:tiny"
    assert (record["device"], record["precision"]) == ("cpu", "fp32")
    assert record["preprocessing"]["size"] == [32, 32]
    assert record["versions"]["xplain"] == xplain.__version__
    assert record["files"] == {"overlay": "xplain-out/cat.integrated-gradients.overlay.png"}
    assert record["warnings"] == []


def test_image_size_sets_preprocessing(xp):
    (record,) = xp("explain", CAT, *TINY, "-a", "sm", "--image-size", "64", "--json").records
    assert (record["preprocessing"]["size"], record["preprocessing"]["resize"]) == ([64, 64], 74)  # 37 for 32


def test_explain_reproduces_golden_numbers(xp):
    """The sum of absolute values to six digits. A change here changes a definition, and belongs in the changelog."""
    methods = (
        "saliency",
        "gxi",
        "sg:samples=5",
        "ig:steps=10",
        "agi:steps=3,classes=2",
        "neflag:samples=5",
        "mfaba",
        "dga:steps=5",
        "ufg",
    )
    args = [part for m in methods for part in ("-a", m)]
    ran = xp("explain", CAT, *TINY, *args, "--save", "raw", "--json")
    sums = {
        r["method"]: float(np.abs(np.load(r["files"]["raw"])["attribution"].astype(np.float64)).sum())
        for r in ran.records
    }
    assert sums == pytest.approx(GOLDEN, rel=1e-6)


GOLDEN = {
    "saliency": 1.31433576,
    "input-x-gradient": 0.585386835,
    "smoothgrad": 0.945119273,
    "integrated-gradients": 0.562210648,
    "agi": 0.0668606836,
    "neflag": 0.140888376,
    "mfaba": 0.00252865041,
    "dga": 3.72948359,
    "uniform-fullgrad": 0.735833788,
}


@pytest.mark.parametrize(
    ("target", "index", "suffix"), [("3", 3, ".3"), ("rocket", 2, ".2"), ("Rocket", 2, ".2"), ("label", 0, ".0")]
)
def test_target_is_index_or_name(xp, photos, target, index, suffix):
    (record,) = xp("explain", photos / "cat" / "a.jpg", *TINY, "-a", "sm", "--target", target, "--json").records
    assert record["target"]["index"] == index
    assert record["files"]["overlay"] == f"xplain-out/a.saliency{suffix}.overlay.png"


def test_target_top_k_explains_best_classes(xp):
    records = xp("explain", CAT, *TINY, "-a", "sm", "--target", "top:3", "--json").records
    assert [r["target"]["index"] for r in records] == [entry["index"] for entry in records[0]["prediction"][:3]]
    assert len({r["files"]["overlay"] for r in records}) == 3


def test_against_subtracts_gradients(xp):
    xp("explain", CAT, *TINY, "-a", "sm", "--target", "0", "--against", "rocket,4", "--save", "raw")
    clf = xplain.load_classifier("python:tests.helpers.factories:tiny", device="cpu")
    x = xplain.read_image(CAT, preprocessing=clf.preprocessing)[None].double().requires_grad_()
    z = clf(x)[0]
    (gradient,) = torch.autograd.grad(z[0] - (z[2] + z[4]) / 2, x)
    values = np.load("xplain-out/cat.saliency.0.vs-2,4.raw.npz")["attribution"]
    np.testing.assert_allclose(values, gradient[0].numpy(), rtol=1e-5, atol=1e-9)


def test_against_runner_up_is_recorded(xp):
    (record,) = xp("explain", CAT, *TINY, "-a", "sm", "--against", "runner-up", "--json").records
    assert [entry["index"] for entry in record["against"]] == [record["prediction"][1]["index"]]


def test_agi_uses_contrast_classes(xp):
    (record,) = xp("explain", CAT, *TINY, "-a", "agi:steps=2", "--target", "0", "--against", "4,1", "--json").records
    assert record["details"]["classes"] == [4, 1]


def test_directory_structure_is_kept(xp, photos):
    ran = xp("explain", photos, *TINY, "-a", "sm")
    assert ran.lines == [f"xplain-out/{name}.saliency.overlay.png" for name in ("cat/a", "espresso/b", "rocket/c")]


def test_images_from_lists_globs_stdin(xp, photos, monkeypatch):
    Path("list.txt").write_text(f"{photos}/cat/a.jpg\n\n{photos}/rocket/c.jpg\n")
    assert len(xp("explain", "@list.txt", *TINY, "-a", "sm").lines) == 2
    assert len(xp("explain", f"{photos}/*/*.jpg", *TINY, "-a", "sm", "-o", "g").lines) == 3
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{photos}/cat/a.jpg\n".encode())))
    assert xp("explain", "--files-from", "-", *TINY, "-a", "sm", "-o", "f").lines == ["f/a.saliency.overlay.png"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CAT.read_bytes())))
    assert xp("explain", "-", *TINY, "-a", "sm", "-o", "s").lines == ["s/stdin.saliency.overlay.png"]


def test_output_hyphen_writes_to_stdout(capfdbinary, monkeypatch, tmp_path):
    from xplain.cli.app import run

    monkeypatch.chdir(tmp_path)
    assert run(["explain", str(CAT), *TINY, "-a", "sm", "-o", "-"]) == 0
    assert Image.open(io.BytesIO(capfdbinary.readouterr().out)).size == (32, 32)
    assert not list(tmp_path.iterdir())


def test_seed_determines_bytes(xp):
    args = ("explain", CAT, *TINY, "-a", "neflag:samples=4", "--save", "raw")
    contents = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        xp(*args, "-o", folder, "--seed", seed)
        contents.append(np.load(f"{folder}/cat.neflag.raw.npz")["attribution"].tobytes())
    assert contents[0] == contents[1] != contents[2]


def test_same_method_has_distinct_files(xp):
    ran = xp("explain", CAT, *TINY, "-a", "ig:steps=5", "-a", "ig:steps=6", "-a", "sm")
    assert ran.lines == [
        f"xplain-out/cat.{name}.overlay.png"
        for name in ("integrated-gradients_steps=5", "integrated-gradients_steps=6", "saliency")
    ]


def test_empty_picture_is_a_warning(xp):
    Image.new("RGB", (40, 40), "gray").save("flat.png")
    ran = xp("explain", "flat.png", *TINY, "-a", "sobel", "--json")
    empty = "the visualization is blank, because the clipped map is constant"
    assert ran.records[0]["warnings"] == ["the map is zero everywhere", empty]
    assert f"warning: flat.png: sobel: {empty}" in ran.err
    assert xp("explain", "flat.png", *TINY, "-a", "sobel", "-q", "-o", "q").err == ""


def test_flag_precedes_environment_and_file(xp, monkeypatch):
    Path("c.toml").write_text('seed = 1\nmethod = ["sm"]\n[explain]\nseed = 2\nbatch-size = "4"\njson = true\n')
    args = ("explain", CAT, *TINY, "--overwrite", "--json")
    assert xp(*args).records[0]["seed"] == 0
    (record,) = xp(*args, "--config", "c.toml").records
    assert (record["seed"], record["method"]) == (2, "saliency")
    monkeypatch.setenv("XPLAIN_SEED", "3")
    monkeypatch.setenv("XPLAIN_METHOD", "sobel center")
    records = xp(*args, "--config", "c.toml").records
    assert [(r["seed"], r["method"]) for r in records] == [(3, "sobel"), (3, "center")]
    assert xp(*args, "--config", "c.toml", "--seed", "4", "-a", "sm").records[0]["seed"] == 4
    monkeypatch.delenv("XPLAIN_SEED")
    monkeypatch.setenv("XPLAIN_CONFIG", "c.toml")
    assert xp("explain", CAT, *TINY, "--overwrite").records[0]["seed"] == 2


def test_unknown_option_in_file_is_rejected(xp):
    Path("c.toml").write_text("sead = 1\n")
    ran = xp("explain", CAT, *TINY, "--config", "c.toml")
    assert (ran.code, ran.err) == (2, "xplain: error: unknown option 'sead' in c.toml; did you mean 'seed'?\n")


def test_preprocessing_equals_library(xp):
    xp("explain", CAT, *TINY, "-a", "sm", "--save", "raw")
    expected = xplain.read_image(CAT, preprocessing=Preprocessing.for_size(32)).numpy()
    np.testing.assert_array_equal(np.load("xplain-out/cat.saliency.raw.npz")["image"], expected)


def test_summary_names_method_and_class_without_name(xp):
    model = ("-m", "python:tests.helpers.factories:smooth", "--device", "cpu")
    ran = xp("explain", CAT, *model, "-a", "sm", "--target", "1", "--save", "raw", "--save", "overlay", "--json")
    (record,) = ran.records
    name = record["target"]["name"] or "class 1"
    assert list(record["files"].values()) == [
        "xplain-out/cat.saliency.1.raw.npz",
        "xplain-out/cat.saliency.1.overlay.png",
    ]
    assert f"cat.jpg: saliency: {name} {record['target']['probability']:.2f}\n" in ran.err
    assert xp("explain", CAT, *model, "-a", "sm", "--target", "1", "-q").err == ""
