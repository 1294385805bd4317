"""Look up the reference implementation that ``xplain bench --peer captum`` compares with xplain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from xplain.core.errors import UsageError
from xplain.pipelines import captum_methods, reference_loops
from xplain.pipelines.benchmark_case import Task

Run = Callable[[Task, int | None], Tensor]


@dataclass(frozen=True)
class ReferenceImplementation:
    """Reference implementation of a method or metric.

    run: function ``run(task, rows)`` that returns attributions (B, C, H, W) or values (B,), with ``rows`` samples per forward pass, or the
    default batch size for None.
    batched: whether ``run`` uses ``rows``; otherwise it ignores them.
    """

    program: str
    run: Run
    batched: bool = False


LOOPS = {
    "agi": ReferenceImplementation("sequential loop", reference_loops.agi),
    "mfaba": ReferenceImplementation("sequential loop", reference_loops.mfaba),
    "insertion": ReferenceImplementation("stepwise loop", reference_loops.insertion, batched=True),
    "deletion": ReferenceImplementation("stepwise loop", reference_loops.deletion, batched=True),
    "difference": ReferenceImplementation("stepwise loop", reference_loops.difference, batched=True),
}
CAPTUM = {
    "saliency": ReferenceImplementation("captum", captum_methods.saliency),
    "input-x-gradient": ReferenceImplementation("captum", captum_methods.input_x_gradient),
    "guided-backprop": ReferenceImplementation("captum", captum_methods.guided_backprop),
    "deconvnet": ReferenceImplementation("captum", captum_methods.deconvnet),
    "integrated-gradients": ReferenceImplementation("captum", captum_methods.integrated_gradients, batched=True),
    "smoothgrad": ReferenceImplementation("captum", captum_methods.smoothgrad, batched=True),
    "deeplift": ReferenceImplementation("captum", captum_methods.deeplift),
    "occlusion": ReferenceImplementation("captum", captum_methods.occlusion, batched=True),
}


def find_reference(name: str) -> ReferenceImplementation | None:
    """Return the reference implementation of a method or metric, or None if there is none.

    Raise UsageError if the implementation requires Captum and Captum is not installed.
    """
    if name in CAPTUM:
        _check_captum()
    return LOOPS.get(name) or CAPTUM.get(name)


def _check_captum() -> None:
    try:
        import captum  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "--peer captum requires captum", "install it with: pip install 'xplain-vision[captum]'"
        ) from None
