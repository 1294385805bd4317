"""LeGrad against torchcam and its authors' package, if they are installed."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
import torch.nn.functional as F

import xplain
from tests.helpers import toys
from xplain.data.preprocessing import Preprocessing
from xplain.models.outputs import OutputKind
from xplain.models.zero_shot import ClassTexts, TextHead
from xplain.oracle import Oracle
from xplain.oracle.block_scores import differentiate_block_scores


@pytest.mark.parametrize("last", [3, 1])
def test_legrad_equals_torchcam(last):
    """Before upsampling; torchcam returns the mean of the blocks at the resolution of the patches."""
    package = pytest.importorskip("torchcam.methods")
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).double().eval()
    torch.nn.init.normal_(net.heads.head.weight)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    with package.LeGrad(net, list(net.encoder.layers)[-last:]) as extractor:
        maps = extractor(2, net(x), normalized=False)
    theirs = torch.stack(maps).mean(dim=0)[0]
    classifier = toys.classifier(net, preprocessing=Preprocessing.for_size(32))
    result = differentiate_block_scores(Oracle(classifier), x, torch.tensor([2]), "legrad", last=last)
    ours = result.layout.to_map(result.keys.mean(dim=1)[:, :, None])[0, 0]
    assert ours.shape == theirs.shape == (4, 4)
    toys.assert_same(ours, theirs, rtol=1e-6)


def test_legrad_equals_the_package_of_its_authors():
    """All blocks of CLIP, scaled to [0, 1] as the package does."""
    open_clip = pytest.importorskip("open_clip")
    package = pytest.importorskip("legrad")
    from xplain.models.open_clip_models import OpenClipImageTextClassifier

    vision = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    texts = F.normalize(torch.randn(3, 16, dtype=torch.float64), dim=1)
    head = TextHead(texts, torch.tensor(1.0), None, OutputKind("softmax"), ClassTexts(("a", "b", "c"), (), ()))
    tower = OpenClipImageTextClassifier(model, head).double().eval()
    ours = xplain.attribute(
        toys.classifier(tower, preprocessing=Preprocessing.for_size(32)), x, "legrad", target=1
    ).values
    with contextlib.redirect_stdout(io.StringIO()):
        wrapper = package.LeWrapper(model, layer_index=0)
    theirs = wrapper.compute_legrad(text_embedding=texts[1:2].clone(), image=x).detach()
    toys.assert_same((ours - ours.min()) / (ours.max() - ours.min()), theirs, rtol=1e-9)
