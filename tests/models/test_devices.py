"""Selecting a device by name."""

from __future__ import annotations

import os

import pytest
import torch

import xplain
from tests.helpers import toys
from xplain.core.errors import DeviceError, UsageError
from xplain.models.devices import select_device


@pytest.mark.parametrize(
    ("accelerator", "expected"), [(None, "cpu"), ("mps", "mps"), ("cuda", "cuda"), ("cuda:0", "cuda"), ("xpu", "cpu")]
)
def test_auto_device_prefers_the_accelerator(monkeypatch, accelerator, expected):
    device = accelerator and torch.device(accelerator)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: device)
    assert select_device("auto") == torch.device(expected)


def test_auto_device_ignores_unavailable_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert select_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "count", "available"),
    [("cuda", 1, True), ("cuda:0", 1, True), ("cuda:1", 1, False), ("cuda:1", 2, True), ("cuda:10", 10, False)],
)
def test_cuda_index_is_checked(monkeypatch, name, count, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if available:
        assert select_device(name) == torch.device(name)
    else:
        with pytest.raises(
            DeviceError, match=f"device '{name}' is not available: PyTorch .* found {count} CUDA devices"
        ):
            select_device(name)


@pytest.mark.parametrize(("rank", "expected"), [("0", "cuda:0"), ("3", "cuda:1"), ("", "cuda"), ("x", "cuda")])
def test_processes_of_torchrun_share_the_devices(monkeypatch, rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(select_device("cuda")) == expected
    assert str(select_device("cuda:0")) == "cuda:0"


def test_cublas_is_made_repeatable(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    select_device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    select_device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3", "mps", "mps:0"])
def test_unavailable_device_raises_device_error(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"device '{name}' is not available.*; use another --device") as error:
        xplain.load_classifier(toys.small_net(), device=name)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:٣", "CPU", "cpu:", "cpu:1", "", "mps:1", "xla"]
)
def test_unknown_device_raises_usage_error(name):
    with pytest.raises(UsageError) as error:
        select_device(name)
    assert error.value.exit_code == 2
    assert str(error.value) == f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps"


@pytest.mark.parametrize("device", [torch.device("cpu"), torch.device("cpu", 0), "cpu"])
def test_device_may_be_a_torch_device(device):
    assert xplain.load_classifier(toys.small_net(), device=device).device.type == "cpu"
