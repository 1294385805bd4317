"""open_clip models as zero-shot classifiers: names, folders, logits, preprocessing and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import xplain
from tests.helpers.hugging_face import block_network, make_random
from tests.helpers.text_models import make_siglip_tokenizer
from xplain.core.errors import InputError, UsageError
from xplain.data.preprocessing import preprocess

open_clip = pytest.importorskip("open_clip")

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
PROMPTS = ["a photo of a cat", "two dogs", "an old map of the sea"]
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
VISION = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
CONFIG = {
    "model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"},
}
MEAN, STD = (torch.tensor(CONFIG["preprocess_cfg"][key])[:, None, None] for key in ("mean", "std"))


def make_model(**options: Any) -> torch.nn.Module:
    settings = CONFIG["model_cfg"] | options
    return make_random(lambda _: open_clip.model.CLIP(**settings), None)


def save_folder(folder: Path, model: torch.nn.Module, config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    attempts = block_network(monkeypatch)
    yield save_folder(tmp_path / "clip", model)
    assert attempts == []


def load(name: Any, **options: Any) -> xplain.Classifier:
    return xplain.load_classifier(f"clip:{name}", device="cpu", **options)


def load_error(name: Any, **options: Any) -> str:
    with pytest.raises((UsageError, InputError)) as error:
        load(name, **options)
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"clip:{name}", "NAME")


@torch.no_grad()
def expected_logits(model: torch.nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    tokens = open_clip.tokenizer.SimpleTokenizer()(PROMPTS)
    image_features = model.encode_image((images - MEAN) / STD, normalize=True)
    text_features = model.encode_text(tokens, normalize=True)
    return model.logit_scale.exp() * image_features @ text_features.T + (model.logit_bias or 0)


def test_folder_equals_open_clip(folder, model):
    classifier = load(folder, prompts=PROMPTS)
    expected = expected_logits(model)
    assert expected.std() > 0.1
    torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert (classifier.labels, classifier.output.activation) == (PROMPTS, "softmax")
    assert {name for name, _ in classifier.model.named_children()} == {"visual"}
    assert len(classifier.weights.sha256) == 64
    assert classifier.weights.source == f"clip:{folder}"


def test_preprocessing_equals_open_clip(folder):
    classifier = load(folder, prompts=PROMPTS)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    for height, width in ((97, 130), (131, 97), (300, 64)):
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        own = (preprocess(image, classifier.preprocessing) - MEAN) / STD
        torch.testing.assert_close(own, transform(image), rtol=0, atol=1e-5)


def test_squashed_images(folder, model):
    config = CONFIG | {"preprocess_cfg": CONFIG["preprocess_cfg"] | {"resize_mode": "squash"}}
    classifier = load(save_folder(folder, model, config), prompts=PROMPTS)
    assert classifier.preprocessing.squash
    assert classifier.preprocessing.resize == 64
    config = CONFIG | {"preprocess_cfg": {"resize_mode": "longest"}}
    assert load_error(save_folder(folder, model, config), prompts=PROMPTS) == (
        "the preprocessing of NAME (resize_mode 'longest' to 64 x 64) is not supported; "
        "use a model that crops or squashes images"
    )


def test_bias_makes_the_texts_independent(tmp_path):
    model = make_model(init_logit_bias=-2.0)
    with torch.no_grad():
        model.logit_scale.fill_(1.0)
    config = {**CONFIG, "model_cfg": CONFIG["model_cfg"] | {"init_logit_bias": -10}}
    classifier = load(save_folder(tmp_path / "siglip", model, config), prompts=PROMPTS)
    torch.testing.assert_close(classifier(IMAGES), expected_logits(model), rtol=1e-5, atol=1e-5)
    assert float(classifier.model.bias[0]) == -2.0
    assert classifier.output.activation == "sigmoid"


def test_image_size_interpolates_positions(folder, model):
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    classifier = load(folder, prompts=PROMPTS, image_size=96)
    assert classifier.size == (96, 96)
    larger = open_clip.create_model(f"local-dir:{folder}", force_image_size=96).eval()
    torch.testing.assert_close(classifier(images), expected_logits(larger, images), rtol=1e-5, atol=1e-5)


def test_tokenizer_in_the_folder(folder, model):
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "owner/tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize", "trust_remote_code": True},
    }
    save_folder(folder, model, config)
    assert load_error(folder, prompts=PROMPTS) == (
        "'NAME' has no tokenizer; add its tokenizer.json, or vocab.json and merges.txt"
    )
    make_siglip_tokenizer().save_pretrained(folder)
    classifier = load(folder, prompts=["A Cat!", "a dog"])
    ids = torch.zeros((1, 77), dtype=torch.long)
    tokens = make_siglip_tokenizer()("a cat")["input_ids"]
    ids[0, : len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        expected = model.encode_text(ids, normalize=True)[0]
    torch.testing.assert_close(classifier.model.text_features[0], expected, rtol=0, atol=1e-5)


def test_long_prompts_are_refused(folder):
    assert load(folder, prompts=["cat " * 75]).classes == 1
    assert load_error(folder, prompts=["cat " * 76]) == (
        f"the prompt {'cat ' * 76!r} has 78 tokens, and the model accepts 77; use a shorter prompt"
    )


# Names of architectures and weights


@pytest.fixture
def small_architecture(monkeypatch, tmp_path, model):
    """The architecture ``tiny`` with the weights ``file`` of the hub and ``page`` of a web page."""
    from open_clip import factory, pretrained

    attempts = block_network(monkeypatch)
    path = save_folder(tmp_path / "saved", model) / "open_clip_model.safetensors"
    quick = CONFIG["model_cfg"] | {"quick_gelu": True}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny", CONFIG["model_cfg"])
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-quickgelu", quick)
    tags = {
        "file": {"file": str(path), "hf_hub": "owner/name/", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)},
        "quick": {"file": str(path), "hf_hub": "owner/name/", "quick_gelu": True},
        "page": {"url": "https://example.org/tiny-0123abcd.pt"},
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-quickgelu", tags)
    yield path
    assert attempts == []


@pytest.mark.parametrize("offline", [False, True])
def test_architecture_with_weights(small_architecture, model, offline):
    import hashlib

    classifier = load("tiny/file", prompts=PROMPTS, offline=offline)
    torch.testing.assert_close(classifier(IMAGES), expected_logits(model), rtol=1e-5, atol=1e-5)
    digest = hashlib.sha256(small_architecture.read_bytes()).hexdigest()
    texts = json.dumps([digest, [[prompt] for prompt in PROMPTS]])
    assert classifier.weights == type(classifier.weights)("clip:tiny/file", hashlib.sha256(texts.encode()).hexdigest())


def test_image_size_of_an_architecture(small_architecture):
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    classifier = load("tiny/file", prompts=PROMPTS, image_size=96)
    larger = open_clip.create_model("tiny", pretrained="file", force_image_size=96).eval()
    torch.testing.assert_close(classifier(images), expected_logits(larger, images), rtol=1e-5, atol=1e-5)


def test_activation_function_of_the_weights_is_used(small_architecture, model):
    """open_clip only warns if the architecture has another activation function than the weights."""
    plain, quick = (load(name, prompts=PROMPTS)(IMAGES) for name in ("tiny/file", "tiny/quick"))
    assert (plain - quick).abs().max() > 1e-4
    torch.testing.assert_close(load("tiny-quickgelu/quick", prompts=PROMPTS)(IMAGES), quick, rtol=0, atol=0)
    assert load_error("tiny-quickgelu/file", prompts=PROMPTS) == (
        "the weights 'file' were trained without QuickGELU, which tiny-quickgelu uses; use clip:tiny/file"
    )


def test_weights_file_and_random_weights(small_architecture, model, tmp_path):
    path = tmp_path / "own.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(small_architecture).items()}, path)
    own = load("tiny", prompts=PROMPTS, weights=path)
    assert own.weights.source == str(path)
    assert (own(IMAGES) - load("tiny/quick", prompts=PROMPTS)(IMAGES)).abs().max() > 1e-3
    first, second = (load("tiny", prompts=PROMPTS, weights="random") for _ in range(2))
    assert first.weights == second.weights
    assert first(IMAGES).shape == (2, 3)


def test_offline_without_download_is_refused(small_architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_error("tiny/page", prompts=PROMPTS, offline=True) == (
        f"weights of NAME not found at {tmp_path}/.cache/clip/tiny-0123abcd.pt, and --offline disables downloads; "
        "put the file there or use --weights FILE"
    )
    assert load_error("hf-hub:owner/name", prompts=PROMPTS, offline=True).startswith(
        "'NAME' is not in the cache of the Hugging Face Hub, and --offline disables downloads; "
    )


def test_unknown_names_are_refused(small_architecture):
    assert load_error("tinny/file", prompts=PROMPTS).startswith(
        "unknown open_clip architecture 'tinny'; did you mean 'tiny'"
    )
    assert load_error("tiny/fiel", prompts=PROMPTS) == "tiny has no weights 'fiel'; did you mean 'file'?"
    assert load_error("tiny", prompts=PROMPTS).startswith(
        "'NAME' does not name its weights; use NAME/TAG; use one of: "
    )


def test_damaged_weights_are_refused(small_architecture):
    state = load_file(small_architecture)
    del state["visual.proj"]
    save_file(state, small_architecture)
    text = load_error("tiny/file", prompts=PROMPTS)
    assert text.startswith("the weights of NAME do not match the model: ")


# Faulty folders


def change_config(folder: Path, tower: str, **changes: Any) -> None:
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"][tower] |= changes
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("tower", "changes"),
    [("text_cfg", {"hf_model_name": "owner/evil"}), ("vision_cfg", {"timm_model_name": "hf-hub:owner/evil"})],
)
def test_other_repositories_are_refused(folder, tower, changes):
    change_config(folder, tower, **changes)
    (other,) = changes.values()
    assert load_error(folder, prompts=PROMPTS) == (
        f"open_clip_config.json of 'NAME' names another repository ({other}), which is not loaded; "
        "use a model whose towers are part of open_clip or timm"
    )


def test_invalid_configs_are_refused(folder):
    change_config(folder, "vision_cfg", unknown=1)
    assert load_error(folder, prompts=PROMPTS).startswith("open_clip_config.json of 'NAME' is invalid: ")
    (folder / "open_clip_config.json").write_text("{}")
    assert load_error(folder, prompts=PROMPTS) == (
        "open_clip_config.json of 'NAME' has no model_cfg with text_cfg and vision_cfg; use the file that open_clip has saved"
    )


def test_pickled_weights_are_refused(folder):
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    assert load_error(folder, prompts=PROMPTS) == (
        "'NAME' has no open_clip_model.safetensors, and pickled weights are not loaded; convert them to safetensors"
    )


def test_missing_texts_and_package(folder, monkeypatch):
    assert load_error(folder) == "'NAME' compares images with texts; name the classes with --prompt or --classes"
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert load_error(folder, prompts=PROMPTS) == (
        "the model 'NAME' requires open_clip; install it with: pip install 'xplain-vision[clip]'"
    )
