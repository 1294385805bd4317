"""Attention methods on models whose tokens are read out by an attention with one query: SigLIP of timm, transformers and open_clip."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.helpers.plain_attention import plain_attention
from tests.helpers.transformers import small_images, small_transformer
from tests.reference import attention as literal
from tests.reference import legrad as literal_legrad
from xplain.data.preprocessing import Preprocessing
from xplain.models.outputs import OutputKind
from xplain.models.zero_shot import ClassTexts, TextHead

SIDE, GRID, TARGET = 32, 4, 2
VISION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}


def make_text_head(dimensions: int) -> TextHead:
    """Return the texts of a SigLIP model with three classes."""
    features = torch.randn(3, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    texts = ClassTexts(("a", "b", "c"), (), ())
    bias = torch.full((3,), -2.0, dtype=torch.float64)
    return TextHead(F.normalize(features, dim=1), torch.tensor(9.0), bias, OutputKind("sigmoid"), texts)


def make_hugging_face() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    from xplain.models.hugging_face_zero_shot import make_tower

    config = transformers.SiglipConfig(
        vision_config=VISION | {"image_size": SIDE, "patch_size": 8},
        text_config=VISION | {"num_hidden_layers": 1, "vocab_size": 8},
    )
    return make_tower(transformers.SiglipModel(config), config, make_text_head(24), None)


def make_open_clip() -> torch.nn.Module:
    open_clip, timm = pytest.importorskip("open_clip"), pytest.importorskip("timm")
    from xplain.models.open_clip_models import OpenClipImageTextClassifier

    vision = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    model = open_clip.model.CustomTextCLIP(embed_dim=192, vision_cfg=vision, text_cfg=text)
    shape = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    trunk = timm.models.VisionTransformer(**shape, num_classes=0, class_token=False, global_pool="map")
    model.visual.trunk = trunk
    return OpenClipImageTextClassifier(model, make_text_head(24))


@cache
def load(name: str) -> xplain.Classifier:
    if name == "timm":
        return small_transformer("timm-siglip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = {"transformers": make_hugging_face, "open_clip": make_open_clip}[name]().double().eval()
        for parameter_name, parameter in network.named_parameters():
            if parameter.ndim > 1 and any(
                part in parameter_name for part in ("attn", "qkv", ".q.", "_proj.", "in_proj", "kv")
            ):
                parameter.data += torch.randn_like(parameter) * (1.5 / parameter[0].numel() ** 0.5)
            if any(part in parameter_name for part in ("latent", "probe")):
                parameter.data += torch.randn_like(parameter)
    return toys.classifier(network, preprocessing=Preprocessing.for_size(SIDE))


def weights_and_gradients(classifier: xplain.Classifier, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weights (heads, queries, N) of all attentions, the pooling one last, and the gradients of the logit there."""
    with torch.enable_grad(), plain_attention() as recorded:
        logits = classifier(x)
    gradients = torch.autograd.grad(logits[0, TARGET], recorded)
    return [weight[0].detach() for weight in recorded], [gradient[0] for gradient in gradients]


def upsampled(patches: Tensor) -> Tensor:
    return F.interpolate(patches.reshape(1, 1, GRID, GRID), (SIDE, SIDE), mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("name", ["timm", "transformers", "open_clip"])
def test_pooling_attention_equals_literal_version(name):
    """The row of the pooling query takes the place of the class token's: Ā_pool R, and the pooling weights times the rollout."""
    classifier, x = load(name), small_images(1)
    weights, gradients = weights_and_gradients(classifier, x)
    assert [weight.shape for weight in weights] == [(3, 16, 16), (3, 16, 16), (3, 1, 16)]
    pool = weights[-1].mean(dim=0)
    rollout = xplain.attribute(classifier, x, "attention-rollout").values[0]
    toys.assert_same(rollout, upsampled(pool @ literal.rollout(weights[:-1])), rtol=1e-9)
    relevant = (weights[-1] * gradients[-1]).clamp(min=0).mean(dim=0)
    relevance = xplain.attribute(classifier, x, "attention-relevance", target=TARGET).values[0]
    expected = relevant @ literal.relevance(weights[:-1], gradients[:-1])
    toys.assert_same(relevance, upsampled(expected), rtol=1e-9)
    assert float(relevance.max()) > 1.01 * float(relevance.min()) >= 0
    assert float(rollout.max()) > 1.01 * float(rollout.min()) > 0
    last_block = xplain.attribute(classifier, x, "legrad", target=TARGET, layers=1).values[0]
    toys.assert_same(last_block, upsampled(literal_legrad.positive_key_means(gradients[-1])), rtol=1e-9)
