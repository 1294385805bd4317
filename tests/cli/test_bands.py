"""Commands on images of 4 and 12 bands: closed forms of a linear model, pictures, records, data sets and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import toys
from tests.helpers.commands import read_messages
from xplain.reports.band_pictures import band_shares, show_bands

tifffile = pytest.importorskip("tifffile")

SIDE = 16
LINEAR = {4: "python:tests.helpers.factories:linear_bands", 12: "python:tests.helpers.factories:linear_12_bands"}
CONV = ("-m", "python:tests.helpers.factories:conv_bands")
SQUASH = 18  # pixels of the short side before the crop of 16, by ``Preprocessing.for_size``


def make_bands(channels: int, seed: int = 0) -> np.ndarray:
    """Return (18, 18, C) float32 in [0, 1], of which the model sees the 16 x 16 pixels in the center."""
    return np.random.default_rng(seed).random((SQUASH, SQUASH, channels), dtype=np.float32)


def crop(bands: np.ndarray) -> np.ndarray:
    """Return the model input (C, 16, 16)."""
    return bands[1:17, 1:17].transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [4, 12])
def test_explain_gives_the_closed_form(xp, channels):
    bands = make_bands(channels)
    np.save("x.npy", bands)
    ran = xp(
        "explain", "x.npy", "-m", LINEAR[channels], "-a", "ig:steps=2", "--target", "city", "--save", "raw", "--json"
    )
    (record,) = ran.records
    weight = toys.band_weights(channels)[2].numpy()
    with np.load(record["files"]["raw"]) as raw:
        np.testing.assert_allclose(raw["image"], crop(bands), rtol=1e-6)
        np.testing.assert_allclose(raw["attribution"], weight * crop(bands), rtol=1e-4, atol=1e-7)
        shares = np.abs(raw["attribution"].astype(np.float64)).sum(axis=(1, 2))
    np.testing.assert_allclose(record["band_shares"], shares / shares.sum(), atol=1e-6)
    assert record["pixels"] == {"type": "float32", "bands": channels, "axes": "hwc", "range": [0.0, 1.0]}
    assert record["render"]["bands"] == [1, 2, 3]


@pytest.mark.parametrize("channels", [4, 12])
def test_evaluate_gives_the_closed_form(xp, channels):
    """Class folders of TIFF files: the curve of deletion leads from the model's probability to that of black."""
    for index, name in enumerate(("field", "water", "city")):
        Path("data", name).mkdir(parents=True)
        stored = (make_bands(channels, index) * 65535).astype(np.uint16)
        tifffile.imwrite(f"data/{name}/{index}.tif", stored, photometric="minisblack", planarconfig="contig")
    ran = xp("evaluate", "data", "-m", LINEAR[channels], "-a", "ig:steps=2", "-M", "deletion:steps=2", "-M", "aic", "--target", "label",
             "--save-curves", "-o", "run", "--json")  # fmt: skip
    assert ran.code == 5  # aic is undefined
    assert (
        "xplain: note: pixels of 16 bits are scaled from 0..65535 to 0..1; use --range for another range"
        in read_messages(ran.err)
    )
    records = [json.loads(line) for line in Path("run/items/0.jsonl").read_text().splitlines()]
    weights = toys.band_weights(channels)
    for index, name in enumerate(("field", "water", "city")):
        stored = crop((make_bands(channels, index) * 65535).astype(np.uint16) / np.float64(65535))
        logits = (weights * torch.from_numpy(stored.astype(np.float32)).double()).sum(dim=(1, 2, 3))
        key = f"{name}/{index}.tif"
        (curve,) = [
            record["curve"]
            for record in records
            if record["key"] == key and record.get("method") == "integrated-gradients:steps=2" and record["curve"]
        ]
        assert abs(curve[0] - float(logits.softmax(dim=0)[index])) < 1e-5
        assert abs(curve[-1] - 1 / 3) < 1e-5
    (summary,) = ran.records
    reasons = {record["undefined"] for record in records if record.get("metric") == "aic"}
    assert reasons == {f"the image has {channels} bands"}
    assert summary["items"] | {"evaluated": 3, "failed": 0} == summary["items"]


def test_evaluate_reads_arrays_and_a_table_of_labels(xp):
    Path("data").mkdir()
    for index in range(3):
        np.save(f"data/{index}.npy", make_bands(4, index))
    Path("labels.csv").write_text("0.npy,field\n1.npy,water\n2.npy,city\n")
    ran = xp(
        "evaluate",
        "data",
        "--labels",
        "labels.csv",
        "-m",
        LINEAR[4],
        "-a",
        "sobel",
        "-M",
        "deletion:steps=2",
        "-o",
        "run",
        "--json",
    )
    assert (ran.code, ran.records[0]["items"]["evaluated"]) == (0, 3)
    labels = [
        json.loads(line).get("label") for line in Path("run/items/0.jsonl").read_text().splitlines() if '"item"' in line
    ]
    assert labels == [0, 1, 2]


def test_arrays_next_to_images_are_not_read(xp):
    Path("data").mkdir()
    Image.new("RGB", (20, 20)).save("data/a.png")
    np.save("data/a.npy", make_bands(3))
    ran = xp("explain", "data", "-m", "python:tests.helpers.factories:tiny", "-a", "random", "--json")
    assert [record["input"] for record in ran.records] == ["data/a.png"]
    assert any("skipped 1 array (.npy, .npz) beside images: 'data/a.npy'" in line for line in read_messages(ran.err))


@pytest.mark.parametrize(("bands", "shown"), [("", (0, 1, 2)), ("3,2,1", (2, 1, 0)), ("4", (3, 3, 3))])
def test_bands_choose_what_pictures_show(xp, bands, shown):
    """With a zero map (--sign negative of a positive map), the overlay is the darkened, half gray picture of the bands."""
    image = make_bands(4)
    np.save("x.npy", image)
    options = ("--bands", bands) if bands else ()
    ran = xp(
        "explain",
        "x.npy",
        *CONV,
        "-a",
        "center",
        "--sign",
        "negative",
        "--save",
        "overlay",
        "--save",
        "masked",
        *options,
        "--json",
    )
    (record,) = ran.records
    assert record["render"]["bands"] == list(dict.fromkeys(band + 1 for band in shown))
    picture = crop(image)[list(shown)]
    low, high = np.percentile(picture, (2, 98), axis=(1, 2), keepdims=True)
    color = (np.clip((picture - low) / (high - low), 0, 1).transpose(1, 2, 0) * 255).round()
    background = (0.5 * color + 0.5 * (color @ [0.299, 0.587, 0.114])[..., None]) * 0.75
    drawn = np.asarray(Image.open(record["files"]["overlay"]))
    assert np.abs(drawn - background).max() <= 1


def test_bands_do_not_change_the_attribution(xp):
    np.save("x.npy", make_bands(4))
    maps = []
    for name, options in (("a", ()), ("b", ("--bands", "4,2,1"))):
        (record,) = xp(
            "explain", "x.npy", *CONV, "-a", "lime:samples=20", "--save", "raw", *options, "-o", name, "--json"
        ).records
        maps.append(np.load(record["files"]["raw"])["attribution"])
        assert record["details"]["segmented_bands"] == "1, 2, 3"
    assert np.array_equal(*maps)


def test_bands_of_a_photograph(xp):
    Image.fromarray(np.full((40, 40, 3), (200, 100, 50), np.uint8)).save("x.png")
    ran = xp("explain", "x.png", "-m", "python:tests.helpers.factories:tiny", "-a", "center", "--save", "masked", "--bands", "3,2,1",
             "--clip", "0,100", "--json")  # fmt: skip
    drawn = np.asarray(Image.open(ran.records[0]["files"]["masked"]))
    assert drawn[16, 16].tolist() == pytest.approx([50, 100, 200], abs=6)


def test_compare_draws_bands(xp):
    np.save("x.npy", make_bands(4))
    ran = xp(
        "compare",
        "x.npy",
        *CONV,
        "-a",
        "ig:steps=2",
        "-a",
        "sobel",
        "-M",
        "deletion:steps=2",
        "--bands",
        "4,2,1",
        "--json",
    )
    assert ran.code == 0
    (row,) = ran.records[0]["rows"]
    assert row["bands"] == [4, 2, 1]
    assert len(row["cells"][0]["band_shares"]) == 4
    assert row["cells"][1].get("band_shares") is None  # one value per pixel


def test_range_is_recorded_and_changes_the_fingerprint(xp):
    np.save("x.npy", (make_bands(4) * 4095).astype(np.uint16))
    records = []
    for options in ((), ("--range", "0,4095"), ("--range", "0,8190")):
        records += xp("explain", "x.npy", *CONV, "-a", "saliency", *options, "--json").records
    assert len({record["fingerprint"] for record in records}) == 3
    assert [record["pixels"]["range"] for record in records] == [[0, 65535], [0, 4095], [0, 8190]]
    assert (
        Path(records[1]["files"]["overlay"]).name == f"x.saliency.{CONV[1].replace(':', '-')}.range=0,4095.overlay.png"
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 3, "'x.tif' has signed 16-bit pixels, whose range is not defined; set it with --range LOW,HIGH"),
        (("--range", "0,500"), 3, "outside the range 0 to 500; use a wider --range, or add --clip-range"),
        (("--range", "5,1"), 2, "invalid range '5,1'; use finite values with LOW < HIGH"),
        (("--range", "a"), 2, "invalid range 'a'; use two pixel values LOW,HIGH, such as 0,4095"),
        (("--bands", "1,2"), 2, "--bands 1,2 has 2 bands; use three bands (red, green, blue) or a single one"),
        (("--bands", "0"), 2, "invalid bands '0'; use band numbers from 1"),
        (
            ("--bands", "5"),
            2,
            "--bands 5 names band 5, but the input of python:tests.helpers.factories:conv_bands has 4",
        ),
        (
            ("--input-bands", "1,2"),
            2,
            "--input-bands 1,2 has 2 bands, but python:tests.helpers.factories:conv_bands takes 4",
        ),
        (("--clip-range",), 2, "--clip-range requires --range; add --range LOW,HIGH"),
    ],
)
def test_refusals_name_the_way_out(xp, options, code, message):
    tifffile.imwrite("x.tif", (make_bands(4) * 10000).astype(np.int16), photometric="minisblack", planarconfig="contig")
    ran = xp("explain", "x.tif", *CONV, "-a", "saliency", *options)
    lines = [line for line in read_messages(ran.err) if "note:" not in line]
    assert (ran.code, len(lines)) == (code, 1)
    assert message in lines[0]


def test_show_bands_of_one_two_and_constant_bands():
    gray = np.linspace(0, 1, 101).reshape(1, 1, 101)
    shown = show_bands(np.concatenate([gray, 1 - gray]))
    assert shown.shape == (1, 101, 3)
    assert [shown[0, i, 0] for i in (0, 2, 50, 98, 100)] == [0, 0, 128, 255, 255]
    assert show_bands(np.full((4, 2, 2), 0.2))[0, 0].tolist() == [51, 51, 51]
    assert band_shares(np.zeros((4, 2, 2), np.float32)) is None
