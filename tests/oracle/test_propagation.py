"""Propagation rules: rules that keep the gradient, counted rows, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xplain
from tests.helpers import toys
from tests.oracle.helpers import is_close, small_classifier
from xplain.core.errors import UsageError
from xplain.core.types import Cost
from xplain.data.preprocessing import Preprocessing
from xplain.oracle import Oracle
from xplain.oracle.operations import Operation
from xplain.oracle.propagation import propagate
from xplain.oracle.propagation_rules import Rules, keep_gradient

KEEP = Rules(
    "toy", keep_gradient("route", "sum", "shift", "scale", "linear", "norm", "rectifier", "activation", "max"), ""
)


def test_kept_gradients_are_the_gradient():
    """5 images with a stream of 5 others, 2 per call: the rows of both count, and one row per call is a check."""
    model, x, y = small_classifier(), toys.images(5), torch.tensor([0, 1, 2, 3, 4])
    rows, reported = toys.watch(model), list[int]()
    oracle = Oracle(model, images=5, batch_size=2, on_rows=reported.append)
    result = propagate(oracle, x, y, KEEP, 1 - x)
    assert rows == [4, 1, 4, 1, 2, 1]
    assert reported == [5, 5, 3]
    assert oracle.cost == Cost(forwards=10, backwards=10, checks=3)
    assert oracle.image_rows.tolist() == [[2, 2]] * 5
    expected = Oracle(small_classifier()).gradients(x, y)
    assert is_close(result.scores, expected.scores)
    assert is_close(result.gradients[:, 0], expected.values)
    assert result.gradients[:, 1].unique().tolist() == [0]  # the score does not depend on the logits of the stream
    assert result.sums == {}


def test_sums_have_one_entry_per_image():
    """Two convolutions and a linear layer, in calls of two images and of one."""

    def count(op: Operation) -> Tensor:
        op.add_to_sum("operations", torch.ones(op.rows))
        return op.run()

    rules = Rules("toy", KEEP.table | {"linear": count}, "")
    oracle = Oracle(small_classifier(), batch_size=2)
    result = propagate(oracle, toys.images(5), torch.tensor([0, 1, 2, 3, 4]), rules)
    assert {name: total.tolist() for name, total in result.sums.items()} == {"operations": [3.0] * 5}


def limited_classifier(limit: int, error: RuntimeError, calls: list[int]) -> xplain.Classifier:
    """Return a model of channel means that raises ``error`` for more than ``limit`` rows; ``calls`` records the rows."""

    def function(x: Tensor) -> Tensor:
        calls.append(len(x))
        if len(x) > limit:
            raise error
        return x.mean(dim=(2, 3))

    return toys.classifier(toys.Function(function))


def test_error_with_streams_is_a_usage_error():
    x, y = toys.images(2), torch.tensor([0, 1])
    error = RuntimeError("shapes differ\nand more")
    with pytest.raises(
        UsageError, match=r"^toy does not support the model's forward pass: shapes differ; use saliency, .* any model$"
    ):
        propagate(Oracle(limited_classifier(2, error, [])), x, y, KEEP, x)
    with pytest.raises(
        RuntimeError, match=r"^shapes differ\nand more$"
    ):  # without a stream it is the model's own error
        propagate(Oracle(limited_classifier(1, error, [])), x, y, KEEP)
    with pytest.raises(RuntimeError, match=r"^CUDA error: lost$"):
        propagate(Oracle(limited_classifier(2, RuntimeError("CUDA error: lost"), [])), x, y, KEEP, x)


def test_out_of_memory_halves_rows_with_streams():
    calls = list[int]()
    oracle = Oracle(limited_classifier(4, torch.OutOfMemoryError("out of memory"), calls), batch_size=4)
    propagate(oracle, toys.images(1), torch.tensor([0]), KEEP)  # makes the working copy
    calls.clear()
    result = propagate(oracle, toys.images(4), torch.tensor([0, 1, 2, 0]), KEEP, toys.images(4))
    assert calls == [8, 4, 1, 4, 1]
    assert result.gradients[2, 0].sum(dim=(1, 2)).tolist() == pytest.approx([0, 0, 1])
    assert oracle.cost == Cost(forwards=9, backwards=9, checks=3)


@pytest.mark.parametrize(("shift", "refused"), [(0.001, "none"), (0.02, "fp32"), (0.2, "both")])
def test_changed_logits_are_refused(shift, refused):
    def function(x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + (shift if len(x) > 1 else 0.0)

    net = toys.Function(function).float()
    x, y = toys.images(2).float(), torch.tensor([0, 1])
    for precision in ("fp32", "bf16"):
        oracle = Oracle(toys.classifier(net), precision=precision)
        if refused in (precision, "both"):
            with pytest.raises(UsageError, match="toy does not support the model: the logits under its rules differ"):
                propagate(oracle, x, y, KEEP)
        else:
            assert torch.allclose(propagate(oracle, x, y, KEEP).gradients.amax(), torch.tensor(1 / 80))


def test_custom_code_is_refused():
    model = toys.classifier(toys.Function(lambda x: toys.Hidden.apply(x.mean(dim=(2, 3)))))
    with pytest.raises(UsageError, match="toy cannot trace compiled or custom operations in the model"):
        propagate(Oracle(model), toys.images(2), torch.tensor([0, 1]), KEEP)


def test_undefined_score_is_refused():
    rules = Rules("toy", KEEP.table, "", frozenset({"logit", "margin"}))
    with pytest.raises(UsageError, match="toy is not defined for score=prob; use logit or margin"):
        propagate(Oracle(small_classifier(), score="prob"), toys.images(2), torch.tensor([0, 1]), rules)


def test_keyword_inputs_have_rules():
    """Layers called with keywords only, such as F.linear(input=x, weight=w)."""
    weight = torch.linspace(-1, 1, 2 * 240, dtype=torch.float64).reshape(2, 240)
    model = toys.Function(lambda x: torch.nn.functional.linear(input=x.flatten(1), weight=weight))
    result = propagate(Oracle(toys.classifier(model)), toys.images(2), torch.tensor([0, 1]), KEEP)
    assert is_close(result.gradients[:, 0].flatten(1), weight)


class ClassToken(torch.nn.Module):
    """A ReLU network of patches and a class token, made for as many rows as images, without norms and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = torch.nn.Conv2d(3, 6, 2, 2), torch.nn.Linear(21, 21)
        self.token, self.head = torch.nn.Parameter(torch.rand(1, 1, 6)), torch.nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv(x).relu().flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1)
        return self.head(self.mix(tokens.mT).relu().mT[:, 0])


@pytest.mark.parametrize("method", ["deep-taylor", "lrp"])
def test_class_token_without_rule_is_named(method):
    torch.manual_seed(0)
    classifier = toys.classifier(ClassToken().double().eval(), preprocessing=Preprocessing(size=(8, 10)))
    hints = {
        "deep-taylor": "use lrp, deeplift or integrated-gradients",
        "lrp": "use deeplift, uniform-fullgrad or integrated-gradients",
    }
    options = {"rule": "epsilon-gamma-box"} if method == "lrp" else {}
    with pytest.raises(UsageError) as error:
        xplain.attribute(classifier, toys.images(2), method, **options)
    assert str(error.value) == (
        f"{method} has no definition for what the model adds to the output of its first layer for each image, such as a class token, "
        f"because image, black and white share the rule of that layer; {hints[method]}"
    )
