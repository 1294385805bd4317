"""The working copy: the same logits as the user's model, which is never touched; batch norms folded where that is exact."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.data.preprocessing import Preprocessing
from xplain.models.efficientnet_lite0 import EfficientNetLite0
from xplain.models.optimize import fix_batch_norms, freeze_version, inference_copy, optimize_for_inference, tf32_flags

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and evaluation mode, with batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS) and module.running_var is not None:
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    tensor.data.uniform_(-0.3, 0.3, generator=generator)
    return model.double().eval()


def build(maker, *arguments, **options) -> nn.Module:
    """A network with random weights that are the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return with_statistics(maker(*arguments, **options))


def as_classifier(model: nn.Module, side: int = 16) -> xplain.Classifier:
    return xplain.Classifier(model, name="toy", preprocessing=Preprocessing((side, side), side))


def assert_same(model: nn.Module, side: int = 16, tolerance: float = 1e-12) -> xplain.Classifier:
    """The working copy of ``model`` gives its logits on images that are not the probe."""
    classifier = as_classifier(model, side)
    x = toys.images(2, side, side)
    ready = optimize_for_inference(classifier)
    with torch.no_grad():
        expected = classifier(x)
        assert expected.std() > 0
        assert (ready(x) - expected).abs().max() <= tolerance * expected.abs().max()
    return ready


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_fold_scales_convolution(bias, activation):
    model = toys.small_net(bias=bias, activation=activation)
    ready = assert_same(model)
    assert (norms(model), norms(ready)) == (1, 0)
    scale = model.norm1.weight / (model.norm1.running_var + 1e-5).sqrt()
    expected = model.conv1.weight * scale[:, None, None, None]
    assert (ready.model.conv1.weight - expected).abs().max() < 1e-15


def torchvision_model(name: str, **options) -> nn.Module:
    from torchvision import models

    return build(models.get_model, name, num_classes=7, **options)


@pytest.mark.parametrize(
    ("name", "side", "before", "after", "options"),
    [
        ("resnet18", 32, 20, 0, {}),
        ("densenet121", 32, 121, 62, {}),  # left: before each layer (58), in 3 transitions, at the end
        ("inception_v3", 80, 96, 2, {"aux_logits": True, "init_weights": False}),  # left: the auxiliary head's, not run
        ("mobilenet_v3_small", 32, 34, 0, {}),
    ],
)
def test_fold_torchvision_models(name, side, before, after, options):
    model = torchvision_model(name, **options)
    ready = assert_same(model, side, 1e-10)
    assert (norms(model), norms(ready)) == (before, after)


def test_fold_embedded_model():
    model = build(EfficientNetLite0, classes=7)
    ready = assert_same(model, 48, 1e-10)
    assert (norms(model), norms(ready)) == (49, 0)


def test_fold_false_keeps_norms():
    model = toys.small_net()
    ready = optimize_for_inference(as_classifier(model), fold=False)
    assert norms(ready) == 1
    assert (ready(toys.images()) - model(toys.images())).abs().max() < 1e-14


class Block(nn.Module):
    """A convolution and a norm, put together by ``wire(block, x)``, then a mean and a linear layer."""

    def __init__(self, wire, channels: int = 3, **norm_options) -> None:
        super().__init__()
        self.wire = wire
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, **norm_options)
        self.extra = nn.Identity()
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.wire(self, x)).mean(dim=(2, 3)))


def used_twice(block: Block, x: Tensor) -> Tensor:
    y = block.conv(x)
    return block.norm(y) + y


def convolved_twice(block: Block, x: Tensor) -> Tensor:
    return block.norm(block.conv(block.conv(x)))


def normed_twice(block: Block, x: Tensor) -> Tensor:
    return block.norm(block.norm(block.conv(x)))


def both_twice(block: Block, x: Tensor) -> Tensor:
    return block.norm(block.conv(block.norm(block.conv(x))))


def changed_between(block: Block, x: Tensor) -> Tensor:
    y = block.conv(x)
    y += 1
    return block.norm(y)


def norm_first(block: Block, x: Tensor) -> Tensor:
    return block.conv(block.norm(x))


@pytest.mark.parametrize("wire", [used_twice, convolved_twice, normed_twice, both_twice, changed_between, norm_first])
def test_fold_skips_inexact_pairs(wire):
    ready = assert_same(build(Block, wire))
    assert norms(ready) == 1


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fold_check_is_scale_free(scale, dtype):
    model = build(Block, used_twice)
    model.head.weight.data *= scale
    model.head.bias.data *= scale
    classifier = as_classifier(model.to(dtype))
    x = toys.images(2, 16, 16)
    expected, found = classifier(x), optimize_for_inference(classifier)(x)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("wire", "options"),
    [
        (lambda block, x: block.norm(block.conv(x)), {}),
        (lambda block, x: block.norm(block.extra(block.conv(x))), {}),
        (lambda block, x: block.norm(block.conv(x)), {"affine": False}),
        (lambda block, x: block.norm(block.conv(x)), {"eps": 0.3}),
    ],
)
def test_fold_exact_pairs(wire, options):
    assert norms(assert_same(build(Block, wire, **options))) == 0


def test_fold_skips_norms_without_statistics():
    model = build(Block, lambda block, x: block.norm(block.conv(x)), track_running_stats=False)
    assert norms(assert_same(model)) == 1


class Branches(nn.Module):
    """Two convolutions with norms, one of grouped channels; the first output goes to both a norm and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.conv1(x)))
        return self.head((x + self.norm2(self.conv2(x))).mean(dim=(2, 3)))


def test_fold_grouped_residual_convolutions():
    assert norms(assert_same(build(Branches))) == 0


class Viewing(nn.Module):
    """The classic head that flattens by ``view``, which holds for contiguous features only."""

    def __init__(self, height: int = 8, width: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * height * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(x)))
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("size", [(8, 10), (224, 224)])
def test_attribute_model_with_view(size):
    model = build(Viewing)
    classifier = xplain.Classifier(model, name="toy", preprocessing=Preprocessing(size, max(size)))
    x = toys.images().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    found = xplain.attribute(classifier, x.detach(), "saliency", target=2).values
    assert (found - expected).abs().max() < 1e-13


class Asserting(nn.Module):
    """Insists on its input size, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = toys.small_net()

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-2:] == (8, 10), "wrong input size"
        return self.net(x)


def test_attribute_model_asserting_size():
    model = Asserting()
    x = toys.images().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    found = xplain.attribute(xplain.Classifier(model, name="toy"), x.detach(), "saliency", target=2).values
    assert (found - expected).abs().max() < 1e-13


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(
    "reparametrize",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.weight_norm],
    ids=["weight_norm", "spectral_norm", "old weight_norm"],
)
def test_attribute_model_with_reparametrization(reparametrize):
    model = build(Block, lambda block, x: block.norm(block.conv(x)))
    reparametrize(model.conv)
    model.eval()
    x = toys.images().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    found = xplain.attribute(as_classifier(model), x.detach(), "saliency", target=2).values
    assert (found - expected).abs().max() < 1e-13


def test_optimize_model_rejecting_probe():
    model = toys.Linear(torch.ones(2, 3, 8, 10, dtype=torch.float64))
    ready = optimize_for_inference(xplain.Classifier(model, name="toy"))
    assert (ready(toys.images()) - model(toys.images())).abs().max() < 1e-12


def snapshot(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        found[f"{name} type"] = type(module)
        found[f"{name} training"] = module.training
        found[f"{name} inplace"] = getattr(module, "inplace", None)
        found[f"{name} hooks"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    for name, parameter in model.named_parameters():
        found[f"{name} grad"] = (parameter.requires_grad, parameter.grad, parameter.stride())
    return found


def same(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["saliency", "grad-cam", "agi"])
def test_attribute_does_not_modify_model(training, method):
    model = nn.Sequential(toys.small_net(), nn.ReLU(inplace=True), nn.Dropout(0.5)).train(training)
    classifier = xplain.Classifier(model, name="toy").train(training)
    before, state = snapshot(classifier), torch.random.get_rng_state()
    options = {"steps": 2, "classes": 2} if method == "agi" else {}
    xplain.attribute(classifier, toys.images(), method, **options)
    after = snapshot(classifier)
    assert before.keys() == after.keys()
    assert [name for name in before if not same(before[name], after[name])] == []
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attribute_does_not_modify_images():
    x = toys.images()
    before = x.clone()
    xplain.attribute(toys.classifier(toys.small_net()), x, "ig", steps=3)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert x.grad is None


def test_optimized_copy_is_frozen():
    ready = optimize_for_inference(as_classifier(toys.small_net().train()).train())
    assert not any(module.training for module in ready.modules() if not isinstance(module, nn.Identity))
    assert not any(parameter.requires_grad for parameter in ready.parameters())


def test_attribute_uses_evaluation_mode():
    model = toys.small_net()
    expected = xplain.attribute(toys.classifier(model), toys.images(), "saliency", target=1).values
    training = xplain.Classifier(copy.deepcopy(model).train(), name="toy").train()
    found = xplain.attribute(training, toys.images(), "saliency", target=1).values
    assert torch.equal(found, expected)


def test_optimized_copy_is_not_inplace():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.Dropout(inplace=True), nn.Flatten()
    ).double()
    ready = optimize_for_inference(as_classifier(model))
    flags = [module.inplace for module in ready.modules() if hasattr(module, "inplace")]
    assert flags == [False] * 3
    assert [module.inplace for module in model.modules() if hasattr(module, "inplace")] == [True] * 3


def test_optimized_copy_is_channels_last():
    ready = optimize_for_inference(as_classifier(toys.small_net()))
    assert ready.model.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_inference_copy_is_cached():
    classifier = toys.classifier(toys.small_net())
    assert inference_copy(classifier) is inference_copy(classifier)
    assert inference_copy(classifier, fold=False) is inference_copy(classifier, fold=False)
    assert norms(inference_copy(classifier)) == 0
    assert norms(inference_copy(classifier, fold=False)) == 1


def under_no_grad(classifier: xplain.Classifier) -> None:
    with torch.no_grad():
        classifier.model.head.weight.mul_(2)


def by_data(classifier: xplain.Classifier) -> None:
    classifier.model.head.weight.data.mul_(2)


def by_new_data(classifier: xplain.Classifier) -> None:
    classifier.model.head.weight.data = classifier.model.head.weight.data * 2


def by_new_parameter(classifier: xplain.Classifier) -> None:
    classifier.model.head.weight = nn.Parameter(classifier.model.head.weight.detach() * 2)


def by_loading(classifier: xplain.Classifier) -> None:
    classifier.model.load_state_dict(toys.small_net(seed=9).state_dict())


def by_an_optimizer(classifier: xplain.Classifier) -> None:
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
    classifier(toys.images()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def running_statistics(classifier: xplain.Classifier) -> None:
    classifier.model.norm1.running_mean.add_(0.5)


def normalisation(classifier: xplain.Classifier) -> None:
    classifier.mean.fill_(0.4)


def another_module(classifier: xplain.Classifier) -> None:
    classifier.model.act2 = nn.Softplus()


@pytest.mark.parametrize(
    "change",
    [
        under_no_grad,
        by_data,
        by_new_data,
        by_new_parameter,
        by_loading,
        by_an_optimizer,
        running_statistics,
        normalisation,
        another_module,
    ],
)
def test_inference_copy_follows_model_change(change):
    classifier = toys.classifier(toys.small_net())
    x = toys.images()
    before = inference_copy(classifier)(x)
    change(classifier)
    expected = classifier(x).detach()
    assert (expected - before).abs().max() > 1e-3
    assert (inference_copy(classifier)(x) - expected).abs().max() < 1e-12


def test_inference_copy_is_freed():
    classifier = toys.classifier(toys.small_net())
    kept = weakref.ref(inference_copy(classifier))
    assert kept() is not None
    del classifier
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_tf32_flags_are_set_and_restored(precision, allowed):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [each.allow_tf32 for each in flags]

    def interrupted() -> None:
        with tf32_flags(precision, torch.device("cuda")):
            assert [each.allow_tf32 for each in flags] == [allowed] * 2
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert [each.allow_tf32 for each in flags] == before


def test_tf32_flags_ignore_cpu():
    before = torch.backends.cuda.matmul.allow_tf32
    with tf32_flags("tf32", torch.device("cpu")):
        assert torch.backends.cuda.matmul.allow_tf32 == before


def test_freeze_version_skips_change_detection():
    classifier = as_classifier(toys.small_net())
    with freeze_version(classifier):
        first = inference_copy(classifier)
        classifier.model.head.bias.data += 1
        with freeze_version(classifier):
            assert inference_copy(classifier) is first
        assert inference_copy(classifier) is first
    after = inference_copy(classifier)
    assert after is not first
    x = toys.images()
    assert (after(x) - classifier(x)).abs().max() < 1e-12


def test_freeze_version_sees_earlier_change():
    classifier = as_classifier(toys.small_net())
    first = inference_copy(classifier)
    classifier.model.head.bias.data += 1
    with freeze_version(classifier):
        assert inference_copy(classifier) is not first
    with pytest.raises(ZeroDivisionError), freeze_version(classifier):
        raise ZeroDivisionError
    classifier.model.head.bias.data += 1
    x = toys.images()
    assert (inference_copy(classifier)(x) - classifier(x)).abs().max() < 1e-12


CASES = [
    (nn.BatchNorm1d, (4, 5)),
    (nn.BatchNorm1d, (4, 5, 7)),
    (nn.BatchNorm2d, (4, 5, 3, 2)),
    (nn.BatchNorm3d, (2, 5, 3, 2, 2)),
]


def norm_of(kind: type[nn.Module], *, affine: bool = True, tracks: bool = True) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    norm = kind(5, affine=affine, track_running_stats=tracks).double().eval()
    for each in (norm.running_var, norm.running_mean, norm.weight, norm.bias):
        if each is not None:
            each.data.uniform_(0.5, 2, generator=draw)
    return norm.requires_grad_(False)


@pytest.mark.parametrize(("kind", "shape"), CASES)
@pytest.mark.parametrize("affine", [True, False])
def test_fixed_norm_equals_batch_norm(kind, shape, affine):
    norm = norm_of(kind, affine=affine)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    slope = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    before = norm(x)
    (expected,) = torch.autograd.grad(before, x, slope)
    fix_batch_norms(norm)
    after = norm(x)
    assert "FixedBatchNorm" in type(after.grad_fn).__name__
    assert torch.equal(after, before)
    (actual,) = torch.autograd.grad(after, x, slope)
    assert (actual - expected).abs().max() < 1e-15 * expected.abs().max() * 10


def test_fixed_norm_keeps_bfloat16():
    norm = norm_of(nn.BatchNorm2d).float()
    fix_batch_norms(norm)
    x = torch.rand(2, 5, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    (slope,) = torch.autograd.grad(norm(x).sum(), x)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert slope.dtype == torch.bfloat16
    assert torch.allclose(slope.float(), scale[:, None, None].expand(2, 5, 3, 3), rtol=2**-8)


def test_fixed_norm_keeps_memory_format():
    norm = norm_of(nn.BatchNorm2d)
    fix_batch_norms(norm)
    x = torch.rand(2, 5, 4, 3, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    out = norm(x)
    (slope,) = torch.autograd.grad(out.square().sum(), x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert slope.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("why", ["weights that learn", "statistics of the batch", "training"])
def test_fixed_norm_falls_back(why):
    norm, own = (norm_of(nn.BatchNorm2d, tracks=why != "statistics of the batch") for _ in range(2))
    for each in (norm, own):
        each.requires_grad_(why == "weights that learn").train(why == "training")
    fix_batch_norms(norm)
    x = torch.rand(4, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    wanted = [x, *norm.parameters()] if why == "weights that learn" else [x]
    theirs = [x, *own.parameters()] if why == "weights that learn" else [x]
    ours = torch.autograd.grad(norm(x).square().sum(), wanted)
    for a, b in zip(ours, torch.autograd.grad(own(x).square().sum(), theirs), strict=True):
        assert torch.equal(a, b)


def test_fixed_norm_rejects_wrong_dimensions():
    norm = norm_of(nn.BatchNorm2d)
    fix_batch_norms(norm)
    with pytest.raises(ValueError, match="expected 4D input"):
        norm(torch.rand(2, 5, 3, dtype=torch.float64))


def test_fix_batch_norms_keeps_subclasses():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    norm = Own(5).eval().requires_grad_(False)
    fix_batch_norms(norm)
    assert type(norm) is Own


def test_inference_copy_fixes_unfolded_norms():
    made = toys.classifier(toys.small_net())
    kinds = {type(each).__name__ for each in inference_copy(made, fold=False).modules()}
    assert "_FixedBatchNorm2d" in kinds
    assert "BatchNorm2d" not in kinds
    assert type(made.model.norm1) is nn.BatchNorm2d
