"""Hostile and faulty folders of Hugging Face models: each loads as the plain model or is refused, and no code in it is run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import xplain
from tests.helpers.hugging_face import PROCESSOR, block_network, change_json, make_vit, save_model
from xplain.core.errors import InputError, ModelNote, UsageError
from xplain.models.hugging_face_config import read_config
from xplain.models.hugging_face_files import Repository

transformers = pytest.importorskip("transformers")

PROGRAM = "from pathlib import Path\nPath({marker!r}).write_text('ran')\n"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "vit", make_vit(), PROCESSOR)


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    """A copy of the model with programs that write a marker file; no network."""
    attempts = block_network(monkeypatch)
    copied = shutil.copytree(saved, tmp_path / "vit")
    marker = tmp_path / "marker"
    for name in ("modeling_evil.py", "configuration_evil.py", "image_processing_evil.py", "tokenization_evil.py"):
        (copied / name).write_text(PROGRAM.format(marker=str(marker)), "utf-8")
    yield copied
    assert not marker.exists()
    assert attempts == []


def load(folder: Path, **options: Any) -> xplain.Classifier:
    return xplain.load_classifier(f"hf:{folder}", device="cpu", **options)


def check_is_plain(classifier: xplain.Classifier) -> None:
    """Compare the logits with those of the model that was saved."""
    mean, std = (torch.tensor(PROCESSOR[key])[:, None, None] for key in ("image_mean", "image_std"))
    with torch.no_grad():
        expected = make_vit()((IMAGES - mean) / std).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(classifier(IMAGES), expected, rtol=0, atol=1e-6)
    assert classifier.dtype == torch.float32
    assert classifier.labels == ["ant", "bee", "cow"]


EVIL_MAP = {
    "AutoConfig": "configuration_evil.Config",
    "AutoModelForImageClassification": "modeling_evil.Model",
    "AutoImageProcessor": "image_processing_evil.Processor",
}
PLAIN = {
    "kernel": {"attn_implementation": "owner/kernel"},
    "kernel, private": {"_attn_implementation": "owner/kernel"},
    "kernel, internal": {"_attn_implementation_internal": "owner/kernel", "_attn_implementation_autoset": True},
    "kernel, nested": {"vision_config": {"attn_implementation": "owner/kernel", "layers": [{"auto_map": EVIL_MAP}]}},
    "kernels": {"use_kernels": True, "experts_implementation": "owner/kernel"},
    "other name": {"_name_or_path": "owner/other", "_commit_hash": "0" * 40},
    "half precision": {"dtype": "float16", "torch_dtype": "bfloat16"},
    "other class": {"architectures": ["EvilForImageClassification"]},
    "outputs": {"output_attentions": True, "output_hidden_states": True, "return_dict": False, "torchscript": True},
    "checkpointing": {"gradient_checkpointing": True},
    "empty quantization": {"quantization_config": {}, "transformers_weights": ""},
}


@pytest.mark.parametrize("case", PLAIN)
def test_entries_of_config_are_ignored(folder, case):
    change_json(folder / "config.json", **PLAIN[case])
    classifier = load(folder)
    check_is_plain(classifier)
    assert classifier.notes == []


def test_code_of_a_known_type_is_ignored_with_a_note(folder):
    change_json(folder / "config.json", auto_map=EVIL_MAP)
    change_json(folder / "preprocessor_config.json", auto_map=EVIL_MAP)
    with pytest.warns(ModelNote) as notes:
        classifier = load(folder)
    check_is_plain(classifier)
    assert [str(note.message) for note in notes] == [
        "the repository contains its own code (auto_map), which is not executed"
    ]


def test_weights_of_half_precision_become_float32(folder):
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in state.items()}, folder / "model.safetensors")
    classifier = load(folder)
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
    stored = classifier.model.classifier.weight
    assert torch.equal(stored, state["classifier.weight"].half().float())


def test_a_pickle_beside_the_weights_is_ignored(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder)))
    check_is_plain(load(folder))


class Evil:
    """An object whose unpickling writes the marker file."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder.parent / "marker"

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    state = load_file(folder / "model.safetensors") | {
        name.replace("__", "."): value for name, value in changes.items()
    }
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def refuse(folder: Path, **options: Any) -> str:
    """Return the text of the InputError that loading the folder raises, with NAME for the model."""
    with pytest.raises(InputError) as error:
        load(folder, **options)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"hf:{folder}", "NAME")


def test_unknown_type_with_code_is_refused(folder):
    change_json(folder / "config.json", auto_map=EVIL_MAP, model_type="evil")
    assert refuse(folder) == (
        "'NAME' requires its own code (auto_map in config.json), which is not executed; "
        "if you trust it, load it in a python: factory"
    )


def test_unknown_type_is_refused(folder):
    change_json(folder / "config.json", model_type="vitt")
    assert refuse(folder).startswith("config.json of 'NAME' has the unknown model type 'vitt'; did you mean 'vit'")


@pytest.mark.parametrize(("method", "shown"), [("bitsandbytes", " (bitsandbytes)"), (None, "")])
def test_quantized_weights_are_refused(folder, method, shown):
    change_json(folder / "config.json", vision_config={"quantization_config": {"quant_method": method, "bits": 8}})
    assert refuse(folder) == (
        f"the weights of 'NAME' are quantized{shown} and have no gradients; use the floating-point weights"
    )


def test_other_weights_file_is_refused(folder):
    change_json(folder / "config.json", transformers_weights="other.safetensors")
    assert refuse(folder) == (
        "config.json of 'NAME' names another file of weights (transformers_weights); "
        "remove that entry, and name the file model.safetensors"
    )


def test_adapter_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}')
    assert refuse(folder) == (
        "'NAME' is an adapter of another model; merge it: model.merge_and_unload().save_pretrained(FOLDER)"
    )


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder)))
    assert refuse(folder) == (
        "'NAME' has no model.safetensors, and pickled weights are not loaded; "
        "convert them to safetensors, or load the model in a python: factory"
    )


def test_missing_head_is_refused(folder):
    change_weights(folder, classifier__weight=None, classifier__bias=None)
    assert refuse(folder) == (
        "'NAME' has no weights for classifier.bias and classifier.weight; "
        "it has no trained classification head; use a fine-tuned model"
    )


def test_missing_body_is_refused(folder):
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if "classifier" in name}, folder / "model.safetensors")
    assert refuse(folder).startswith("'NAME' has no weights for vit.")


def test_head_with_other_classes_is_refused(folder):
    change_weights(folder, classifier__weight=torch.zeros(5, 32), classifier__bias=torch.zeros(5))
    assert refuse(folder) == (
        "config.json of 'NAME' has 3 classes, but the weights have 5; correct id2label in config.json"
    )


def test_body_of_another_shape_is_refused(folder):
    change_json(folder / "config.json", intermediate_size=48)
    text = refuse(folder)
    assert text.startswith("the weights of 'NAME' do not match config.json: vit.")
    assert text.endswith("; use the config.json that belongs to the weights")


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/a.safetensors", "evil.bin", 5])
def test_index_cannot_name_other_files(folder, shard):
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    index = {"weight_map": {"classifier.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refuse(folder) == (
        "model.safetensors.index.json of 'NAME' is invalid; "
        "it must map names of tensors to .safetensors files in the same folder"
    )


def test_missing_shard_is_refused(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"classifier.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refuse(folder) == (
        "'NAME' has no model-00001-of-00001.safetensors; use the folder or the repository of a model"
    )


def test_damaged_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"no weights")
    text = refuse(folder)
    assert text.startswith("cannot load NAME: ")
    assert text.endswith("; check config.json and model.safetensors")


@pytest.mark.parametrize("content", ["{", "[]", "5", "[" * 100_000])
def test_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    text = refuse(folder)
    assert text.startswith(("cannot read config.json of 'NAME': ", "config.json of 'NAME' is not a JSON object; "))


def test_invalid_config_is_refused(folder):
    change_json(folder / "config.json", hidden_size="wide")
    assert refuse(folder).startswith("config.json of 'NAME' is invalid: ")


def test_missing_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert refuse(folder) == "'NAME' has no config.json; use the folder or the repository of a model"


@pytest.mark.parametrize("names", [{"0": "a", "2": "b", "3": "c"}, {"0": "a", "x": "b", "2": "c"}])
def test_gaps_in_names_are_refused(folder, names):
    change_json(folder / "config.json", id2label=names)
    text = refuse(folder)
    assert text.startswith(("id2label of 'NAME' does not number", "config.json of 'NAME' is invalid: "))


def test_timm_model_cannot_load_other_files(folder):
    options = {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "a.pth"}}
    change_json(folder / "config.json", **options)
    text = "config.json of 'NAME' makes timm load other files; remove model_args from config.json"
    assert refuse(folder) == text
    change_json(folder / "config.json", architecture="hf-hub:owner/evil", model_args={})
    assert refuse(folder) == text


REFUSED_TYPES = {
    "bert": "is a bert model, which is not an image classifier; did you mean 'beit'",
    "imagegpt": "is a imagegpt model, which takes color clusters instead of pixels; load it",
    "dinov3_vit": "is a dinov3_vit model, which is not an image classifier; load it with a classification head of your own",
    "shieldgemma2": "is a shieldgemma2 model, which generates text from images and text; load it",
}


@pytest.mark.parametrize("model_type", REFUSED_TYPES)
def test_other_types_are_refused(folder, model_type):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UsageError) as error:
        load(folder)
    assert str(error.value).startswith(f"'hf:{folder}' {REFUSED_TYPES[model_type]}")


@pytest.mark.parametrize("case", PLAIN)
def test_entries_are_removed_before_the_model_is_built(folder, case):
    change_json(folder / "config.json", **PLAIN[case])
    content, _ = read_config(Repository("hf:folder", folder))
    names = [name for name in PLAIN[case] if name not in ("vision_config", "architectures")]
    assert not set(names) & content.keys()
    assert "owner/" not in json.dumps(content)
    assert "auto_map" not in json.dumps(content)
