"""The compiled engine: rows, gradients, every method, stored graphs, and what happens when it cannot be used."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import xplain
import xplain.methods
from tests.helpers.engines import needs_openvino
from tests.oracle.helpers import SMALL_SIZE, SmallNetwork, make_seeded, notes_of
from xplain.core.errors import XplainError
from xplain.core.registry import METHODS
from xplain.oracle import engine_choice, engine_gain, openvino_cache, openvino_engine
from xplain.oracle.engine_choice import PlannedRows, choose_engine
from xplain.oracle.engines import use_engine
from xplain.oracle.oracle import Oracle

pytestmark = needs_openvino

# Largest differences of maps, relative to the norm of PyTorch's: of methods that amplify rounding, and of others.
AMPLIFIED, CLOSE = 0.1, 1e-4
MEASURE_GAIN = engine_gain.measure_gain  # which the fixture of these tests replaces


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
    return choose_engine(classifier, "openvino", "fp32")


@pytest.fixture
def forget(monkeypatch):
    """Forget the engines of this process inside a test."""
    monkeypatch.setattr(engine_choice, "_ENGINES", type(engine_choice._ENGINES)())


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, SMALL_SIZE, SMALL_SIZE, generator=torch.Generator().manual_seed(0))


def test_rows_do_not_depend_on_the_batch(engine, classifier, images):
    assert engine.describe() == {"forwards": "openvino", "gradients": "openvino"}
    y = torch.tensor([1, 2, 3])
    logits, gradients = engine.gradients(images, y, "prob", None)
    assert torch.equal(engine.logits(images), engine.logits(images))
    for row in range(3):
        assert torch.equal(engine.logits(images[row : row + 1])[0], engine.logits(images)[row])
        alone = engine.gradients(images[row : row + 1], y[row : row + 1], "prob", None)
        assert torch.equal(alone[0][0], logits[row])
        assert torch.equal(alone[1][0], gradients[row])
    with torch.no_grad():
        assert torch.allclose(logits, classifier(images), atol=1e-6)


@pytest.mark.parametrize("score", ["logit", "prob", "log-prob", "margin"])
@pytest.mark.parametrize("against", [None, [[3, 4]] * 3])
def test_scores_and_gradients_agree(engine, classifier, images, score, against):
    contrasts = None if against is None else torch.tensor(against)
    oracle = Oracle(classifier, score=score, against=contrasts)
    y, image = torch.tensor([1, 2, 0]), torch.arange(3)
    expected = oracle.gradients(images, y, image)
    with use_engine(classifier, engine):
        actual = oracle.gradients(images, y, image)
    assert oracle.cost.backwards == 6
    assert torch.allclose(actual.scores, expected.scores, atol=1e-6)
    assert (actual.values - expected.values).norm() <= 1e-5 * expected.values.norm()
    assert torch.equal(actual.predicted, expected.predicted)


def test_other_rows_are_left_to_pytorch(engine, classifier, images):
    y = torch.tensor([1, 2, 3])
    assert engine.logits(images.double()) is None
    assert engine.logits(images[..., 1:]) is None
    assert engine.gradients(images, y, "margin", None) is None
    assert engine.gradients(images, y[:, None], "logit", None) is None
    exact = Oracle(classifier, precision="bf16")
    with torch.no_grad():
        expected = exact.logits(images)
    with use_engine(classifier, engine):
        assert torch.equal(exact.logits(images), expected)
        assert torch.equal(Oracle(classifier, fold=False).logits(images), Oracle(classifier, fold=False).logits(images))


@pytest.mark.parametrize("spec", list(METHODS), ids=lambda spec: spec.name)
def test_methods_agree_with_pytorch(spec, engine, classifier, images):
    try:
        expected = xplain.attribute(classifier, images[:1], spec.name, seed=1)
    except XplainError:
        pytest.skip("not a method for this network")
    actual = xplain.attribute(classifier, images[:1], spec.name, seed=1, engine="openvino")
    difference = (actual.values - expected.values).norm() / expected.values.norm().clamp_min(1e-30)
    assert difference <= (AMPLIFIED if spec.rounding else CLOSE), f"{float(difference):.2g}"
    assert actual.cost.rows == expected.cost.rows


def test_stored_graphs_are_used_and_rebuilt(engine, classifier, images, cache, forget, monkeypatch):
    files = sorted(cache.glob("*.graph"))
    assert len(files) == 2
    conversions = []
    for name in ("convert_forward", "convert_gradient"):
        convert = getattr(openvino_engine, name)
        monkeypatch.setattr(
            openvino_engine, name, lambda *a, convert=convert: conversions.append(convert) or convert(*a)
        )
    again = choose_engine(classifier, "openvino", "fp32")
    assert not conversions
    assert torch.equal(again.logits(images), engine.logits(images))
    files[0].write_bytes(files[0].read_bytes()[:-100])
    engine_choice._ENGINES.clear()
    rebuilt, notes = notes_of(choose_engine, classifier, "openvino", "fp32")
    assert [note for note in notes if "damaged" in note] == [
        f"the file {str(files[0])!r} is damaged; the model is converted again"
    ]
    assert len(conversions) == 1
    assert torch.equal(rebuilt.logits(images), engine.logits(images))
    assert sorted(cache.glob("*.graph")) == files
    assert "openvino_telemetry" not in sys.modules


def test_a_wrong_graph_is_not_used(classifier, forget, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openvino_engine, "LOGIT_TOLERANCE", 0.0)
    engine, notes = notes_of(choose_engine, classifier, "openvino", "fp32")
    assert engine is None
    assert notes[0].startswith("--engine openvino is not used: its logits differ from PyTorch's by ")
    assert not list(tmp_path.rglob("*.graph"))


def test_gradients_that_do_not_convert_are_computed_by_pytorch(classifier, images, forget, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(*_):
        raise NotImplementedError("the gradient of a dilated max-pooling")

    monkeypatch.setattr(openvino_engine, "convert_gradient", fail)
    engine, notes = notes_of(choose_engine, classifier, "openvino", "fp32")
    assert engine.describe() == {"forwards": "openvino", "gradients": "torch"}
    assert notes == [
        "--engine openvino computes forward passes only: the network does not convert: NotImplementedError: "
        "the gradient of a dilated max-pooling; PyTorch computes the gradients"
    ]
    assert engine.gradients(images, torch.tensor([0, 1, 2]), "logit", None) is None


def test_networks_that_do_not_convert_run_in_pytorch(images, forget):
    class Branching(SmallNetwork):
        def forward(self, x):
            return super().forward(x if float(x.mean()) > 0.1 else 1 - x)

    torch.manual_seed(0)
    network = xplain.load_classifier(Branching().eval(), device="cpu")
    expected = xplain.attribute(network, images, "saliency")
    actual, notes = notes_of(xplain.attribute, network, images, "saliency", engine="openvino")
    assert torch.equal(actual.values, expected.values)
    assert notes[0].startswith("--engine openvino is not used: the network does not convert: ")


def test_missing_package_and_other_arithmetic_are_noted(classifier, forget, monkeypatch):
    start = "--engine openvino is not used: "
    assert notes_of(choose_engine, classifier, "openvino", "tf32") == (
        None,
        [f"{start}it computes in fp32 and bf16, not tf32; PyTorch computes the rows"],
    )
    monkeypatch.setattr(engine_choice, "find_spec", lambda name: None)
    assert notes_of(choose_engine, classifier, "openvino", "fp32") == (
        None,
        [f"{start}openvino is not installed (pip install 'xplain-vision[openvino]'); PyTorch computes the rows"],
    )
    rows = PlannedRows(engine_choice.FORWARD_ROWS, 0)
    assert notes_of(choose_engine, classifier, "auto", "fp32", rows) == (None, [])


def test_auto_repays_the_conversion(engine, classifier, monkeypatch):
    few = PlannedRows(engine_choice.FORWARD_ROWS - 1, engine_choice.GRADIENT_ROWS - 1)
    assert choose_engine(classifier, "auto", "fp32", few, {"forwards": "torch", "gradients": "torch"}) is None
    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "find_spec", lambda name: pytest.fail("openvino was looked for"))
        assert choose_engine(classifier, "auto", "fp32", few) is None
    many = PlannedRows(engine_choice.FORWARD_ROWS, 0)
    assert choose_engine(classifier, "auto", "fp32", many).describe() == {"forwards": "openvino", "gradients": "torch"}
    assert choose_engine(classifier, "torch", "fp32", many) is None
    recorded = {"forwards": "openvino", "gradients": "openvino"}
    assert choose_engine(classifier, "auto", "fp32", few, recorded) is engine


class StridedNetwork(nn.Module):
    """Strides between layers of equal width, and a normalization of channels before a pooling."""

    size, activation = SMALL_SIZE, "softmax"

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 8, 3, 2, 1)
        self.narrow = nn.Conv2d(8, 8, 1, 2)
        self.patches = nn.Conv2d(8, 8, 2, 2)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(torch.tanh(self.narrow(torch.tanh(self.wide(torch.tanh(self.first(x)))))))
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("start", ["converted", "stored"])
def test_strides_and_channel_norms_have_gradients(images, start, forget, monkeypatch):
    network = xplain.load_classifier(make_seeded(StridedNetwork).eval(), device="cpu")
    if start == "stored":
        monkeypatch.setattr(openvino_engine, "convert_gradient", lambda *_: pytest.fail("the graph is not stored"))
    engine, notes = notes_of(choose_engine, network, "openvino", "fp32")
    assert not notes
    y = torch.tensor([1, 2, 0])
    expected = Oracle(network).gradients(images, y, torch.arange(3)).values
    _, actual = engine.gradients(images, y, "logit", None)
    assert float((actual - expected).norm() / expected.norm()) <= 1e-5


@pytest.mark.parametrize(
    ("gradient", "forward", "parts"),
    [
        (1.2, 0.9, {"forwards": "openvino", "gradients": "openvino"}),
        (1.05, 1.2, {"forwards": "openvino", "gradients": "torch"}),
        (0.8, 1.05, None),
    ],
)
def test_auto_takes_the_passes_that_are_faster(classifier, forget, monkeypatch, tmp_path, gradient, forward, parts):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = []
    gains = {"gradient": gradient, "forward": forward}
    monkeypatch.setattr(engine_gain, "measure_gain", lambda model, engine, kind: measured.append(kind) or gains[kind])
    many = PlannedRows(0, engine_choice.GRADIENT_ROWS)
    for _ in range(2):
        engine = choose_engine(classifier, "auto", "fp32", many)
        assert (engine and engine.describe()) == parts
        engine_choice._ENGINES.clear()  # as in another command
    assert measured == (["gradient"] if gradient > 1.1 else ["gradient", "forward"])
    assert choose_engine(classifier, "openvino", "fp32", many).describe()["gradients"] == "openvino"
    for path in tmp_path.rglob("*.gain"):
        path.write_text("damaged")
    engine_choice._ENGINES.clear()
    choose_engine(classifier, "auto", "fp32", many)
    assert len(measured) == (2 if gradient > 1.1 else 4)


def test_the_gain_is_the_ratio_of_times(classifier, engine, monkeypatch):
    seconds = iter([9.0, 9.0, 3.0, 2.0, 4.0, 1.0, 1.0, 1.0, 0.0, 0.0, 12.0, 8.0])
    calls = []
    monkeypatch.setattr(engine_gain, "_time", lambda compute: calls.append(compute()) or next(seconds))
    monkeypatch.setattr(engine_gain, "SLOW", 100.0)
    assert MEASURE_GAIN(classifier, engine, "gradient") == 1.5  # the median of 3 / 2, 4 / 1 and 1 / 1
    assert len(calls) == 8
    expected, actual = calls[0].values, calls[1].values
    assert not torch.equal(actual, expected)  # computed by PyTorch and by the engine
    assert torch.allclose(actual, expected, atol=1e-4)
    monkeypatch.setattr(engine_gain, "SLOW", 10.0)
    assert MEASURE_GAIN(classifier, engine, "forward") == 1.5
    assert len(calls) == 12


def test_a_folder_that_cannot_be_written_is_ignored(engine, monkeypatch, tmp_path):
    (tmp_path / "xplain").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    openvino_cache.save_graph(engine._openvino, engine._forward._graph, "key")
    assert openvino_cache.load_graph(engine._openvino, engine._core, "key") is None
    openvino_cache.save_gain("key", 2.0)
    assert openvino_cache.load_gain("key") is None
    assert (tmp_path / "xplain").read_text() == "a file"
