"""Models without a classification head for ``--target similar:IMAGE``: their output is the library's own embedding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

import xplain
from tests.helpers import text_models, toys
from tests.helpers.hugging_face import PROCESSOR, block_network, make_random, save_model
from tests.helpers.hugging_face_families import FAMILIES, PATCHES
from xplain.core.errors import InputError, UsageError
from xplain.core.options import ModelOptions
from xplain.oracle.runtime import load_model

transformers = pytest.importorskip("transformers")

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
MEAN, STD = (torch.tensor(PROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std"))
NORMALIZED = (IMAGES - MEAN) / STD


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    attempts = block_network(monkeypatch)
    yield
    assert attempts == []


def load(folder: Path, **options) -> xplain.Classifier:
    return xplain.load_classifier(f"hf:{folder}", device="cpu", headless=True, **options)


def read_pooler(model, pixels):
    return model(pixels).pooler_output.flatten(1)


def read_class_token(model, pixels):
    return model(pixels).last_hidden_state[:, 0]


def read_mean(model, pixels):
    hidden = model(pixels).last_hidden_state
    return hidden.mean(dim=(2, 3) if hidden.ndim == 4 else 1)


HEADLESS = {
    "ViT": ({}, read_pooler),
    "ViT without pooling": ({"add_pooling_layer": False}, read_class_token),
    "Dinov2": ({}, read_pooler),
    "IJepa": ({}, read_mean),
    "ConvNext": ({}, read_pooler),
    "Segformer": ({}, read_mean),
}


@pytest.mark.parametrize("name", HEADLESS)
def test_embedding_equals_transformers(tmp_path, name):
    options, pool = HEADLESS[name]
    family = name.partition(" ")[0]
    model_class, config = (getattr(transformers, family + end) for end in ("Model", "Config"))
    model = make_random(lambda config: model_class(config, **options), config(**FAMILIES[family][1]))
    classifier = load(save_model(tmp_path, model, PROCESSOR))
    with torch.no_grad():
        expected = pool(model, NORMALIZED)
        torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert (classifier.output.activation, classifier.labels, classifier.classes) == ("none", [], expected.shape[1])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_image_tower_without_texts(tmp_path, kind):
    model = getattr(text_models, f"make_{kind}")()
    folder = save_model(tmp_path, model, PROCESSOR)
    classifier = load(folder)  # no tokenizer is needed
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=NORMALIZED).pooler_output
        torch.testing.assert_close(classifier(IMAGES), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="compares images with texts; name the classes with --prompt or --classes"):
        xplain.load_classifier(f"hf:{folder}", device="cpu")


def test_image_tower_with_projection(tmp_path):
    config = transformers.CLIPVisionConfig(**PATCHES, projection_dim=16)
    model = make_random(transformers.CLIPVisionModelWithProjection, config)
    classifier = load(save_model(tmp_path, model, PROCESSOR))
    with torch.no_grad():
        torch.testing.assert_close(classifier(IMAGES), model(NORMALIZED).image_embeds, rtol=1e-5, atol=1e-6)


def test_open_clip_tower_without_texts(tmp_path):
    pytest.importorskip("open_clip")
    from tests.helpers.model_zoo import load as load_zoo

    load_zoo("clip:ViT", tmp_path)
    classifier = xplain.load_classifier(f"clip:{tmp_path / 'clip-ViT'}", device="cpu", headless=True)
    zero_shot = load_zoo("clip:ViT", tmp_path)
    with torch.no_grad():
        features = F.normalize(classifier(IMAGES), dim=1)
        logits = zero_shot.model.scale * features @ zero_shot.model.text_features.T
        torch.testing.assert_close(logits, zero_shot(IMAGES), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="compares images with texts"):
        xplain.load_classifier(f"clip:{tmp_path / 'clip-ViT'}", device="cpu")


def test_checkpoint_with_a_head_keeps_it(tmp_path):
    from tests.helpers.hugging_face import NAMES, make_vit

    assert load(save_model(tmp_path, make_vit(), PROCESSOR)).labels == list(NAMES)


def test_checkpoint_without_a_head_is_refused_for_classes(tmp_path):
    model = make_random(transformers.ViTModel, transformers.ViTConfig(**PATCHES))
    folder = save_model(tmp_path, model, PROCESSOR)
    with pytest.raises(
        InputError, match=r"has no weights for classifier\.bias and classifier\.weight; it has no trained"
    ):
        xplain.load_classifier(f"hf:{folder}", device="cpu")


def test_language_model_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    folder = save_model(tmp_path, transformers.BertModel(config))
    with pytest.raises(UsageError, match="is a bert model, which takes no images; use an image model"):
        load(folder)


def test_command_explains_the_cosine_of_a_headless_model(tmp_path):
    """The gradient of the cosine e r / (|e| |r|) is (r / |r| - cosine e / |e|) / |e|, times the Jacobian of the embedding."""
    model = make_random(transformers.Dinov2Model, transformers.Dinov2Config(**FAMILIES["Dinov2"][1]))
    folder = save_model(tmp_path / "model", model, PROCESSOR)
    reference = tmp_path / "reference.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(reference)
    classifier = load_model(ModelOptions(name=f"hf:{folder}", device="cpu"), target=f"similar:{reference}")
    attribution = xplain.attribute(classifier, IMAGES, "saliency")
    pixels = xplain.read_image(reference, preprocessing=classifier.preprocessing)[None]
    x = IMAGES.clone().requires_grad_()
    embeddings, target = model((x - MEAN) / STD).pooler_output, model((pixels - MEAN) / STD).pooler_output
    with torch.no_grad():
        direction, lengths = target / target.norm(), embeddings.norm(dim=1, keepdim=True)
        cosines = embeddings @ direction.T / lengths
        slope = (direction - cosines * embeddings / lengths) / lengths
    (expected,) = torch.autograd.grad(embeddings, x, slope)
    torch.testing.assert_close(attribution.values, expected, rtol=1e-3, atol=float(expected.abs().max()) * 1e-4)
    with torch.no_grad():
        torch.testing.assert_close(classifier(IMAGES), cosines, rtol=1e-5, atol=1e-6)


def test_timm_model_without_classes(tmp_path):
    timm = pytest.importorskip("timm")
    model = make_random(lambda _: timm.create_model("test_vit", num_classes=0, img_size=64), None)
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": {"img_size": 64},
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": PROCESSOR["image_mean"], "std": PROCESSOR["image_std"]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    for name in (f"timm:local-dir:{tmp_path}", f"hf:{tmp_path}"):
        classifier = xplain.load_classifier(name, device="cpu", headless=True)
        assert (classifier.output.activation, classifier.classes) == ("none", model.num_features)
        with torch.no_grad():
            torch.testing.assert_close(classifier(IMAGES), model(NORMALIZED), rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match="has no classification head"):
            xplain.load_classifier(name, device="cpu")


@pytest.mark.parametrize("method", ["integrated-gradients", "guided-ig", "occlusion"])
def test_baseline_without_a_direction_is_refused(method):
    weights = torch.randn(6, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embedder, x = toys.classifier(toys.Linear(weights)), toys.images(2)
    target = xplain.similarity(embedder, x[0])
    with pytest.raises(InputError) as caught:
        xplain.attribute(embedder, x, method, target=target, baseline="black")
    assert str(caught.value) == (
        "the embedding of the baseline or of a changed image is zero and has no similarity; "
        "use another baseline, such as baseline=blur or baseline=mean"
    )
    assert bool(xplain.attribute(embedder, x, method, target=target, baseline="white").values.isfinite().all())


def test_metric_with_a_fill_without_a_direction_is_undefined():
    weights = torch.randn(6, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embedder, x = toys.classifier(toys.Linear(weights)), toys.images(2)
    target = xplain.similarity(embedder, x[0])
    score = xplain.measure(embedder, x, x, "deletion", target=target, steps=3)
    assert {reason: mask.tolist() for reason, mask in score.undefined.items()} == {
        "the embedding of a changed image is zero": [True, True]
    }
