"""Print the layers and layouts that are found for many architectures: ``python -m tests.tools.layout_zoo [PATTERN]``.

The networks have random weights. For each one, single regions of an image are changed, and the cell of the layer's map that
changes most is compared with the region (``hit``: the share within one cell). Attention rollout is refused or its grid is shown.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import xplain
from tests.helpers.hugging_face_families import FAMILIES, PATCHES
from xplain.core.errors import XplainError
from xplain.oracle import Oracle
from xplain.oracle.attention import probe_attention

REGIONS = 12

TIMM = """
vit_tiny_patch16_224 vit_tiny_patch16_224:reg_tokens=4 vit_small_patch14_dinov2 beit_base_patch16_224 deit3_small_patch16_224
eva02_tiny_patch14_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 hiera_tiny_224 levit_128s coat_lite_tiny coat_tiny
tnt_s_patch16_224 naflexvit_base_patch16_gap maxvit_nano_rw_256 mixer_s32_224 resmlp_12_224 gmlp_s16_224 cait_xxs24_224
convit_tiny crossvit_tiny_240 xcit_nano_12_p16_224 pvt_v2_b0 pit_ti_224 twins_pcpvt_small visformer_tiny tiny_vit_5m_224
efficientformer_l1 efficientvit_b0 mobilevit_xxs mobilevitv2_050 edgenext_xx_small poolformer_s12 convnext_atto convmixer_768_32
resnet18 regnetx_002 vit_base_patch16_siglip_224 focalnet_tiny_srf davit_tiny nest_tiny gcvit_xxtiny volo_d1_224 sequencer2d_s
"""


def timm_models() -> Iterator[tuple[str, int, Callable[[], nn.Module]]]:
    """Yield the names, image sizes and factories of timm's models."""
    import timm

    for text in TIMM.split():
        name, _, option = text.partition(":")
        options = {option.split("=")[0]: int(option.split("=")[1])} if option else {}
        side = timm.get_pretrained_cfg(name).input_size[-1]
        yield f"timm {text}", side, lambda n=name, o=options: timm.create_model(n, num_classes=10, **o)


def hugging_face_models() -> Iterator[tuple[str, int, Callable[[], nn.Module]]]:
    """Yield small versions of the families of Hugging Face's image classifiers."""
    import transformers as hf

    for name, (side, options) in FAMILIES.items():
        config = getattr(hf, f"{name}Config", None)
        model = getattr(hf, f"{name}ForImageClassification", None)
        if config is None or model is None:
            continue
        yield f"hf {name}", side, lambda c=config, m=model, o=options: m(c(num_labels=5, **o))
    siglip = hf.SiglipVisionConfig(**PATCHES)
    yield (
        "hf Siglip",
        64,
        lambda: hf.SiglipForImageClassification(hf.SiglipConfig(vision_config=siglip.to_dict(), num_labels=5)),
    )
    clip = hf.CLIPVisionConfig(**PATCHES)
    yield (
        "hf CLIP",
        64,
        lambda: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=clip.to_dict(), num_labels=5)),
    )
    yield "hf Siglip attention pool", 64, lambda: Pooled(hf.SiglipVisionModel(siglip))


class Pooled(nn.Module):
    """A tower whose pooled output is classified."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, nn.Linear(32, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.tower(pixels).pooler_output)


def single_region_hits(classifier: xplain.Classifier, layer: str) -> float:
    """Return the share of changed regions whose cell, or one beside it, changes most."""
    oracle = Oracle(classifier)
    height, width = classifier.size
    generator = torch.Generator().manual_seed(3)
    base = torch.rand(1, 3, height, width, generator=generator)
    target = torch.zeros(1, dtype=torch.long)
    before = oracle.probe(base, target, layer, differentiate=False).activations
    rows, columns = before.shape[-2:]
    hits = 0
    for _ in range(REGIONS):
        row, column = (int(torch.randint(side, (1,), generator=generator)) for side in (rows, columns))
        changed = base.clone()
        top, left = row * height // rows, column * width // columns
        bottom, right = (row + 1) * height // rows, (column + 1) * width // columns
        changed[:, :, top:bottom, left:right] = torch.rand(1, 3, bottom - top, right - left, generator=generator)
        after = oracle.probe(changed, target, layer, differentiate=False).activations
        found = int((after - before).square().sum(dim=1).flatten().argmax())
        hits += max(abs(found // columns - row), abs(found % columns - column)) <= 1
    return hits / REGIONS


def describe(name: str, side: int, factory: Callable[[], nn.Module]) -> str:
    """Return the row of a model."""
    torch.manual_seed(0)
    network = factory().eval()
    network.size = side
    classifier = xplain.load_classifier(network, device="cpu")
    x, y = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)), torch.zeros(1, dtype=torch.long)
    started = time.perf_counter()
    oracle = Oracle(classifier)
    try:
        probe = oracle.probe(x, y, differentiate=False)
        grid = "x".join(map(str, probe.activations.shape[-2:]))
        found = f"{probe.layer} {grid} hit {single_region_hits(classifier, probe.layer):.2f}"
    except XplainError as error:
        found = f"refused: {error}"
    checks, seconds = oracle.cost.checks, time.perf_counter() - started
    try:
        tokens = probe_attention(
            Oracle(classifier), x, y, "rollout", lambda w, _: w.mean(dim=1), differentiate=False
        ).tokens
        rollout = f"{tokens.layout}{' pooled' * tokens.is_pooled}"
    except XplainError as error:
        rollout = f"refused: {str(error).partition('but ')[2][:70]}"
    return f"{name} | {found} | {checks} rows, {seconds:.1f} s | {rollout}"


def main(pattern: str = "") -> None:
    """Print a table of all models whose name matches the regular expression."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    print("model | layer, grid, hits | checks | rollout")
    for models in (hugging_face_models, timm_models):
        for name, side, factory in models():
            if not re.search(pattern, name):
                continue
            try:
                print(describe(name, side, factory), flush=True)
            except Exception as error:
                print(f"{name} | FAILED {type(error).__name__}: {str(error)[:150]}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
