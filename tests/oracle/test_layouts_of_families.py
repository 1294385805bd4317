"""Layers of small models of transformers and timm whose tokens are arranged in unusual ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import xplain
from tests.helpers.token_networks import changed_cell, seeded_classifier
from xplain.core.errors import UsageError
from xplain.oracle import Oracle
from xplain.oracle.attention import probe_attention

Y = torch.tensor([0])


def hugging_face(name: str, **options) -> Callable[[], nn.Module]:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(num_labels=3, **options)
    return lambda: getattr(transformers, f"{name}ForImageClassification")(config)


def swin(name: str, size: tuple[int, int]) -> Callable[[], nn.Module]:
    shape = {"patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
    return hugging_face(name, image_size=size, **shape)


def hiera(size: tuple[int, int]) -> Callable[[], nn.Module]:
    options = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "mlp_ratio": 2.0}
    return hugging_face("Hiera", image_size=list(size), **options)


def timm_hiera(size: tuple[int, int]) -> Callable[[], nn.Module]:
    timm = pytest.importorskip("timm")
    return lambda: timm.models.hiera.Hiera(img_size=size, num_classes=3, embed_dim=8, num_heads=1, stages=(1, 1, 2, 1))


def naflex(size: tuple[int, int]) -> Callable[[], nn.Module]:
    timm = pytest.importorskip("timm")
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "pos_embed_grid_size": (4, 4)}
    return lambda: timm.create_model("naflexvit_base_patch16_gap", num_classes=3, **shape)


@pytest.mark.parametrize(
    ("make", "size", "layer", "grid"),
    [
        (lambda size: swin("Swin", size), (64, 64), "swin.layernorm", (8, 8)),
        (lambda size: swin("Swinv2", size), (64, 64), "swinv2.layernorm", (8, 8)),
        (lambda size: swin("DonutSwin", size), (64, 64), "donut.encoder.layers.1.blocks.1.output", (8, 8)),
        (hiera, (160, 160), "hiera.encoder.stages.3.layers.0.mlp", (5, 5)),
        (timm_hiera, (160, 160), "blocks.4", (5, 5)),
        (naflex, (48, 64), "blocks.1", (6, 8)),
    ],
)
def test_last_layer_is_placed(make, size, layer, grid):
    classifier = seeded_classifier(make(size), size)

    def read(x: torch.Tensor) -> torch.Tensor:
        return Oracle(classifier).probe(x, Y, differentiate=False).activations

    result = Oracle(classifier).probe(torch.rand(1, 3, *size), Y)
    assert (result.layer, tuple(result.activations.shape[-2:])) == (layer, grid)
    for row, column in ((0, grid[1] - 1), (grid[0] - 2, 1)):
        changed = changed_cell(classifier, read, row, column, size[0] // grid[0])
        assert max(abs(changed[0] - row), abs(changed[1] - column)) <= 1  # attention moves a neighbor more at times


@pytest.mark.parametrize("method", ["attention-rollout", "attention-relevance"])
def test_pvt_is_refused(method):
    options = {
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
        "image_size": 64,
    }
    classifier = seeded_classifier(hugging_face("Pvt", **options), (64, 64))
    with pytest.raises(
        UsageError, match=r"attention weights of pvt\.encoder\.block\.0\.0\.attention\.self have shape 1 x 1 x 256 x 4"
    ):
        xplain.attribute(classifier, torch.rand(1, 3, 64, 64), method, target=0)


class Tower(nn.Module):
    """SigLIP's image tower with a linear head on its pooled output."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        self.tower = transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(image_size=64, patch_size=8, **shape)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tower(x).pooler_output)


def test_siglip_is_read_out_by_its_attention_pool():
    classifier = seeded_classifier(Tower, (64, 64))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    result = probe_attention(Oracle(classifier), x, Y.expand(2), "toy", lambda w, _: w.mean(dim=1), differentiate=False)
    assert str(result.tokens.layout) == "8x8"
    tower = classifier.model.tower
    states = tower(x).last_hidden_state
    pool = tower.head if hasattr(tower, "head") else tower.vision_model.head
    expected = pool.attention(pool.probe.expand(2, -1, -1), states, states)[1]
    assert (result.pooling - expected).abs().max() < 1e-6
    assert len(result.matrices) == 2
