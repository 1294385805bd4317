"""The emulated device rejects what CUDA rejects, accepts what CUDA accepts, and counts what CUDA would wait for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.emulated_cuda import EmulatedTensor, emulate_cuda

DEVICE = "cuda"


@pytest.fixture(autouse=True)
def log():
    with emulate_cuda("tests/cuda/") as log:
        yield log


def on_device(*shape: int) -> torch.Tensor:
    return torch.rand(*(shape or (2, 3, 8, 8))).to(DEVICE)


def assert_on_device(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        assert type(tensor) is EmulatedTensor
        assert str(tensor.device) == "cuda:0"


def make_network() -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)]
    return nn.Sequential(*layers).eval()


def test_factories_and_copies_are_on_the_device():
    x = on_device()
    assert_on_device(
        torch.zeros(2, device=DEVICE),
        torch.arange(3, device=x.device),
        torch.tensor([1.0, 2], device=DEVICE),
        torch.as_tensor([1, 2], device=DEVICE),
        torch.zeros_like(x),
        x.new_zeros(3),
        x.new_tensor(0.5),
        torch.rand_like(x),
        torch.rand(2).cuda(),
        torch.rand(2).to(x),
        x.to(torch.float64),
        x.clone().mul_(2).erfinv_(),
        F.pad(x, (1, 1, 1, 1), mode="reflect"),
        torch.einsum("bchw,bchw->b", x, x),
        x + torch.tensor(1.0),
    )
    for tensor in (x.cpu(), x.to("cpu"), x.to(torch.zeros(1)), x.detach().to("cpu", torch.float64)):
        assert type(tensor) is torch.Tensor


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda x, y: x + y, "Expected all tensors to be on the same device"),
        (lambda x, y: torch.where(y > 0, x, x), "Expected all tensors"),
        (lambda x, y: torch.cat([x, y]), "Expected all tensors"),
        (lambda x, y: x @ y, "Expected all tensors"),
        (lambda x, y: x.masked_select(y > 0), "Expected all tensors"),
        (lambda x, y: x.gather(0, torch.zeros(1, 3, 8, 8, dtype=torch.long)), "Expected all tensors"),
        (lambda x, y: x.index_select(0, torch.tensor([0])), "Expected all tensors"),
        (lambda x, y: x.clone().__setitem__(x > 2, torch.rand(3)), "Expected all tensors"),
        (lambda x, y: y + x.sum(), "Expected all tensors"),
        (lambda x, y: y[torch.tensor([0], device=DEVICE)], "indices should be either on cpu"),
        (lambda x, y: y[x > 0], "indices should be either on cpu"),
        (lambda x, y: np.asarray(x), "can't convert cuda:0 device type tensor to numpy"),
        (lambda x, y: torch.rand(2, device=DEVICE, generator=torch.Generator()), "Expected a 'cuda' device type"),
        (lambda x, y: make_network().to(DEVICE)(y), "Expected all tensors"),
    ],
)
def test_mixed_devices_are_rejected(work, message):
    with pytest.raises((RuntimeError, TypeError), match=message):
        work(on_device(), torch.rand(2, 3, 8, 8))


def test_indices_of_both_devices_are_accepted():
    x, mask = on_device(), torch.rand(2, 3, 8, 8) > 0.5
    assert_on_device(x[torch.tensor([0])], x[mask], x[[0, 1]], x[:, [True, False, True]])
    assert torch.equal(x[[1]].cpu(), x.cpu()[1:])
    y = x.clone()
    y[0] = torch.zeros(3, 8, 8)
    y[y > 0.5] = 0.0
    y[:, torch.tensor([0])] = 0.25
    assert y.cpu()[0, 0].eq(0.25).all()
    assert y.cpu()[0, 1].eq(0).all()


def test_gradients_are_those_of_the_cpu():
    network, x = make_network(), torch.rand(2, 3, 8, 8)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    network.to(DEVICE)
    outputs: list[torch.Tensor] = []
    network[2].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    leaf = x.to(DEVICE).requires_grad_()
    (gradient,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    assert_on_device(gradient, outputs[0], copy.deepcopy(network)[0].weight)
    assert torch.equal(gradient.cpu(), expected)


def test_attention_runs_on_the_device():
    x = on_device(2, 8, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval().to(DEVICE)
    assert_on_device(attention(x, x, x)[0], F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]))


def test_autocast_lowers_the_precision():
    network, x = make_network().to(DEVICE), on_device()
    with torch.autocast("cuda", torch.bfloat16):
        assert network(x).dtype == torch.bfloat16
    assert network(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("work", "operation"),
    [
        (lambda x: float(x.sum()), "_local_scalar_dense"),
        (lambda x: bool((x > 2).any()), "_local_scalar_dense"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "copy to the CPU"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: x[x > 0.5], "boolean mask"),
        (lambda x: x.flatten().long().bincount(), "bincount"),
        (lambda x: x.flatten().repeat_interleave(torch.tensor([2], device=DEVICE)), "repeat_interleave"),
    ],
)
def test_synchronizations_are_counted_once(log, work, operation):
    x = on_device()
    log.clear()
    work(x)
    assert [(name, count) for (name, _), count in log.synchronizations.items()] == [(operation, 1)]
    assert all(line.startswith("test_emulated_device.py:") for _, line in log.synchronizations)


def test_arithmetic_does_not_synchronize(log):
    x = on_device()
    log.clear()
    x = torch.where(x > 0.5, x.clamp(0, 1), 0) + x.sum() + x.amax(dim=1, keepdim=True)
    x.index_add(0, torch.arange(2, device=DEVICE), x)
    assert not log.synchronizations
    assert log.operations > 5


def test_uploads_are_counted_by_their_memory(log):
    x = torch.rand(2)
    log.clear()
    x.to(DEVICE)
    x.pin_memory().to(DEVICE, non_blocking=True)
    assert sorted(kind for kind, _ in log.uploads) == ["pageable", "pinned"]


def test_settings_decide_what_is_counted(log, monkeypatch):
    x, index = on_device(2, 2), torch.zeros(2, dtype=torch.long, device=DEVICE)
    matmul = torch.backends.cuda.matmul
    log.clear()
    x @ x
    torch.zeros(1, 2, device=DEVICE).index_add_(0, index, x)
    assert (sum(log.tf32.values()), sum(log.nondeterministic.values())) == (0, 1)
    previous, mode = matmul.fp32_precision, torch.get_deterministic_debug_mode()
    try:
        matmul.fp32_precision = "tf32"
        torch.set_deterministic_debug_mode("warn")
        log.clear()
        x @ x
        torch.zeros(1, 2, device=DEVICE).index_add_(0, index, x)
    finally:
        matmul.fp32_precision = previous
        torch.set_deterministic_debug_mode(mode)
    assert (sum(log.tf32.values()), sum(log.nondeterministic.values())) == (1, 0)


def test_more_rows_than_the_limit_run_out_of_memory(log):
    network = make_network().to(DEVICE)
    log.row_limit = 2
    assert network(on_device()).shape == (2, 5)
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory"):
        network(on_device(3, 3, 8, 8))
