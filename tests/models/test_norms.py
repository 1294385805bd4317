"""Fixed norms: the forward to the bit, the gradient that PyTorch gives, and nothing where weights are learned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers import toys
from xplain.models.optimize import fix_batch_norms, inference_copy

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
def test_forward_to_the_bit_and_the_gradient(kind, shape, affine):
    norm = norm_of(kind, affine=affine)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    slope = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    before = norm(x)
    (expected,) = torch.autograd.grad(before, x, slope)
    fix_batch_norms(norm)
    after = norm(x)
    assert "Scaled" in type(after.grad_fn).__name__
    assert torch.equal(after, before)
    (actual,) = torch.autograd.grad(after, x, slope)
    assert (actual - expected).abs().max() < 1e-15 * expected.abs().max() * 10


def test_bfloat16_stays_bfloat16():
    norm = norm_of(nn.BatchNorm2d).float()
    fix_batch_norms(norm)
    x = torch.rand(2, 5, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    (slope,) = torch.autograd.grad(norm(x).sum(), x)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert slope.dtype == torch.bfloat16
    assert torch.allclose(slope.float(), scale[:, None, None].expand(2, 5, 3, 3), rtol=2**-8)


def test_the_layout_is_kept():
    norm = norm_of(nn.BatchNorm2d)
    fix_batch_norms(norm)
    x = torch.rand(2, 5, 4, 3, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    out = norm(x)
    (slope,) = torch.autograd.grad(out.square().sum(), x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert slope.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("why", ["weights that learn", "statistics of the batch", "training"])
def test_elsewhere_it_is_the_norm_itself(why):
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


def test_a_wrong_number_of_dimensions_is_refused_as_before():
    norm = norm_of(nn.BatchNorm2d)
    fix_batch_norms(norm)
    with pytest.raises(ValueError, match="expected 4D input"):
        norm(torch.rand(2, 5, 3, dtype=torch.float64))


def test_a_class_of_the_users_own_is_left_alone():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    norm = Own(5).eval().requires_grad_(False)
    fix_batch_norms(norm)
    assert type(norm) is Own


def test_the_working_copy_that_keeps_its_norms_has_them_fixed_and_the_users_model_does_not():
    made = toys.classifier(toys.small_net())
    kinds = {type(each).__name__ for each in inference_copy(made, fold=False).modules()}
    assert "_Fixed2d" in kinds
    assert "BatchNorm2d" not in kinds
    assert type(made.model.norm1) is nn.BatchNorm2d
