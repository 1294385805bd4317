"""Settings of CUDA arithmetic are made for a block and restored exactly, with both of PyTorch's interfaces. No device is needed."""

from __future__ import annotations

import warnings

import pytest
import torch

from xplain.core.errors import ModelNote
from xplain.models.arithmetic import deterministic_algorithms, float32_precision, nondeterministic_operations

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
BACKENDS, MATMUL, CUDNN = torch.backends, torch.backends.cuda.matmul, torch.backends.cudnn
SETTINGS = (BACKENDS, CUDNN, MATMUL, CUDNN.conv, CUDNN.rnn, BACKENDS.mkldnn.matmul)
ALERT = (
    "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True, warn_only=True)'."
)


def read_settings() -> list[object]:
    """Return all settings, ``None`` for those that PyTorch refuses to read because its interfaces contradict each other."""
    values: list[object] = [setting.fp32_precision for setting in SETTINGS]
    for read in (lambda: MATMUL.allow_tf32, lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision):
        try:
            values.append(read())
        except RuntimeError:
            values.append(None)
    return values


@pytest.fixture(autouse=True)
def default_settings():
    """Restore PyTorch's defaults after each test."""
    assert read_settings() == ["none", "none", "none", "tf32", "tf32", "none", False, True, "highest"]
    yield
    torch.set_float32_matmul_precision("highest")
    CUDNN.allow_tf32 = True
    for setting in (BACKENDS, CUDNN, MATMUL, BACKENDS.mkldnn.matmul):
        setting.fp32_precision = "none"


def set_nothing() -> None:
    pass


def set_flags() -> None:
    MATMUL.allow_tf32 = True
    CUDNN.allow_tf32 = False


def set_medium() -> None:
    torch.set_float32_matmul_precision("medium")


def set_properties() -> None:
    MATMUL.fp32_precision = "tf32"
    CUDNN.conv.fp32_precision = "ieee"


def set_all_backends() -> None:
    BACKENDS.fp32_precision = "tf32"


def set_all_of_cuda() -> None:
    CUDNN.fp32_precision = "tf32"


ALL_SETTERS = [set_nothing, set_flags, set_medium, set_properties, set_all_backends, set_all_of_cuda]


@pytest.mark.parametrize("prepare", ALL_SETTERS)
@pytest.mark.parametrize(("precision", "expected"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_precision_is_set_and_restored(prepare, precision, expected):
    prepare()
    before = read_settings()

    def fail_inside() -> None:
        with float32_precision(precision, CUDA):
            assert [setting.fp32_precision for setting in (MATMUL, CUDNN.conv, CUDNN.rnn)] == [expected] * 3
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert read_settings() == before


@pytest.mark.parametrize("prepare", ALL_SETTERS)
def test_restored_settings_follow_the_same_parents(prepare):
    """A setting that took over the value of all backends, or of all operations on CUDA, still does."""
    values = []
    for is_used in (False, True):
        prepare()
        if is_used:
            with float32_precision("fp32", CUDA):
                pass
        parents = []
        for parent in (BACKENDS, CUDNN):
            for value in ("ieee", "tf32", "none"):
                parent.fp32_precision = value
                parents.append([setting.fp32_precision for setting in SETTINGS[2:5]])
        values.append(parents)
    assert values[0] == values[1]


def test_settings_of_both_interfaces_agree_inside():
    """``torch.backends.cudnn.flags``, which networks use, raises RuntimeError if they do not."""
    for precision in ("fp32", "tf32"):
        with float32_precision(precision, CUDA):
            assert MATMUL.allow_tf32 == CUDNN.allow_tf32 == (precision == "tf32")
            with CUDNN.flags(enabled=False):
                assert not CUDNN.enabled


def test_nested_blocks_restore_the_outer_one():
    with float32_precision("fp32", CUDA):
        with float32_precision("tf32", CUDA), float32_precision("tf32", CUDA):
            assert MATMUL.fp32_precision == CUDNN.conv.fp32_precision == "tf32"
        assert MATMUL.fp32_precision == CUDNN.conv.fp32_precision == "ieee"


def test_cpu_changes_no_settings():
    before = read_settings()
    with float32_precision("tf32", CPU), deterministic_algorithms(CPU):
        assert read_settings() == before
        assert not torch.are_deterministic_algorithms_enabled()
        assert not CUDNN.deterministic


def test_deterministic_algorithms_are_selected_and_restored(monkeypatch):
    monkeypatch.setattr(CUDNN, "benchmark", True)
    memory = torch.utils.deterministic
    assert memory.fill_uninitialized_memory
    with deterministic_algorithms(CUDA):
        assert torch.get_deterministic_debug_mode() == 1
        assert (CUDNN.deterministic, CUDNN.benchmark, memory.fill_uninitialized_memory) == (True, False, False)
    assert torch.get_deterministic_debug_mode() == 0
    assert (CUDNN.deterministic, CUDNN.benchmark, memory.fill_uninitialized_memory) == (False, True, True)


def test_deterministic_mode_of_the_user_is_kept():
    torch.set_deterministic_debug_mode("error")
    try:
        with deterministic_algorithms(CUDA):
            assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode("default")


def test_operations_without_alternative_are_named_in_a_note(monkeypatch):
    monkeypatch.setattr("xplain.models.arithmetic._seen_operations", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with deterministic_algorithms(CUDA):
            warnings.warn(ALERT, stacklevel=1)
            warnings.warn("kthvalue CUDA does not have a deterministic implementation, but", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    assert [(warning.category, str(warning.message)) for warning in caught] == [
        (
            ModelNote,
            "adaptive_avg_pool2d_backward_cuda has no deterministic algorithm: the last digits may differ between runs",
        ),
        (UserWarning, "something else"),
    ]
    assert nondeterministic_operations() == ["adaptive_avg_pool2d_backward_cuda"]
