"""Hugging Face models by name and in memory: names, outputs, sizes, channels, weights files, the hub's cache."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import xplain
from tests.helpers.hugging_face import (
    NAMES,
    PROCESSOR,
    block_network,
    change_json,
    make_random,
    make_vit,
    save_model,
)
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.data.preprocessing import Preprocessing
from xplain.models.hugging_face_modules import split_into_patches

transformers = pytest.importorskip("transformers")

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
MEAN, STD = (torch.tensor(PROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    attempts = block_network(monkeypatch)
    yield save_model(tmp_path / "vit", make_vit(), PROCESSOR)
    assert attempts == []


def load(model: Any, **options: Any) -> xplain.Classifier:
    name = f"hf:{model}" if isinstance(model, Path) else model
    return xplain.load_classifier(name, device="cpu", **options)


def load_error(model: Any, **options: Any) -> str:
    with pytest.raises((UsageError, InputError)) as error:
        load(model, **options)
    return str(error.value)


@torch.no_grad()
def check_logits(classifier: xplain.Classifier, expected: torch.Tensor, spread: float = 0.1) -> None:
    assert expected.std() > spread
    torch.testing.assert_close(classifier(IMAGES), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_folder_has_names_size_and_normalization(folder):
    classifier = load(folder)
    check_logits(classifier, make_vit()((IMAGES - MEAN) / STD).logits)
    assert (classifier.labels, classifier.wnids, classifier.classes) == (list(NAMES), [], 3)
    assert classifier.preprocessing == Preprocessing((64, 64), 64, "bilinear", squash=True, crop="floor")
    assert (classifier.output.activation, classifier.output.source) == ("softmax", "config")
    assert classifier.notes == []
    assert classifier.weights.source == f"hf:{folder}"


def test_offline_folder_needs_no_hub(folder, monkeypatch):
    """A folder is never looked up on the hub, so the state of huggingface_hub does not matter."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert load(folder, offline=True).weights == load(folder).weights


def test_hash_is_that_of_the_file(folder):
    import hashlib

    assert load(folder).weights.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_sharded_weights(tmp_path):
    model = make_vit()
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    classifier = load(tmp_path / "shards")
    check_logits(classifier, model((IMAGES - 0.5) / 0.5).logits)
    first = classifier.weights
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(index.read_text() + " ")
    assert load(tmp_path / "shards").weights.sha256 != first.sha256


def test_names_are_sorted_by_number(folder):
    change_json(folder / "config.json", id2label={"2": "c", "0": "a", "1": "b"})
    assert load(folder).labels == ["a", "b", "c"]


def test_names_without_meaning_are_ignored(folder):
    change_json(folder / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(3)})
    assert load(folder).labels == []
    change_json(folder / "config.json", id2label=None, num_labels=3)
    classifier = load(folder)
    assert (classifier.labels, classifier.classes) == ([], 3)


def test_wnids_are_recognized(folder):
    wnids = ["n01440764", "n02102040", "n02979186"]
    change_json(folder / "config.json", id2label=dict(enumerate(wnids)))
    assert load(folder).wnids == wnids


def test_first_of_several_names_finds_a_class(folder):
    change_json(
        folder / "config.json", id2label={"0": "tabby, tabby cat", "1": "tiger cat", "2": "tiger, Panthera tigris"}
    )
    names = load(folder).class_names
    assert names.labels[0] == "tabby, tabby cat"
    assert (names.find("tabby"), names.find("Tiger"), names.find("tiger cat")) == (0, 2, 1)


OUTPUTS = {
    "multi_label_classification": ("sigmoid", 3),
    "single_label_classification": ("softmax", 3),
    "regression": ("none", 1),
    None: ("none", 1),  # as the loss of transformers
}


@pytest.mark.parametrize("problem_type", OUTPUTS)
@pytest.mark.parametrize("in_memory", [False, True])
def test_problem_type_sets_the_activation(tmp_path, problem_type, in_memory):
    activation, labels = OUTPUTS[problem_type]
    model = make_vit(id2label={i: f"name {i}" for i in range(labels)}, problem_type=problem_type)
    saved = save_model(tmp_path / "vit", model, PROCESSOR)
    classifier = load(model, processor=PROCESSOR) if in_memory else load(saved)
    assert (classifier.output.activation, classifier.output.source) == (activation, "config")


def test_one_label_is_noted(tmp_path):
    folder = save_model(tmp_path / "vit", make_vit(id2label={0: "age"}), PROCESSOR)
    note = "config.num_labels is 1, so the output is explained as a value; set --activation sigmoid if it is the logit of a class"
    assert note in load(folder).notes
    change_json(folder / "config.json", problem_type="regression")
    assert note not in load(folder).notes


def test_image_size_interpolates_positions(folder):
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    classifier = load(folder, image_size=96)
    expected = make_vit()((images - MEAN) / STD, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(classifier(images), expected, rtol=0, atol=1e-5)
    assert classifier.preprocessing == Preprocessing((96, 96), 96, "bilinear", squash=True, crop="floor")
    in_memory = load(make_vit(), processor=PROCESSOR, image_size=96)
    torch.testing.assert_close(in_memory(images), expected, rtol=0, atol=1e-5)
    assert type(load(folder, image_size=64).model).__name__ == "ViTForImageClassification"


def test_one_channel(tmp_path):
    model = make_vit(num_channels=1)
    processor = {"image_processor_type": "ViTImageProcessor", "size": 64}
    classifier = load(save_model(tmp_path / "vit", model, processor))
    assert (classifier.channels, classifier.mean.shape) == (1, (1, 1, 1))
    gray = IMAGES[:, :1]
    check_logits_of = model((gray - 0.5) / 0.5).logits
    torch.testing.assert_close(classifier(gray), check_logits_of, rtol=0, atol=1e-5)
    assert load(model).channels == 1


def test_missing_processor_is_noted(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(ModelNote, match=r"^the model has no preprocessor_config\.json: images are resized to 64 x 64"):
        classifier = load(folder)
    check_logits(classifier, make_vit()((IMAGES - 0.5) / 0.5).logits)


def test_processor_config_has_the_image_processor(folder):
    content = (folder / "preprocessor_config.json").read_text()
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(content)}))
    check_logits(load(folder), make_vit()((IMAGES - MEAN) / STD).logits)


def test_invalid_processor_names_the_model(folder):
    change_json(folder / "preprocessor_config.json", resample=9)
    assert load_error(folder) == (
        f"hf:{folder}: the image processor is invalid: unknown resample 9; correct preprocessor_config.json"
    )


def test_weights_file_replaces_the_weights(folder, tmp_path):
    model = make_vit(id2label={i: f"name {i}" for i in range(5)})
    save_file(model.state_dict(), tmp_path / "tuned.safetensors")
    classifier = load(folder, weights=tmp_path / "tuned.safetensors")
    check_logits(classifier, model((IMAGES - MEAN) / STD).logits)
    assert (classifier.classes, classifier.labels) == (5, [])
    assert classifier.weights.source == str(tmp_path / "tuned.safetensors")


def test_random_weights_are_always_the_same(folder):
    (folder / "model.safetensors").unlink()
    first, second = load(folder, weights="random"), load(folder, weights="random")
    assert first.weights == second.weights
    assert first.weights.source == "random"
    assert first(IMAGES).std() > 1e-3


def test_teacher_model_returns_the_mean_of_its_heads(tmp_path):
    config = transformers.DeiTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=8,
        id2label=dict(enumerate(NAMES)),
    )
    model = make_random(transformers.DeiTForImageClassificationWithTeacher, config)
    classifier = load(save_model(tmp_path / "deit", model, PROCESSOR))
    output = model((IMAGES - MEAN) / STD)
    check_logits(classifier, (output.cls_logits + output.distillation_logits) / 2)


def set_batch_statistics(model: torch.nn.Module) -> None:
    """Set the running statistics of the batch norms to those of IMAGES, so that the logits of images differ."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(IMAGES)
    model.eval()


def test_mobilevit_takes_blue_first(tmp_path):
    config = transformers.MobileViTConfig(image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8] * 7)
    model = make_random(transformers.MobileViTForImageClassification, config)
    set_batch_statistics(model)
    processor = {"image_processor_type": "MobileViTImageProcessor", "size": 64, "crop_size": 64}
    classifier = load(save_model(tmp_path / "mobilevit", model, processor))
    expected = model(IMAGES.flip(1)).logits
    assert (model(IMAGES).logits - expected).abs().max() > 1e-3
    check_logits(classifier, expected, spread=1e-3)
    check_logits(load(model, processor=processor), expected, spread=1e-3)


def make_naflex() -> torch.nn.Module:
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.Siglip2Config(
        vision_config=vision | {"patch_size": 8, "num_patches": 64}, id2label=dict(enumerate(NAMES))
    )
    return make_random(transformers.Siglip2ForImageClassification, config)


def test_naflex_model_takes_images(tmp_path):
    model = make_naflex()
    classifier = load(save_model(tmp_path / "naflex", model, {"image_processor_type": "Siglip2ImageProcessor"}))
    assert classifier.size == (64, 64)
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=64, do_resize=False)
    inputs = processor([image.permute(1, 2, 0).mul(255).byte().numpy() for image in IMAGES], return_tensors="pt")
    expected = model(**inputs).logits
    pixels = IMAGES.mul(255).byte().float() / 255
    torch.testing.assert_close(classifier(pixels), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
    patches = split_into_patches((pixels - 0.5) / 0.5, 8)
    torch.testing.assert_close(patches["pixel_values"], inputs["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(patches["spatial_shapes"], inputs["spatial_shapes"])


def test_timm_folder(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet", num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": list(NAMES)}, safe_serialization=True)
    classifier = load(tmp_path)
    data = timm.data.resolve_data_config({}, model=model)
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    images = torch.rand(2, 3, *classifier.size)
    torch.testing.assert_close(classifier(images), model((images - mean) / std), rtol=1e-4, atol=1e-5)
    assert (classifier.labels, classifier.name) == (list(NAMES), f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    assert load(tmp_path, weights="random").classes == 3
    assert load_error(tmp_path).startswith(
        f"'hf:{tmp_path}' has no model.safetensors, and pickled weights are not loaded"
    )


def test_timm_model_in_the_format_of_transformers(tmp_path):
    timm = pytest.importorskip("timm")
    data = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "crop_pct": 0.8}
    config = transformers.TimmWrapperConfig(
        architecture="test_resnet", num_labels=3, pretrained_cfg=data | {"interpolation": "bicubic"}
    )
    model = transformers.TimmWrapperForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    classifier = load(tmp_path)
    assert classifier.preprocessing == Preprocessing((64, 64), 80, "bicubic")
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(classifier(IMAGES), model((IMAGES - mean) / std).logits, rtol=1e-4, atol=1e-5)
    assert timm is not None


# Models in memory


def test_module_in_memory_is_read_from_its_config():
    model = make_vit()
    with pytest.warns(ModelNote) as notes:
        classifier = load(model)
    check_logits(classifier, model(IMAGES).logits)
    assert (classifier.labels, classifier.size, classifier.classes) == (list(NAMES), (64, 64), 3)
    assert [str(note.message) for note in notes] == [
        "the normalization of the model is not known, so its pixels are in [0, 1]; "
        "pass load_classifier(model, processor=...) to use that of its image processor"
    ]


def make_processors(folder: Path) -> dict[str, Any]:
    return {
        "object": transformers.ViTImageProcessor(**{k: v for k, v in PROCESSOR.items() if k != "image_processor_type"}),
        "content": PROCESSOR,
        "folder": str(folder),
        "path": folder,
    }


@pytest.mark.parametrize("kind", ["object", "content", "folder", "path"])
def test_processor_of_a_module_in_memory(folder, kind):
    classifier = load(make_vit(), processor=make_processors(folder)[kind])
    check_logits(classifier, make_vit()((IMAGES - MEAN) / STD).logits)
    assert classifier.preprocessing == Preprocessing((64, 64), 64, "bilinear", squash=True, crop="floor")
    assert classifier.notes == []


def test_attributes_of_the_module_win():
    model = make_vit()
    model.size, model.mean, model.std, model.labels = 64, [0.1, 0.2, 0.3], [0.5, 1.0, 2.0], ["x", "y", "z"]
    classifier = load(model, processor=PROCESSOR)
    mean, std = torch.tensor(model.mean)[:, None, None], torch.tensor(model.std)[:, None, None]
    check_logits(classifier, model((IMAGES - mean) / std).logits)
    assert classifier.labels == ["x", "y", "z"]
    assert classifier.preprocessing == Preprocessing.for_size(64)


def test_processor_of_any_module():
    classifier = load(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), processor=PROCESSOR)
    assert classifier.size == (64, 64)
    torch.testing.assert_close(classifier(IMAGES), ((IMAGES - MEAN) / STD).mean(dim=(2, 3)), rtol=0, atol=1e-5)


def test_given_normalization_needs_no_processor():
    classifier = load(make_vit(), mean=PROCESSOR["image_mean"], std=PROCESSOR["image_std"], size=96)
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    expected = make_vit()((images - MEAN) / STD, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(classifier(images), expected, rtol=0, atol=1e-5)
    assert classifier.notes == []


def test_wrong_processors_are_refused(folder):
    assert load_error(folder, processor=PROCESSOR) == (
        f"processor cannot be used with 'hf:{folder}'; pass it with an nn.Module"
    )
    assert load_error(make_vit(), processor=5) == (
        "the processor is of type int; pass an image processor of transformers, or the folder of one"
    )
    (folder / "preprocessor_config.json").unlink()
    assert load_error(make_vit(), processor=folder) == (
        f"'{folder}' has no preprocessor_config.json; pass the folder of an image processor"
    )


# The hub


def fill_cache(cache: Path, folder: Path, commit: str = "a" * 40) -> None:
    """Put the files of a folder into a hub cache as the repository ``owner/vit`` with the branch main."""
    repository = cache / "models--owner--vit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / commit)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    attempts = block_network(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    fill_cache(tmp_path / "cache", save_model(tmp_path / "vit", make_vit(), PROCESSOR))
    yield tmp_path / "cache"
    assert attempts == []


@pytest.mark.parametrize("name", ["hf:owner/vit", "hf:owner/vit@main", "hf:owner/vit@" + "a" * 40])
@pytest.mark.parametrize("by_environment", [False, True])
def test_offline_uses_the_cache(cache, monkeypatch, name, by_environment):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", by_environment)
    classifier = load(name, offline=not by_environment)
    check_logits(classifier, make_vit()((IMAGES - MEAN) / STD).logits)
    assert classifier.weights.source == "hf:owner/vit@" + "a" * 40
    assert len(classifier.weights.sha256) == 64


@pytest.mark.parametrize("name", ["hf:owner/other", "hf:owner/vit@v2", "hf:other"])
def test_offline_without_the_cache_is_refused(cache, name):
    assert load_error(name, offline=True) == (
        f"{name!r} is not in the cache of the Hugging Face Hub, and --offline disables downloads; "
        "download it once without --offline, or use hf:FOLDER with a copy of its files"
    )


def test_offline_without_weights_in_the_cache_is_refused(cache):
    next(cache.glob("*/snapshots/*/model.safetensors")).unlink()
    assert load_error("hf:owner/vit", offline=True).startswith("'hf:owner/vit' has no model.safetensors, and pickled")


def test_unreachable_hub_is_reported(monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert load_error("hf:owner/vit") == (
        "cannot download hf:owner/vit: no route to host; "
        "check the name, log in with: hf auth login, or use --offline for a model in the cache"
    )


def test_processor_of_the_hub(cache, monkeypatch):
    classifier = load(make_vit(), processor="owner/vit", offline=True)
    check_logits(classifier, make_vit()((IMAGES - MEAN) / STD).logits)
    assert load_error(make_vit(), processor="owner/other", offline=True).startswith(
        "'hf:owner/other' is not in the cache"
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert load_error(make_vit(), processor="owner/vit") == (
        "'hf:owner/vit' requires huggingface_hub; install it with: pip install 'xplain-vision[hf]'"
    )


@pytest.mark.parametrize("name", ["hf:", "hf:./missing/folder", "hf:a/b/c", "hf:owner/vit@"])
def test_invalid_names_are_refused(name):
    assert load_error(name) == (
        f"{name!r} is neither a folder nor a repository; name a folder, OWNER/NAME or OWNER/NAME@REVISION"
    )


def test_transformers_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert load_error(tmp_path) == (
        f"the model 'hf:{tmp_path}' requires transformers; install it with: pip install 'xplain-vision[hf]'"
    )


def test_prompts_are_for_text_models(folder):
    text = "use them with CLIP and SigLIP models (hf:... or clip:...)"
    assert load_error(folder, prompts=["a cat"]) == f"--prompt and --template do not apply to 'hf:{folder}'; {text}"
    assert load_error(make_vit(), prompts=["a cat"]) == (
        f"--prompt and --template do not apply to 'ViTForImageClassification'; {text}"
    )
    assert load_error("resnet18", prompts=["a cat"]) == f"--prompt and --template do not apply to 'resnet18'; {text}"
