"""Run a model on noise to check that it is deterministic, that the rows of a call are independent, and that gradients exist."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from xplain.core.errors import MODEL_ERRORS, InputError, device_error, first_line
from xplain.core.rng import preserve_random_state, random_state
from xplain.models.batch_norms import protect_norms
from xplain.models.checks import ModelChecks
from xplain.models.classifier import Classifier
from xplain.models.execution import without_checkpoints
from xplain.models.gradient_cuts import find_gradient_problem
from xplain.models.wrappers import copy_module, has_user_hooks, remove_user_hooks

TOLERANCE = 1e-3  # relative to the spread of the logits, or to the largest gradient
EXACT_TOLERANCE = 1e-6  # in float64
REPEATS = 3
WITHOUT_GRADIENTS = "use occlusion, rise, lime or kernel-shap"


def check_model(classifier: Classifier) -> list[str]:
    """Check the model on noise of the classifier's size, set ``checks``, and return notes for the user.

    Hooks of the user are removed from the classifier's copy of the module if they do not change the logits.
    Raises InputError if the model cannot run a single image.
    """
    with preserve_random_state(), torch.inference_mode(False), without_checkpoints() as blocks:
        trials = _Trials(classifier)
        notes = [*_check_hooks(classifier, trials), *_check_no_grad(classifier, trials)]
        checks, more = trials.run()
    classifier.checks = checks
    classifier.execution.has_checkpoints = bool(blocks)
    if classifier.execution.has_tensor_hooks:
        notes.append("the model hooks tensors in its forward pass; it is always run with gradients, which is slower")
    return notes + more


@dataclass(frozen=True, eq=False)
class _Trial:
    """Logits (B, classes) of a call, and the gradient (B, C, H, W) of the first row's score, or why there is none."""

    logits: Tensor
    gradient: Tensor | None
    error: Exception | None = None


class _Trials:
    """Calls of a frozen view of the classifier, which shares its parameters."""

    def __init__(self, classifier: Classifier) -> None:
        self.name = classifier.name
        self.size = classifier.size
        self.view = copy_module(classifier, share=True).eval().requires_grad_(False)
        protect_norms(self.view)
        shape = (3, classifier.channels, *classifier.size)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=classifier.dtype)
        brightness = torch.tensor(
            [0.6, 1.0, 0.3], dtype=classifier.dtype
        )  # so that statistics of a call differ from its rows'
        self.images = (noise * brightness[:, None, None, None]).to(classifier.device)

    def logits(self, view: Classifier | None = None, rows: tuple[int, ...] = (0, 1)) -> Tensor:
        """Return the logits of some of the images, without gradients; random numbers are the same in every call."""
        torch.manual_seed(0)
        with torch.no_grad():
            return (view or self.view)(self.images[list(rows)])

    def differentiate(self, view: Classifier, images: Tensor) -> _Trial:
        """Return the logits of images, and the gradient of a weighted sum of the first row's."""
        x = images.detach().clone().requires_grad_()
        try:
            with torch.enable_grad():
                logits = view(x)
                if not logits.requires_grad:
                    return _Trial(logits, None)
                weights = torch.linspace(1, 2, logits.shape[1], dtype=logits.dtype, device=logits.device)
                (gradient,) = torch.autograd.grad((logits[0] * weights).sum(), x, allow_unused=True)
        except MODEL_ERRORS as error:
            if device_error(error):
                raise
            with torch.no_grad():
                return _Trial(view(x.detach()), None, error)
        return _Trial(logits.detach(), gradient)

    def run(self) -> tuple[ModelChecks, list[str]]:
        """Return the checks and notes for the user."""
        checks, notes = ModelChecks(self.size), []
        state = random_state()
        pair = self.differentiate(self.view, self.images[:2])
        single = self._run_single()
        draws = state != random_state()
        others = torch.zeros(()) if pair.gradient is None else pair.gradient[1:].nan_to_num()
        moved = _difference(single.logits, pair.logits[:1])
        if draws or moved > TOLERANCE:
            variation = self._variation(pair.logits)
            checks = replace(checks, is_random=variation > TOLERANCE)
            if checks.is_random:
                notes.append(
                    f"two forward passes of the same images differ by {variation:.0%} of the spread of the logits: the model draws random "
                    "numbers in evaluation mode, and maps are random too (F.dropout without training=self.training?)"
                )
        if bool(others.any()) or (moved > TOLERANCE and not checks.is_random and self._mixes_rows(pair.logits)):
            checks = replace(checks, mixes_rows=True)
            notes.append(f"the rows of a call change one another{self._name_batch_norms()}: running one image per call")
        if pair.gradient is None:
            problem, hint = find_gradient_problem(self.view, self.images[:1], pair.error)
            return replace(checks, gradient_problem=problem, gradient_hint=f"{WITHOUT_GRADIENTS}{hint}"), notes
        if not bool(pair.gradient[0].any()):
            notes.append("the logits do not react to small changes of noise images: their gradient is zero")
        if not checks.is_random and not checks.mixes_rows and self._is_single_wrong(single, pair):
            checks = replace(checks, needs_two_rows=True)
            notes.append(
                "the gradient of an image alone differs from its gradient in a batch: images are run twice in a call"
            )
        return checks, notes

    def _run_single(self) -> _Trial:
        try:
            return self.differentiate(self.view, self.images[:1])
        except MODEL_ERRORS as error:
            if device_error(error):
                raise
            raise InputError(
                f"{self.name} cannot process one image per call ({first_line(error)})",
                "the images of a call must not depend on one another",
            ) from None

    def _variation(self, expected: Tensor) -> float:
        """Return the largest difference of repeated forward passes, relative to the spread of the logits."""
        with torch.no_grad():
            return max(_difference(self.view(self.images[:2]), expected) for _ in range(REPEATS))

    def _mixes_rows(self, expected: Tensor) -> bool:
        """Return whether the first row's logits depend on the second row or on the number of rows, beyond rounding."""
        if _difference(self.logits(rows=(0, 2))[:1], expected[:1]) > TOLERANCE:
            return True
        exact = self._in_float64()
        if exact is None:
            return True
        pair, single = self.logits(exact), self.logits(exact, rows=(0,))
        return _difference(single, pair[:1]) > EXACT_TOLERANCE

    def _is_single_wrong(self, single: _Trial, pair: _Trial) -> bool:
        """Return whether the gradient of a single row differs from that of the row in a batch, beyond rounding."""
        if single.gradient is None or pair.gradient is None or _is_close(single.gradient, pair.gradient[:1], TOLERANCE):
            return False
        exact = self._in_float64()
        if exact is None:
            return True
        pair = self.differentiate(exact, self.images[:2].double())
        single = self.differentiate(exact, self.images[:1].double())
        if single.gradient is None or pair.gradient is None:
            return True
        return not _is_close(single.gradient, pair.gradient[:1], EXACT_TOLERANCE)

    def _in_float64(self) -> Classifier | None:
        """Return the view in float64, or None if it cannot run in float64."""
        exact = copy_module(self.view).double()
        try:
            self.logits(exact)
        except RuntimeError as error:
            if device_error(error):
                raise
            return None
        return exact

    def _name_batch_norms(self) -> str:
        for name, module in self.view.model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                return f" (batch statistics in {name or type(module).__name__!r})"
        return ""


def _check_hooks(classifier: Classifier, trials: _Trials) -> list[str]:
    """Remove the user's hooks if the logits are equal without them; otherwise keep them and return a note."""
    if not has_user_hooks(classifier.model):
        return []
    expected = trials.logits()
    without = copy_module(trials.view, share=True)
    remove_user_hooks(without)
    try:
        is_equal = torch.equal(trials.logits(without), expected)
    except Exception as error:  # a module without its hooks may fail with any type of error
        if device_error(error):
            raise
        is_equal = False
    if not is_equal:
        return ["hooks of the module change its logits, and are kept"]
    remove_user_hooks(classifier.model)
    trials.view = without
    return []


def _check_no_grad(classifier: Classifier, trials: _Trials) -> list[str]:
    """Return a note if ``through_no_grad`` is set. Raises InputError if it changes the logits."""
    if not classifier.execution.through_no_grad:
        return []
    torch.manual_seed(0)
    with torch.enable_grad():
        actual = trials.view(trials.images[:2]).detach()
    if _difference(actual, trials.logits()) > TOLERANCE:
        raise InputError(
            "the logits of the model depend on the gradient mode", "remove the attribute through_no_grad of the module"
        )
    return ["gradients are computed through torch.no_grad in the forward pass (through_no_grad)"]


def _difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits relative to their spread over the classes, infinite for other shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    center = expected.mean(dim=1, keepdim=True) if expected.shape[1] > 1 else 0.0
    spread = (expected - center).abs().max()
    difference = (actual - expected).abs().nan_to_num(posinf=torch.inf).max()
    return 0.0 if not bool(difference) else float(difference / spread)


def _is_close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Return whether gradients differ by at most ``tolerance`` times the largest one; NaN agrees with anything."""
    difference = (actual - expected).abs().nan_to_num(nan=0.0)
    return bool(difference.max() <= tolerance * expected.abs().nan_to_num(nan=0.0).max())
