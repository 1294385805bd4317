"""Inference copies: the logits stay the same, the user's model is not modified, and batch norms are folded or fixed."""

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
from xplain.models.batch_norms import fix_batch_norms
from xplain.models.efficientnet_lite import EfficientNetLite
from xplain.models.optimize import freeze_version, inference_copy, optimize_for_inference

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in model.modules())


def randomize_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model in float64 and evaluation mode, with batch norms that are not the identity."""
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


def build_model(maker, *arguments, **options) -> nn.Module:
    """Return a model with reproducible random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize_norms(maker(*arguments, **options))


def as_classifier(model: nn.Module, side: int = 16) -> xplain.Classifier:
    return xplain.Classifier(model, name="toy", preprocessing=Preprocessing((side, side), side))


def check_optimized(model: nn.Module, side: int = 16, tolerance: float = 1e-12) -> xplain.Classifier:
    """Check that the optimized copy returns the logits of ``model`` for other images than the probe; return the copy."""
    classifier = as_classifier(model, side)
    x = toys.images(2, side, side)
    optimized = optimize_for_inference(classifier)
    with torch.no_grad():
        expected = classifier(x)
        assert expected.std() > 0
        assert (optimized(x) - expected).abs().max() <= tolerance * expected.abs().max()
    return optimized


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
def test_fold_scales_convolution(bias, activation):
    model = toys.small_net(bias=bias, activation=activation)
    optimized = check_optimized(model)
    assert (count_norms(model), count_norms(optimized)) == (1, 0)
    scale = model.norm1.weight / (model.norm1.running_var + 1e-5).sqrt()
    expected = model.conv1.weight * scale[:, None, None, None]
    assert (optimized.model.conv1.weight - expected).abs().max() < 1e-15


def torchvision_model(name: str, **options) -> nn.Module:
    from torchvision import models

    return build_model(models.get_model, name, num_classes=7, **options)


@pytest.mark.parametrize(
    ("name", "side", "before", "after", "options"),
    [
        ("resnet18", 32, 20, 0, {}),
        ("densenet121", 32, 121, 62, {}),  # not folded: before each layer (58), in 3 transitions, at the end
        ("inception_v3", 80, 96, 2, {"aux_logits": True, "init_weights": False}),  # not folded: in the auxiliary head
        ("mobilenet_v3_small", 32, 34, 0, {}),
    ],
)
def test_fold_torchvision_models(name, side, before, after, options):
    model = torchvision_model(name, **options)
    optimized = check_optimized(model, side, 1e-10)
    assert (count_norms(model), count_norms(optimized)) == (before, after)


def test_fold_embedded_model():
    model = build_model(EfficientNetLite, classes=7)
    optimized = check_optimized(model, 48, 1e-10)
    assert (count_norms(model), count_norms(optimized)) == (49, 0)


def test_fold_false_keeps_norms():
    model = toys.small_net()
    optimized = optimize_for_inference(as_classifier(model), fold=False)
    assert count_norms(optimized) == 1
    assert (optimized(toys.images()) - model(toys.images())).abs().max() < 1e-14


class Block(nn.Module):
    """A convolution and a norm, combined by ``wire(block, x)``, then a mean and a linear layer."""

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
    optimized = check_optimized(build_model(Block, wire))
    assert count_norms(optimized) == 1


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fold_check_is_scale_free(scale, dtype):
    model = build_model(Block, used_twice)
    model.head.weight.data *= scale
    model.head.bias.data *= scale
    classifier = as_classifier(model.to(dtype))
    x = toys.images(2, 16, 16)
    expected, actual = classifier(x), optimize_for_inference(classifier)(x)
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


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
    assert count_norms(check_optimized(build_model(Block, wire, **options))) == 0


def test_fold_skips_norms_without_statistics():
    model = build_model(Block, lambda block, x: block.norm(block.conv(x)), track_running_stats=False)
    assert count_norms(check_optimized(model)) == 1


class Branches(nn.Module):
    """Two convolutions with norms, one of them grouped. The first block's output goes to the second and to a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.conv1(x)))
        return self.head((x + self.norm2(self.conv2(x))).mean(dim=(2, 3)))


def test_fold_grouped_residual_convolutions():
    assert count_norms(check_optimized(build_model(Branches))) == 0


class Viewing(nn.Module):
    """A head that flattens by ``view``, which requires contiguous features."""

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
    model = build_model(Viewing)
    classifier = xplain.Classifier(model, name="toy", preprocessing=Preprocessing(size, max(size)))
    x = toys.images().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    values = xplain.attribute(classifier, x.detach(), "saliency", target=2).values
    assert (values - expected).abs().max() < 1e-13


class Asserting(nn.Module):
    """A network that asserts its input size, as vision transformers do."""

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
    values = xplain.attribute(xplain.Classifier(model, name="toy"), x.detach(), "saliency", target=2).values
    assert (values - expected).abs().max() < 1e-13


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(
    "reparametrize",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.weight_norm],
    ids=["weight_norm", "spectral_norm", "old weight_norm"],
)
def test_attribute_model_with_reparametrization(reparametrize):
    model = build_model(Block, lambda block, x: block.norm(block.conv(x)))
    reparametrize(model.conv)
    model.eval()
    x = toys.images().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 2].sum(), x)
    values = xplain.attribute(as_classifier(model), x.detach(), "saliency", target=2).values
    assert (values - expected).abs().max() < 1e-13


def test_optimize_model_rejecting_probe():
    model = toys.Linear(torch.ones(2, 3, 8, 10, dtype=torch.float64))
    optimized = optimize_for_inference(xplain.Classifier(model, name="toy"))
    assert (optimized(toys.images()) - model(toys.images())).abs().max() < 1e-12


def snapshot(model: nn.Module) -> dict[str, object]:
    state: dict[str, object] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        state[f"{name} type"] = type(module)
        state[f"{name} training"] = module.training
        state[f"{name} inplace"] = getattr(module, "inplace", None)
        state[f"{name} hooks"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    for name, parameter in model.named_parameters():
        state[f"{name} grad"] = (parameter.requires_grad, parameter.grad, parameter.stride())
    return state


def is_equal(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return a == b


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
    assert [name for name in before if not is_equal(before[name], after[name])] == []
    assert torch.equal(torch.random.get_rng_state(), state)


def test_attribute_does_not_modify_images():
    x = toys.images()
    before = x.clone()
    xplain.attribute(toys.classifier(toys.small_net()), x, "ig", steps=3)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert x.grad is None


def test_optimized_copy_is_frozen():
    optimized = optimize_for_inference(as_classifier(toys.small_net().train()).train())
    assert not any(module.training for module in optimized.modules() if not isinstance(module, nn.Identity))
    assert not any(parameter.requires_grad for parameter in optimized.parameters())


def test_attribute_uses_evaluation_mode():
    model = toys.small_net()
    expected = xplain.attribute(toys.classifier(model), toys.images(), "saliency", target=1).values
    training = xplain.Classifier(copy.deepcopy(model).train(), name="toy").train()
    values = xplain.attribute(training, toys.images(), "saliency", target=1).values
    assert torch.equal(values, expected)


def test_optimized_copy_is_not_inplace():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.Dropout(inplace=True), nn.Flatten()
    ).double()
    optimized = optimize_for_inference(as_classifier(model))
    flags = [module.inplace for module in optimized.modules() if hasattr(module, "inplace")]
    assert flags == [False] * 3
    assert [module.inplace for module in model.modules() if hasattr(module, "inplace")] == [True] * 3


def test_optimized_copy_is_channels_last():
    optimized = optimize_for_inference(as_classifier(toys.small_net()))
    assert optimized.model.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_inference_copy_is_cached():
    classifier = toys.classifier(toys.small_net())
    assert inference_copy(classifier) is inference_copy(classifier)
    assert inference_copy(classifier, fold=False) is inference_copy(classifier, fold=False)
    assert count_norms(inference_copy(classifier)) == 0
    assert count_norms(inference_copy(classifier, fold=False)) == 1


def change_under_no_grad(classifier: xplain.Classifier) -> None:
    with torch.no_grad():
        classifier.model.head.weight.mul_(2)


def change_data(classifier: xplain.Classifier) -> None:
    classifier.model.head.weight.data.mul_(2)


def replace_data(classifier: xplain.Classifier) -> None:
    classifier.model.head.weight.data = classifier.model.head.weight.data * 2


def replace_parameter(classifier: xplain.Classifier) -> None:
    classifier.model.head.weight = nn.Parameter(classifier.model.head.weight.detach() * 2)


def load_state_dict(classifier: xplain.Classifier) -> None:
    classifier.model.load_state_dict(toys.small_net(seed=9).state_dict())


def run_optimizer(classifier: xplain.Classifier) -> None:
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.5)
    classifier(toys.images()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def change_running_statistics(classifier: xplain.Classifier) -> None:
    classifier.model.norm1.running_mean.add_(0.5)


def change_normalization(classifier: xplain.Classifier) -> None:
    classifier.mean.fill_(0.4)


def replace_module(classifier: xplain.Classifier) -> None:
    classifier.model.act2 = nn.Softplus()


@pytest.mark.parametrize(
    "change",
    [
        change_under_no_grad,
        change_data,
        replace_data,
        replace_parameter,
        load_state_dict,
        run_optimizer,
        change_running_statistics,
        change_normalization,
        replace_module,
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
    reference = weakref.ref(inference_copy(classifier))
    assert reference() is not None
    del classifier
    gc.collect()
    assert reference() is None


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


NORM_SHAPES = [
    (nn.BatchNorm1d, (4, 5)),
    (nn.BatchNorm1d, (4, 5, 7)),
    (nn.BatchNorm2d, (4, 5, 3, 2)),
    (nn.BatchNorm3d, (2, 5, 3, 2, 2)),
]


def make_norm(kind: type[nn.Module], *, affine: bool = True, tracks: bool = True) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    norm = kind(5, affine=affine, track_running_stats=tracks).double().eval()
    for tensor in (norm.running_var, norm.running_mean, norm.weight, norm.bias):
        if tensor is not None:
            tensor.data.uniform_(0.5, 2, generator=generator)
    return norm.requires_grad_(False)


@pytest.mark.parametrize(("kind", "shape"), NORM_SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_fixed_norm_equals_batch_norm(kind, shape, affine):
    norm = make_norm(kind, affine=affine)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    gradient = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    before = norm(x)
    (expected,) = torch.autograd.grad(before, x, gradient)
    fix_batch_norms(norm)
    after = norm(x)
    assert "FixedBatchNorm" in type(after.grad_fn).__name__
    assert torch.equal(after, before)
    (actual,) = torch.autograd.grad(after, x, gradient)
    assert (actual - expected).abs().max() < 1e-15 * expected.abs().max() * 10


def test_fixed_norm_keeps_bfloat16():
    norm = make_norm(nn.BatchNorm2d).float()
    fix_batch_norms(norm)
    x = torch.rand(2, 5, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(x).sum(), x)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient.float(), scale[:, None, None].expand(2, 5, 3, 3), rtol=2**-8)


def test_fixed_norm_keeps_memory_format():
    norm = make_norm(nn.BatchNorm2d)
    fix_batch_norms(norm)
    x = torch.rand(2, 5, 4, 3, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    out = norm(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("condition", ["trainable", "batch statistics", "training"])
def test_fixed_norm_falls_back(condition):
    tracks = condition != "batch statistics"
    norm, plain = make_norm(nn.BatchNorm2d, tracks=tracks), make_norm(nn.BatchNorm2d, tracks=tracks)
    for module in (norm, plain):
        module.requires_grad_(condition == "trainable").train(condition == "training")
    fix_batch_norms(norm)
    x = torch.rand(4, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    gradients = []
    for module in (norm, plain):
        inputs = [x, *module.parameters()] if condition == "trainable" else [x]
        gradients.append(torch.autograd.grad(module(x).square().sum(), inputs))
    for actual, expected in zip(*gradients, strict=True):
        assert torch.equal(actual, expected)


def test_fixed_norm_rejects_wrong_dimensions():
    norm = make_norm(nn.BatchNorm2d)
    fix_batch_norms(norm)
    with pytest.raises(ValueError, match="expected 4D input"):
        norm(torch.rand(2, 5, 3, dtype=torch.float64))


def test_fix_batch_norms_keeps_subclasses():
    class CustomNorm(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    norm = CustomNorm(5).eval().requires_grad_(False)
    fix_batch_norms(norm)
    assert type(norm) is CustomNorm


def test_inference_copy_fixes_unfolded_norms():
    classifier = toys.classifier(toys.small_net())
    kinds = {type(module).__name__ for module in inference_copy(classifier, fold=False).modules()}
    assert "_FixedBatchNorm2d" in kinds
    assert "BatchNorm2d" not in kinds
    assert type(classifier.model.norm1) is nn.BatchNorm2d
