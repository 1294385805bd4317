"""The compiled engine in bf16: forward passes, PyTorch's gradients, stored graphs, and what happens without bf16 arithmetic."""

from __future__ import annotations

import logging

import pytest
import torch

import xplain
from tests.helpers.engines import needs_openvino
from tests.oracle.helpers import SMALL_SIZE, SmallNetwork, notes_of
from xplain.oracle import engine_choice, engine_gain, openvino_engine
from xplain.oracle.engine_choice import NO_ROWS, PlannedRows, choose_engine
from xplain.oracle.engines import use_engine
from xplain.oracle.openvino_rows import RowGraph
from xplain.oracle.oracle import Oracle

pytestmark = [
    needs_openvino,
    pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no bf16 arithmetic"),
]

FORWARDS = {"forwards": "openvino", "gradients": "torch"}
MANY = PlannedRows(engine_choice.FORWARD_ROWS, 0)
UNUSED, PYTORCH_COMPUTES = "--engine openvino is not used: ", "; PyTorch computes the rows"


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return xplain.load_classifier(SmallNetwork().eval(), device="cpu")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Store converted graphs in a folder of these tests, and take the engine for twice as fast as PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_gain, "measure_gain", lambda *_: 2.0)
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "xplain" / "engines"


@pytest.fixture(scope="module")
def engine(classifier, cache):
    return choose_engine(classifier, "auto", "bf16", MANY)


@pytest.fixture
def forget(monkeypatch, tmp_path):
    """Forget the engines of this process and their stored graphs inside a test."""
    monkeypatch.setattr(engine_choice, "_ENGINES", type(engine_choice._ENGINES)())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, SMALL_SIZE, SMALL_SIZE, generator=torch.Generator().manual_seed(0))


def test_logits_agree_with_fp32_within_the_bounds(engine, classifier, images):
    assert engine.precision == "bf16"
    with torch.no_grad():
        exact = classifier(images)
    logits = engine.logits(images)
    assert logits.dtype == torch.float32
    error = (logits - exact).abs().max() / (exact - exact.mean(dim=1, keepdim=True)).abs().max()
    assert 1e-4 < error <= openvino_engine.BF16_LOGIT_TOLERANCE  # rounding to 8 bits: it is not fp32
    difference = (logits.softmax(dim=1) - exact.softmax(dim=1)).abs().max()
    assert 1e-5 < difference <= openvino_engine.BF16_PROBABILITY_TOLERANCE


def test_rows_do_not_depend_on_the_batch(engine, images):
    logits = engine.logits(images)
    assert torch.equal(engine.logits(images), logits)
    for row in range(3):
        assert torch.equal(engine.logits(images[row : row + 1])[0], logits[row])


def test_only_forward_passes_in_bf16_use_it(engine, classifier, images):
    y = torch.tensor([1, 2, 0])
    low, exact, unfolded = Oracle(classifier, precision="bf16"), Oracle(classifier), Oracle(classifier, fold=False)
    oracles = (exact, unfolded, Oracle(classifier, precision="bf16", fold=False))
    expected = [oracle.logits(images) for oracle in oracles]
    gradients, plain = low.gradients(images, y), low.logits(images)
    assert engine.gradients(images, y, "logit", None) is None
    with use_engine(classifier, engine):
        assert torch.equal(low.logits(images), engine.logits(images))
        assert not torch.equal(low.logits(images), plain)
        assert all(torch.equal(o.logits(images), logits) for o, logits in zip(oracles, expected, strict=True))
        actual = low.gradients(images, y)
    assert torch.equal(actual.values, gradients.values)
    assert torch.equal(actual.scores, gradients.scores)


def test_maps_of_gradients_are_those_of_pytorch(engine, classifier, images):
    expected = xplain.attribute(classifier, images, "saliency", precision="bf16", target=1)
    actual, notes = notes_of(
        xplain.attribute, classifier, images, "saliency", precision="bf16", target=1, engine="openvino"
    )
    assert torch.equal(actual.values, expected.values)
    occluded = xplain.attribute(classifier, images, "occlusion", precision="bf16", target=1, window=4, stride=4)
    compiled = xplain.attribute(
        classifier, images, "occlusion", precision="bf16", target=1, window=4, stride=4, engine="openvino"
    )
    assert not torch.equal(compiled.values, occluded.values)
    assert (compiled.values - occluded.values).abs().max() <= 0.1 * occluded.values.abs().max()
    assert not [note for note in notes if "is not used" in note]


def test_graphs_are_stored_by_precision(engine, classifier, cache):
    assert len(list(cache.glob("*.graph"))) == 1
    full = choose_engine(classifier, "auto", "fp32", MANY)
    assert full is not engine
    assert (full.precision, full.describe()) == ("fp32", FORWARDS)
    assert full._key("forward", classifier) != engine._key("forward", classifier)
    assert len(list(cache.glob("*.graph"))) == 2
    assert choose_engine(classifier, "auto", "bf16", MANY) is engine


def test_auto_counts_forward_rows_only(engine, classifier):
    few = PlannedRows(engine_choice.FORWARD_ROWS - 1, engine_choice.GRADIENT_ROWS)
    assert choose_engine(classifier, "auto", "bf16", few) is None
    assert choose_engine(classifier, "torch", "bf16", MANY) is None
    assert choose_engine(classifier, "auto", "bf16", few, FORWARDS) is engine
    assert choose_engine(classifier, "auto", "bf16", MANY, {"forwards": "torch", "gradients": "torch"}) is None
    assert engine.describe() == FORWARDS


def test_a_request_notes_that_gradients_stay_in_pytorch(classifier, forget):
    chosen, notes = notes_of(choose_engine, classifier, "openvino", "bf16")
    assert chosen.describe() == FORWARDS
    assert notes == [
        "--engine openvino computes forward passes only: it computes gradients in fp32 only; PyTorch computes the gradients"
    ]


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        ("package", "openvino is not installed (pip install 'xplain-vision[openvino]')"),
        ("processor", "the processor has no bf16 arithmetic"),
        ("compile", "the graph does not run: no kernel"),
        ("logits", "its logits differ from PyTorch's by "),
        ("probabilities", "its probabilities in bf16 differ from PyTorch's in fp32 by "),
    ],
)
def test_pytorch_computes_what_fails(classifier, images, forget, monkeypatch, caplog, tmp_path, obstacle, reason):
    expected = Oracle(classifier, precision="bf16").logits(images)

    def fail(*_, **__):
        raise RuntimeError("no kernel\nat line 1")

    match obstacle:
        case "package":
            monkeypatch.setattr(engine_choice, "find_spec", lambda name: None)
        case "processor":
            monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        case "compile":
            monkeypatch.setattr(RowGraph, "_compile", fail)
        case "logits":
            monkeypatch.setattr(openvino_engine, "BF16_LOGIT_TOLERANCE", 0.0)
        case "probabilities":
            monkeypatch.setattr(openvino_engine, "BF16_PROBABILITY_TOLERANCE", 0.0)
    with caplog.at_level(logging.DEBUG, "xplain"):
        chosen, notes = notes_of(choose_engine, classifier, "auto", "bf16", MANY)
    assert chosen is None
    assert not notes
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    (message,) = [message for message in messages if message.startswith(UNUSED)]
    assert message.removeprefix(UNUSED).startswith(reason)
    assert message.endswith(PYTORCH_COMPUTES)
    with use_engine(classifier, chosen):
        assert torch.equal(Oracle(classifier, precision="bf16").logits(images), expected)
    assert not list(tmp_path.rglob("*.graph"))


def test_few_rows_start_nothing(classifier, monkeypatch):
    monkeypatch.setattr(engine_choice, "find_spec", lambda name: pytest.fail("openvino was looked for"))
    assert choose_engine(classifier, "auto", "bf16", NO_ROWS) is None
