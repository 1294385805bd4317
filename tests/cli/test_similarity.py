"""``--target similar:IMAGE``: explain the similarity of the model's output to that of another image."""

from pathlib import Path

import numpy as np

import xplain
from tests.conftest import TINY
from tests.helpers.commands import single_line
from xplain.reports.render import read_record


def test_explain_similarity_equals_the_library(xp, photos):
    ran = xp(
        "explain",
        photos / "rocket/c.jpg",
        *TINY,
        "-a",
        "sm",
        "--save",
        "raw",
        "-o",
        "out",
        "--target",
        f"similar:{photos}/cat/a.jpg",
    )
    assert ran.code == 0, ran.err
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    x, reference = (
        xplain.read_image(photos / name, preprocessing=classifier.preprocessing)[None]
        for name in ("rocket/c.jpg", "cat/a.jpg")
    )
    expected = xplain.attribute(classifier, x, "sm", target=xplain.similarity(classifier, reference)).values[0]
    with np.load("out/c.saliency.similar-a.raw.npz") as content:
        np.testing.assert_allclose(content["attribution"], expected.numpy(), rtol=1e-6)
    record = read_record(Path("out/c.saliency.similar-a.raw.npz"))
    assert record["target"]["name"] == "similarity to a.jpg"
    assert list(record["model"]["references"]) == ["a.jpg"]


def test_evaluate_similarity_distinguishes_reference_images(xp, photos):
    arguments = ("evaluate", photos, *TINY, "-a", "sm", "-M", "deletion:steps=2", "-o", "run", "--target")
    assert xp(*arguments, f"similar:{photos}/cat/a.jpg").code == 0
    ran = xp(*arguments, f"similar:{photos}/rocket/c.jpg")
    assert ran.code == 2
    assert "'run' contains a run with a different " in single_line(ran.err)


def test_changed_reference_image_is_refused(xp, photos, tmp_path):
    reference = tmp_path / "reference.jpg"
    reference.write_bytes((photos / "cat/a.jpg").read_bytes())
    arguments = (
        "evaluate",
        photos,
        *TINY,
        "-a",
        "sm",
        "-M",
        "deletion:steps=2",
        "-o",
        "run",
        "--target",
        f"similar:{reference}",
    )
    assert xp(*arguments).code == 0
    reference.write_bytes((photos / "rocket/c.jpg").read_bytes())
    assert xp(*arguments).code == 2


def test_reference_errors_are_one_line(xp, photos):
    arguments = ("explain", photos / "cat/a.jpg", *TINY, "--target")
    ran = xp(*arguments, "similar:nope.jpg")
    assert (ran.code, single_line(ran.err)) == (3, "xplain: error: no such file: 'nope.jpg'; check the path")
    ran = xp(*arguments, f"similar:{photos}/cat/a.jpg", "--against", "1")
    assert (ran.code, single_line(ran.err)) == (
        2,
        "xplain: error: --target similar:IMAGE has no contrast classes; remove --against",
    )
