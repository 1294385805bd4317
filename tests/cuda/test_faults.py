"""Memory that runs out, networks that mix devices, and models that would be checked in TF32."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import xplain
from tests.cuda.networks import SIDE, load, make_images, make_network
from xplain.core.errors import DeviceError
from xplain.models.optimize import inference_copy

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"


class MixedDevices(nn.Module):
    """A network that adds a CPU tensor to its features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(dim=(2, 3)) + torch.ones(3))


def test_loading_without_memory_is_one_line(log):
    log.row_limit = 1
    with pytest.raises(DeviceError) as error:
        load()
    hint = "use a smaller model, a smaller --image-size or another --device"
    assert str(error.value) == f"out of memory: {OUT_OF_MEMORY}; {hint}"


def test_moving_without_memory_is_one_line(log, monkeypatch):
    original = xplain.Classifier.to

    def move(classifier: xplain.Classifier, device: torch.device) -> xplain.Classifier:
        if device.type == "cuda":
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return original(classifier, device)

    monkeypatch.setattr(xplain.Classifier, "to", move)
    with pytest.raises(DeviceError, match=f"^out of memory: {OUT_OF_MEMORY}; use a smaller model"):
        load()


def test_copy_without_memory_is_not_blamed_on_the_rows(log, monkeypatch):
    classifier, calls = load(), []

    def optimize(*_: object, **__: object) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr("xplain.models.optimize.optimize_for_inference", optimize)
    with pytest.raises(DeviceError) as error:
        xplain.attribute(classifier, make_images(8), "saliency")
    hint = "free memory for a copy of the model's weights, or use a smaller model or another --device"
    assert str(error.value) == f"out of memory: {OUT_OF_MEMORY}; {hint}"
    assert len(calls) == 1


def test_calls_are_repeated_with_fewer_rows(log):
    classifier, rows = load(), list[int]()
    expected = xplain.attribute(classifier, make_images(), "integrated-gradients", steps=8).values.cpu()
    classifier = load()
    log.row_limit = 3
    result = xplain.attribute(classifier, make_images(), "integrated-gradients", steps=8, progress=rows.append)
    assert max(rows) == 2
    torch.testing.assert_close(result.values.cpu(), expected, rtol=1e-4, atol=1e-7)


def test_memory_of_method_code_is_reported_in_one_line(log, monkeypatch):
    def integrate(*_: object) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr("xplain.methods.integrated_gradients.line_integral", integrate)
    with pytest.raises(DeviceError, match=f"^out of memory: {OUT_OF_MEMORY}; reduce --batch-size"):
        xplain.attribute(load(), make_images(), "integrated-gradients")


@pytest.mark.parametrize("size", [SIDE, None])
def test_networks_that_mix_devices_are_refused_at_load(log, size):
    with pytest.raises(DeviceError) as error:
        xplain.load_classifier(MixedDevices().eval(), "cuda", size=size)
    assert str(error.value).startswith("device error: Expected all tensors to be on the same device")
    assert error.value.hint == (
        "let the forward pass of the model create tensors on the device of its input, or use --device cpu"
    )


def test_working_copy_is_checked_in_full_float32(log):
    """TF32 errs by 1e-3, the tolerance is 1e-4: folding would be rejected on hardware."""
    classifier = load()
    log.clear()
    copied = inference_copy(classifier)
    assert log.operations > 0
    assert log.tf32 == {}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    assert copied.memory_format == torch.channels_last


def test_networks_are_checked_in_full_float32(log):
    xplain.load_classifier(make_network(), "cuda")
    assert log.operations > 0
    assert log.tf32 == {}


def test_clock_is_read_after_the_device_has_finished(log, monkeypatch):
    classifier, events = load(), list[str]()
    monkeypatch.setattr("torch.cuda.synchronize", lambda *_: events.append("wait"))
    monkeypatch.setattr("time.perf_counter", lambda: events.append("clock") or 0.0)
    result = xplain.attribute(classifier, make_images(), "saliency")
    xplain.measure(classifier, make_images(), result.values, "deletion", steps=2)
    assert events == ["wait", "clock"] * (len(events) // 2)
    assert len(events) == 2 * 6


class Recording(nn.Module):
    """A linear network that records the settings of torch in each forward pass."""

    settings: ClassVar[set[tuple[object, ...]]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.settings.add(read_settings())
        return self.head(x.mean(dim=(2, 3)))


def read_settings() -> tuple[object, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    return *deterministic, torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_networks_run_deterministically_in_the_requested_precision(log, precision, expected):
    classifier = xplain.load_classifier(Recording().eval(), "cuda", size=SIDE)
    Recording.settings.clear()
    before = read_settings()
    result = xplain.attribute(classifier, make_images(), "saliency", precision=precision)
    xplain.measure(classifier, make_images(), result.values, "deletion", steps=2, precision=precision)
    made_for_checks = {(True, True, "ieee", "ieee")}  # of the working copy
    assert Recording.settings == {(True, True, expected, expected)} | made_for_checks
    assert read_settings() == before == (False, False, "tf32", "none")
