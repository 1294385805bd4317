"""How often the program waits for the emulated device: per step of sequential methods, per batch of images, per command."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import xplain
from tests.conftest import SAMPLES
from tests.cuda.networks import load, make_images
from xplain.oracle import Oracle

SINGLE = ("-m", "python:tests.helpers.factories:single", "--device", "cuda")
# Steps that are too small for any label to change, so that every step is taken.
SMALL_STEPS: dict[str, dict[str, Any]] = {
    "agi": {"step_size": 1e-6, "classes": 2},
    "mfaba": {"step_size": 1e-6},
    "boundary-ig": {"attack_step_size": 1e-6, "steps": 2},
    "dga": {},
    "la": {"classes": 3},
    "neflag": {"samples": 2},
    "isa": {"block": 768},
}


def count_waits(log: Any, classifier: xplain.Classifier, name: str, **settings: object) -> int:
    """Return how often the program waits for the device. A copy from memory that is not pinned waits too."""
    log.clear()
    xplain.attribute(classifier, make_images(), name, **settings)
    return sum(log.synchronizations.values()) + sum(log.uploads.values())


@pytest.mark.parametrize(
    ("name", "parameter", "waits"),
    [
        ("agi", "steps", 1),
        ("mfaba", "steps", 1),
        ("boundary-ig", "attack_steps", 1),
        ("dga", "steps", 0),
        ("la", "steps", 0),
        ("neflag", "steps", 0),
        ("isa", "ascent", 0),
    ],
)
def test_waits_per_step(log, name, parameter, waits):
    classifier = load()
    xplain.attribute(classifier, make_images(), name, **SMALL_STEPS[name] | {parameter: 1})  # prepares the model
    few = count_waits(log, classifier, name, **SMALL_STEPS[name], **{parameter: 3})
    many = count_waits(log, classifier, name, **SMALL_STEPS[name], **{parameter: 8})
    assert many - few == 5 * waits


def test_guided_ig_waits_at_most_twice_per_step(log):
    """Per step, the values with the smallest gradients move in several rounds."""
    classifier = load()
    xplain.attribute(classifier, make_images(), "guided-ig", steps=1)  # prepares the model
    few, many = (count_waits(log, classifier, "guided-ig", steps=steps) for steps in (5, 15))
    assert 10 <= many - few <= 20


@pytest.mark.parametrize("name", ["integrated-gradients", "smoothgrad", "rise"])
def test_waits_do_not_depend_on_the_number_of_calls(log, name):
    parameter = {"integrated-gradients": "steps", "smoothgrad": "samples", "rise": "masks"}[name]
    classifier = load()
    waits = [count_waits(log, classifier, name, batch_size=4, **{parameter: count}) for count in (8, 8, 24)]
    assert waits[1] == waits[2]


def test_xrai_reads_the_device_once_per_batch(log):
    classifier = load()
    assert count_waits(log, classifier, "xrai", steps=2) <= 20


def test_model_calls_do_not_wait(log):
    oracle, x = Oracle(load(), images=2), make_images().to("cuda")
    y, image = torch.zeros(2, dtype=torch.long, device="cuda"), torch.arange(2, device="cuda")
    oracle.gradients(x, y, image)  # prepares the model
    log.clear()
    oracle.gradients(x, y, image)
    oracle.gradients(x, y[:, None].expand(2, 3), image)
    oracle.scores(x, y, image)
    assert (log.synchronizations, log.uploads) == ({}, {})
    assert oracle.image_rows.tolist() == [[4, 5], [4, 5]]


@pytest.fixture
def run_command(log, xp, monkeypatch):
    """Return a function that runs a command on copies of a photograph, without example pictures, which run methods again."""
    monkeypatch.setattr("xplain.pipelines.examples.write_examples", lambda *_, **__: None)

    def run(command: str, images: int, *arguments: object) -> Any:
        folder = Path(f"photos-{images}")
        folder.mkdir()
        for number in range(images):
            shutil.copy(SAMPLES / "cat.jpg", folder / f"{number}.jpg")
        log.clear()
        ran = xp(command, folder, *SINGLE, *arguments, "-o", f"out-{images}")
        assert ran.code == 0, ran.err
        return log

    return run


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("explain", ("-a", "ig:steps=2", "-a", "smoothgrad:samples=2")),
        ("evaluate", ("-a", "smoothgrad:samples=2", "-M", "deletion:steps=4", "-M", "morf:steps=2")),
    ],
)
def test_commands_wait_per_batch_and_not_per_image(run_command, command, arguments):
    waits = []
    for images in (1, 4):
        log = run_command(command, images, *arguments)
        waits.append(sum(log.synchronizations.values()))
        assert [entry for entry in log.synchronizations if entry[1].startswith("core/rng")] == []
        assert {kind for kind, line in log.uploads if line.startswith("models/devices")} == {"pinned"}
    assert waits[0] == waits[1]
