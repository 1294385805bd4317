"""Tiny Hugging Face models with random weights, saved as the hub has them, and a block on network access."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

NAMES = ("ant", "bee", "cow")
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 64, "width": 64},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}


def make_vit(**options: Any) -> nn.Module:
    """Return a ViT for images of 64 x 64 pixels and the classes NAMES."""
    import transformers

    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 64,
        "patch_size": 8,
        "id2label": dict(enumerate(NAMES)),
    }
    config = transformers.ViTConfig(**(settings | options))
    return make_random(transformers.ViTForImageClassification, config)


def make_random(model_class: Any, config: Any, seed: int = 0) -> nn.Module:
    """Return a model whose random weights are large enough that the logits of different images differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def save_model(folder: Path, model: nn.Module, processor: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Save a model with its processor. changes: entries of config.json."""
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")
    change_json(folder / "config.json", **changes)
    return folder


def change_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes an entry."""
    content = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")


def block_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Refuse every connection, and return the list of the attempts."""
    attempts: list[Any] = []

    def refuse(_: object, address: object, *rest: object) -> None:
        attempts.append(address)
        raise ConnectionRefusedError("the network is blocked")

    def refuse_lookup(host: object, *rest: object, **options: object) -> None:
        attempts.append(host)
        raise socket.gaierror("the network is blocked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_lookup)
    return attempts
