"""Zero-shot classifiers of Hugging Face: logits equal ``logits_per_image``; prompts, templates, scale, bias, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import xplain
from tests.helpers.hugging_face import block_network, change_json, make_random
from tests.helpers.text_models import TOWER, VISION, make_clip, make_clip_tokenizer, make_siglip, make_siglip_tokenizer
from xplain.core.errors import InputError, UsageError

transformers = pytest.importorskip("transformers")

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
PROMPTS = ["a photo of a cat", "two dogs", "an old map of the sea"]
PROCESSOR = {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 64}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders with a CLIP and a SigLIP model and their tokenizers."""
    folder = tmp_path_factory.mktemp("saved")
    for name, model, tokenizer in (
        ("clip", make_clip(), make_clip_tokenizer(folder)),
        ("siglip", make_siglip(), make_siglip_tokenizer()),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    attempts = block_network(monkeypatch)
    yield shutil.copytree(saved, tmp_path / "models")
    assert attempts == []


def load(path: Path, **options: Any) -> xplain.Classifier:
    return xplain.load_classifier(f"hf:{path}", device="cpu", **options)


def load_error(path: Path, **options: Any) -> str:
    with pytest.raises((UsageError, InputError)) as error:
        load(path, **options)
    return str(error.value).replace(f"hf:{path}", "NAME")


@torch.no_grad()
def expected_logits(path: Path, texts: list[str], images: torch.Tensor = IMAGES, **options: Any) -> torch.Tensor:
    """Return ``logits_per_image`` as transformers' own pipeline computes it."""
    model = transformers.AutoModel.from_pretrained(path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    length = model.config.text_config.max_position_embeddings
    inputs = tokenizer(texts, padding="max_length", max_length=length, return_tensors="pt")
    if model.config.model_type == "siglip":
        del inputs["attention_mask"]
    inputs.pop("token_type_ids", None)
    return model(pixel_values=(images - MEAN) / STD, **inputs, **options).logits_per_image


@pytest.mark.parametrize(("name", "activation"), [("clip", "softmax"), ("siglip", "sigmoid")])
def test_logits_equal_transformers(folder, name, activation):
    classifier = load(folder / name, prompts=PROMPTS)
    expected = expected_logits(folder / name, PROMPTS)
    assert expected.std() > 0.1
    torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=2e-5)
    assert (classifier.output.activation, classifier.output.source) == (activation, "config")
    assert classifier.labels == PROMPTS
    assert classifier.texts == tuple((prompt,) for prompt in PROMPTS)
    assert classifier.size == (64, 64)


def test_only_the_image_tower_is_in_the_module(folder):
    clip = load(folder / "clip", prompts=PROMPTS).model
    assert {name for name, _ in clip.named_children()} == {"vision_model", "visual_projection"}
    assert {name for name, _ in clip.named_buffers(recurse=False)} == {"text_features", "scale", "bias"}
    assert not any("text" in name for name, _ in clip.named_parameters())
    torch.testing.assert_close(clip.text_features.norm(dim=1), torch.ones(3))


def test_text_tower_runs_once(folder, monkeypatch):
    calls = []
    plain = transformers.CLIPModel.get_text_features
    monkeypatch.setattr(
        transformers.CLIPModel, "get_text_features", lambda *args, **options: calls.append(1) or plain(*args, **options)
    )
    classifier = load(folder / "clip", prompts=PROMPTS)
    classifier(IMAGES)
    classifier(IMAGES)
    assert calls == [1]


def test_templates_average_normalized_features(folder, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    templates = ["a photo of a {}", "a drawing of a {} at night"]
    classifier = load(folder / "clip", classes=tmp_path / "names.txt", templates=templates)
    assert classifier.labels == ["cat", "dog"]
    assert classifier.texts[1] == ("a photo of a dog", "a drawing of a dog at night")
    each = [load(folder / "clip", prompts=[t.format(n) for n in ("cat", "dog")]).model.text_features for t in templates]
    mean = (each[0] + each[1]) / 2
    expected = mean / mean.norm(dim=1, keepdim=True)
    torch.testing.assert_close(classifier.model.text_features, expected, rtol=0, atol=1e-6)
    assert (each[0] - each[1]).abs().max() > 0.01


def test_default_template_and_wnids(folder, tmp_path):
    (tmp_path / "names.csv").write_text("index,wnid,name\n0,n01440764,tench\n1,n02102040,{} dog\n")
    classifier = load(folder / "clip", classes=tmp_path / "names.csv")
    assert classifier.texts == (("a photo of a tench.",), ("a photo of a {} dog.",))
    assert (classifier.labels, classifier.wnids) == (["tench", "{} dog"], ["n01440764", "n02102040"])
    by_list = load(folder / "clip", classes=["tench", "{} dog"])
    assert torch.equal(by_list.model.text_features, classifier.model.text_features)
    assert by_list.labels == ["tench", "{} dog"]


def test_one_prompt_of_clip_is_a_value(folder):
    classifier = load(folder / "clip", prompts=PROMPTS[:1])
    expected = expected_logits(folder / "clip", PROMPTS[:1])
    torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert classifier.output.activation == "none"


def test_one_prompt_of_siglip_is_binary(folder):
    """The logits of the two classes are -z and z, exactly."""
    classifier = load(folder / "siglip", prompts=PROMPTS[:1])
    logits = classifier(IMAGES)
    expected = expected_logits(folder / "siglip", PROMPTS[:1])
    torch.testing.assert_close(logits[:, 1:], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits[:, 0], -logits[:, 1])
    assert classifier.output.activation == "binary"
    assert classifier.labels == [f"not {PROMPTS[0]}", PROMPTS[0]]


def test_image_size_interpolates_positions(folder):
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    classifier = load(folder / "clip", prompts=PROMPTS, image_size=96)
    expected = expected_logits(folder / "clip", PROMPTS, images, interpolate_pos_encoding=True)
    torch.testing.assert_close(classifier(images), expected, rtol=1e-5, atol=2e-5)


def test_hash_covers_texts_and_weights(folder):
    def load_hash(*prompts: str) -> str:
        return load(folder / "clip", prompts=prompts).weights.sha256

    first = load_hash("a", "b")
    assert first == load_hash("a", "b")
    assert len({first, load_hash("b", "a"), load_hash("a", "c")}) == 3
    model = make_clip(seed=1)
    model.save_pretrained(folder / "clip")
    assert load_hash("a", "b") != first


def test_weights_file_and_random_weights(folder, tmp_path):
    from safetensors.torch import save_file

    other = make_clip(seed=1)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    classifier = load(folder / "clip", prompts=PROMPTS, weights=tmp_path / "other.safetensors")
    other.save_pretrained(folder / "clip")
    expected = expected_logits(folder / "clip", PROMPTS)
    torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=2e-5)
    first, second = (load(folder / "clip", prompts=PROMPTS, weights="random") for _ in range(2))
    assert first.weights == second.weights


def test_long_prompts_are_refused(folder):
    """CLIP's tokens are letters here; 77 of them with the beginning and the end."""
    assert load(folder / "clip", prompts=["x " * 75]).classes == 1
    prompt = "x " * 76
    assert load_error(folder / "clip", prompts=["a cat", prompt]) == (
        f"the prompt {prompt!r} has 78 tokens, and the model accepts 77; use a shorter prompt"
    )


def test_missing_texts_are_refused(folder):
    expected = "'NAME' compares images with texts; name the classes with --prompt or --classes"
    assert load_error(folder / "clip") == expected
    assert load_error(folder / "siglip") == expected


USAGE_ERRORS = {
    "both": (
        {"prompts": ["a"], "classes": "names.txt"},
        "--prompt and --classes both name the classes; remove one of them",
    ),
    "template alone": (
        {"templates": ["a {}"]},
        "--template requires --classes; add a file with the names to insert, or use --prompt",
    ),
    "no braces": (
        {"templates": ["a photo"], "classes": "names.txt"},
        "invalid template 'a photo'; use {} once where the class name belongs: \"a photo of a {}\"",
    ),
    "two braces": (
        {"templates": ["{} {}"], "classes": "names.txt"},
        "invalid template '{} {}'; use {} once where the class name belongs: \"a photo of a {}\"",
    ),
    "empty": ({"prompts": ["a", " "]}, "a prompt is empty; use a text such as 'a photo of a cat'"),
    "text": ({"prompts": "a cat"}, "prompts must be a list of texts, got 'a cat'; use prompts=['a photo of a cat']"),
    "number": ({"prompts": [1]}, "prompts must be a list of texts, got [1]; use prompts=['a photo of a cat']"),
}


@pytest.mark.parametrize("case", USAGE_ERRORS)
def test_contradicting_options_are_refused(folder, case):
    options, expected = USAGE_ERRORS[case]
    assert load_error(folder / "clip", **options) == expected


def test_checkpoint_without_head_names_the_prompts(folder):
    """A CLIP model that pretends to be a classifier would get a random head."""
    change_json(folder / "clip" / "config.json", architectures=["CLIPForImageClassification"])
    text = load_error(folder / "clip")
    assert text.startswith("'NAME' has no weights for classifier.bias and classifier.weight")
    assert text.endswith("; use --prompt to compare images with texts, or use a fine-tuned model")
    assert load(folder / "clip", prompts=PROMPTS).classes == 3


def test_missing_weights_are_refused(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "clip" / "model.safetensors"
    state = load_file(path)
    del state["visual_projection.weight"]
    save_file(state, path)
    assert load_error(folder / "clip", prompts=PROMPTS).startswith(
        "'NAME' has no weights for visual_projection.weight; "
    )


def test_tokenizer_code_is_refused(folder):
    change_json(folder / "clip" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    assert load_error(folder / "clip", prompts=PROMPTS) == (
        "the tokenizer of 'NAME' requires its own code (auto_map), which is not executed; "
        "if you trust it, load the model in a python: factory"
    )


def test_missing_tokenizer_is_refused(folder):
    for file in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "clip" / file).unlink(missing_ok=True)
    assert load_error(folder / "clip", prompts=PROMPTS) == (
        "'NAME' has no tokenizer; add its tokenizer.json, or vocab.json and merges.txt"
    )


@pytest.mark.parametrize("model_type", ["blip", "clipseg", "siglip2"])
def test_other_text_models_are_refused(folder, model_type):
    (folder / "clip" / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert load_error(folder / "clip", prompts=PROMPTS) == (
        f"'NAME' is a {model_type} model, whose texts are not supported; "
        "use a model of type align, altclip, chinese_clip, clip, metaclip_2 or siglip"
    )


class WordTokenizer:
    """A tokenizer of letters with a beginning 5 and an end 30, for models whose vocabularies are too large for a test."""

    model_max_length = 70

    def __call__(
        self, texts: Any, return_tensors: str = "", padding: Any = False, max_length: int = 0
    ) -> dict[str, Any]:
        rows = [
            [5, *(6 + ord(letter) % 20 for letter in text), 30] for text in ([texts] if texts == str(texts) else texts)
        ]
        if not padding:
            return {"input_ids": rows[0]}
        width = max_length or max(map(len, rows))
        ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != 1).long(), "token_type_ids": torch.zeros_like(ids)}


VOCABULARY = {"vocab_size": 40, "pad_token_id": 1, "bos_token_id": 5, "eos_token_id": 30}
OTHER_TYPES = {
    "metaclip_2": ("MetaClip2", {}, {}, 77),
    "altclip": ("AltCLIP", {"max_position_embeddings": 80, "project_dim": 16}, {}, 0),
    "chinese_clip": ("ChineseCLIP", {}, {}, 0),
    "align": ("Align", {}, {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 32}, 0),
}


@pytest.mark.parametrize("model_type", OTHER_TYPES)
def test_logits_of_other_types_equal_transformers(tmp_path, monkeypatch, model_type):
    monkeypatch.setattr("xplain.models.hugging_face_zero_shot.load_tokenizer", lambda *_: WordTokenizer())
    kind, text, vision, length = OTHER_TYPES[model_type]
    is_align = model_type == "align"
    config = getattr(transformers, f"{kind}Config")(
        text_config=TOWER | VOCABULARY | text,
        vision_config=({"image_size": 64} if is_align else VISION) | vision,
        projection_dim=64 if is_align else 16,
    )
    model = make_random(getattr(transformers, f"{kind}Model"), config)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    prompts = ["a cat", "dogs run"]
    inputs = WordTokenizer()(prompts, padding=True, max_length=length)
    if model_type in ("metaclip_2", "altclip"):
        del inputs["token_type_ids"]
    with torch.no_grad():
        expected = model(pixel_values=(IMAGES - MEAN) / STD, **inputs).logits_per_image
    classifier = load(tmp_path, prompts=prompts)
    assert expected.std() > 1e-3
    torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=1e-5)
