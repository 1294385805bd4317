"""--prompt, --template and --classes of CLIP models in all commands, and their place in records and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import xplain
from tests.conftest import SAMPLES
from tests.helpers.text_models import make_clip, make_clip_tokenizer

pytest.importorskip("transformers")

CAT = SAMPLES / "cat.jpg"
PROMPTS = ("a photo of a cat", "a photo of a dog")
FLAGS = ("--prompt", PROMPTS[0], "--prompt", PROMPTS[1])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = make_clip_tokenizer(folder)
    make_clip().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    content = {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 64}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return ("-m", f"hf:{folder}", "--device", "cpu")


def test_explain_records_the_texts(xp, clip):
    ran = xp("explain", CAT, *clip, *FLAGS, "-a", "saliency", "--target", PROMPTS[1], "--json")
    assert (ran.code, ran.out.count("\n")) == (0, 1)
    record = json.loads(ran.out)
    assert record["model"]["texts"] == [[prompt] for prompt in PROMPTS]
    assert record["target"]["name"] == PROMPTS[1]
    assert record["preprocessing"]["crop"] == "floor"
    assert "transformers" in record["versions"]
    classifier = xplain.load_classifier(clip[1], device="cpu", prompts=PROMPTS)
    image = xplain.read_image(CAT, preprocessing=classifier.preprocessing)
    with torch.no_grad():
        probability = classifier(image[None]).softmax(dim=1)[0, 1]
    assert record["target"]["probability"] == pytest.approx(float(probability), abs=1e-5)


def test_environment_has_one_prompt_per_line(xp, clip, monkeypatch):
    monkeypatch.setenv("XPLAIN_PROMPT", "\n".join((*PROMPTS, "")))
    ran = xp("list", "classes", *clip, "--json")
    assert [json.loads(line)["name"] for line in ran.lines] == list(PROMPTS)


def test_config_file_has_a_list_of_prompts(xp, clip, tmp_path):
    (tmp_path / "c.toml").write_text(f"prompt = {json.dumps(PROMPTS)}\n")
    ran = xp("list", "classes", *clip, "--config", tmp_path / "c.toml", "--json")
    assert [json.loads(line)["name"] for line in ran.lines] == list(PROMPTS)


def test_templates_with_class_names(xp, clip, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    flags = ("--classes", tmp_path / "names.txt", "--template", "a sketch of a {}", "--template", "one {}")
    ran = xp("explain", CAT, *clip, *flags, "-a", "saliency", "--json")
    record = json.loads(ran.out)
    assert record["model"]["texts"] == [["a sketch of a cat", "one cat"], ["a sketch of a dog", "one dog"]]
    assert {entry["name"] for entry in record["prediction"]} == {"cat", "dog"}


def test_other_texts_of_the_same_names_are_another_run(xp, clip, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat.jpg").write_bytes(CAT.read_bytes())
    command = (
        "evaluate",
        "data",
        *clip,
        "-a",
        "saliency",
        "-M",
        "deletion:steps=2",
        "-o",
        "run",
        "--classes",
        "names.txt",
    )
    assert xp(*command).code == 0
    assert xp(*command, "--template", "a photo of a {}.").code == 0
    other = xp(*command, "--template", "a photo of a {}")
    assert other.code == 2
    assert other.err.startswith("xplain: error: 'run' contains a run with a different model: ")


def test_files_of_other_texts_have_other_names(xp, clip):
    command = ("explain", CAT, *clip, "-a", "saliency", "--target", "0", "-o", "out")
    first = xp(*command, *FLAGS).lines
    assert xp(*command, *FLAGS).lines == first
    second = xp(*command, "--prompt", PROMPTS[0], "--prompt", "a map").lines
    assert first == ["out/cat.saliency.0.overlay.png"]
    assert len(second) == 1
    assert second[0].startswith("out/cat.saliency.0.")
    assert second != first


def test_compare_accepts_prompts(xp, clip):
    ran = xp("compare", CAT, *clip, *FLAGS, "-a", "saliency", "--no-metrics", "-o", "compared")
    assert ran.code == 0
    content = json.loads(Path("compared/compare.json").read_text("utf-8"))
    assert content["models"][clip[1]]["model"]["texts"] == [[prompt] for prompt in PROMPTS]
    assert {entry["name"] for entry in content["rows"][0]["prediction"]} == set(PROMPTS)


def test_errors_have_one_line(xp, clip):
    ran = xp("explain", CAT, *clip)
    assert ran.code == 2
    assert ran.err == (
        f"xplain: error: '{clip[1]}' compares images with texts; name the classes with --prompt or --classes\n"
    )
    ran = xp("explain", CAT, "--prompt", "a cat")
    assert ran.code == 2
    assert ran.err == (
        "xplain: error: --prompt and --template do not apply to 'efficientnet-lite0'; "
        "use them with CLIP and SigLIP models (hf:... or clip:...)\n"
    )
