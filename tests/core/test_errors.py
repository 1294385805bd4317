"""Tests of xplain.core.errors."""

from __future__ import annotations

import errno
import warnings

import pytest
import torch

from xplain.core.errors import (
    DeviceError,
    ExitCode,
    InputError,
    ModelNote,
    StoppedError,
    UsageError,
    XplainError,
    device_error,
    did_you_mean,
    emit_note,
    is_out_of_memory,
    system_error,
)


def test_error_is_one_line_with_hint():
    assert str(XplainError("bad\n  value", "do\nthis")) == "bad value; do this"
    assert str(XplainError("bad value")) == "bad value"


def test_exit_codes_match_the_documentation():
    errors = (XplainError, UsageError, InputError, DeviceError, StoppedError)
    assert [error.exit_code for error in errors] == [1, 2, 3, 4, 130]
    assert list(ExitCode) == [0, 1, 2, 3, 4, 5, 130]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_device_error_reports_out_of_memory(error):
    assert is_out_of_memory(error)
    converted = device_error(error)
    assert converted is not None
    assert str(converted).startswith("out of memory: ")
    assert str(converted).endswith("; reduce --batch-size or the number of images, or use another --device")


def test_device_error_reports_failed_device():
    converted = device_error(RuntimeError("CUDA error: device-side assert triggered\nmore"))
    assert str(converted) == (
        "device error: CUDA error: device-side assert triggered; check the device, then run the same command again"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(errno.ENOENT, "gone"), ValueError("CUDA error")]
)
def test_other_errors_are_not_converted(error):
    assert not is_out_of_memory(error)
    assert device_error(error) is None
    assert system_error(error) is None


def test_system_error_reports_full_disk():
    converted = system_error(OSError(errno.ENOSPC, "No space left on device", "a.png"))
    assert str(converted) == "No space left on device: 'a.png'; fix the problem, then run the same command again"


def test_note_points_to_first_caller_outside_xplain():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        emit_note("the model has one channel")
    assert [(warning.category, str(warning.message)) for warning in caught] == [
        (ModelNote, "the model has one channel")
    ]
    assert caught[0].filename == __file__


def test_did_you_mean_keeps_spelling():
    assert did_you_mean("RESNET5O", ["ResNet50", "vgg19"]) == "did you mean 'ResNet50'?"
    assert did_you_mean("xyz", ["resnet50"], "see the list") == "see the list"
    assert did_you_mean("xyz", ["resnet50"]) == ""
    assert did_you_mean("lite", ["lite0", "lite1", "lit", "lite2"]) == "did you mean 'lite0' or 'lite1' or 'lite2'?"
