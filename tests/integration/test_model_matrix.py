"""The table of models and methods in the guides: a sample of its pairs, its families, and the checks of its script."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torchvision import models

from tests.helpers import toys
from tests.helpers.on_models import BrokenError, count_rows, keep_contract
from tests.helpers.state import state
from tests.tools import model_guide
from tests.tools import model_matrix as matrix
from tests.tools.model_guide import PairResult, full_table, models_table, reasons_table
from tests.tools.model_matrix import GUIDE, MODELS, load_results, main, try_methods
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS
from xplain.core.types import Attribution
from xplain.models.torchvision_models import torchvision_names

NAMES = [spec.name for spec in METHODS]
TRANSFORMER_METHODS = [
    "integrated-gradients",
    "grad-cam",
    "attention-rollout",
    "attention-relevance",
    "guided-backprop",
    "lrp",
]
SAMPLE = {  # on most networks only the methods that depend most on its architecture
    "squeezenet1_1": ["saliency", "integrated-gradients", "grad-cam", "lrp", "deep-taylor", "attention-rollout"],
    "hf:Dinov2": TRANSFORMER_METHODS,
    "hf:Swin": TRANSFORMER_METHODS,
    "hf:SigLIP": TRANSFORMER_METHODS,
    "clip:ResNet": TRANSFORMER_METHODS,
    "python:one_logit": NAMES,
    "python:twelve_channels": ["integrated-gradients", "lime", "score-cam", "deeplift"],
}


def read_refusals() -> dict[str, set[str]]:
    """Return, by model, the methods that refuse it according to the guide."""
    (table,) = re.findall(r"\n(\| models .*?)\n\n", GUIDE.read_text("utf-8"), re.DOTALL)
    refusals = {}
    for line in table.splitlines()[2:]:
        _, names, refused, _ = line.split("|")
        refusals |= {name: set(re.findall("`([^`]+)`", refused)) for name in re.findall("`([^`]+)`", names)}
    return refusals


@pytest.mark.parametrize(("name", "methods"), SAMPLE.items(), ids=SAMPLE)
def test_sample_of_table(name, methods):
    results = list(try_methods(name, done=set(NAMES).difference(methods)))
    assert {result.method for result in results} == set(methods)
    assert [result for result in results if result.outcome == "broken"] == []
    refused = {result.method for result in results if result.outcome == "refused"}
    if GUIDE.exists():
        assert refused == read_refusals()[name].intersection(methods)


@pytest.mark.skipif(not GUIDE.exists(), reason="the guide is made by python -m tests.tools.model_matrix")
def test_table_names_all_models():
    table = read_refusals()
    assert set(table) == set(MODELS)
    assert set().union(*table.values()) <= set(NAMES)


def test_models_cover_torchvision_families():
    """A family is a module of torchvision; some modules hold several families."""
    modules = {name: models.get_model_builder(name).__module__ for name in torchvision_names()}
    found = {modules[name] for name in MODELS if name in modules}
    assert set(modules.values()) - found == {"torchvision.models.maxvit"}  # python:maxvit is a small one
    for start in ("resnet", "resnext", "wide_resnet", "efficientnet_b", "efficientnet_v2", "swin_t", "swin_v2"):
        assert any(name.startswith(start) for name in MODELS), start


def honest(oracle, x, y):
    return Attribution(oracle.gradients(x, y).values)


def uncounted(oracle, x, y):
    oracle.classifier(x)
    return honest(oracle, x, y)


def zero_without_flag(oracle, x, y):
    return Attribution(honest(oracle, x, y).values * torch.tensor([1.0, 0.0])[: len(x), None, None, None])


def two_passes(oracle, x, y):
    honest(oracle, x, y)
    return honest(oracle, x, y)


DRAWS = torch.Generator().manual_seed(0)
BROKEN = {
    "not finite": lambda o, x, y: Attribution(honest(o, x, y).values.index_fill(2, torch.tensor([0]), torch.nan)),
    "zero": lambda o, x, y: Attribution(honest(o, x, y).values * 0),
    "shape": lambda o, x, y: Attribution(honest(o, x, y).values[:, :, 1:]),
    "type": lambda o, x, y: Attribution(honest(o, x, y).values.double()),
    "completeness": lambda o, x, y: replace(honest(o, x, y), expected=torch.zeros(len(x))),
    "rows": uncounted,
    "cost: 4 where 2 is claimed": two_passes,
    "another map": lambda o, x, y: Attribution(honest(o, x, y).values * torch.rand(1, generator=DRAWS)),
    "by itself": lambda o, x, y: Attribution(honest(o, x, y).values * len(x)),
}


def check(function, monkeypatch) -> None:
    spec = replace(METHODS.get("saliency"), function=function)
    monkeypatch.setitem(METHODS._specs, "saliency", spec)
    classifier = toys.with_pixels(toys.small_net(1).float())[0]
    keep_contract(spec, classifier, toys.images(2).float(), {}, count_rows(classifier, (8, 10)))


@pytest.mark.parametrize(("problem", "function"), BROKEN.items())
def test_broken_contract_is_named(problem, function, monkeypatch):
    check(honest, monkeypatch)
    with pytest.raises(BrokenError, match=f"^{problem}"):
        check(function, monkeypatch)


def test_rounding_keeps_the_contract(monkeypatch):
    """A method that is exact in float64 may differ by a hundredth in float32."""

    def rounded(oracle, x, y):
        values = honest(oracle, x, y).values
        return Attribution(values if x.dtype == torch.float64 else values * (1 + 0.01 * len(x)))

    check(rounded, monkeypatch)


CHANGES = {
    "tensors": lambda model: model.head.bias.data.add_(1),
    "modes": lambda model: model.pool.train(),
    "hooks": lambda model: model.conv1.register_forward_hook(print),
    "frozen": lambda model: model.conv2.requires_grad_(False),
    "modules": lambda model: setattr(model, "act1", torch.nn.ReLU().eval()),
    "in-place": lambda model: setattr(model.act1, "inplace", True),
}


@pytest.mark.parametrize(("part", "change"), CHANGES.items())
def test_state_detects_changed_model(part, change):
    model = toys.small_net(1)
    before = state(model)
    assert state(model) == before
    change(model)
    after = state(model)
    assert {name for name in after if after[name] != before[name]} == {part}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Run the script with one tiny model and files in ``tmp_path``.

    effects: functions by method name, called when the method is tried. tried: names of the methods tried.
    """
    script = SimpleNamespace(
        model=toys.small_net().float(), results=tmp_path / "results.jsonl", effects={}, tried=[], is_located=True
    )
    script.model.size = (8, 10)
    script.guide = tmp_path / "guides" / "models.md"

    def try_effect(spec, *_):
        script.tried.append(spec.name)
        script.effects.get(spec.name, lambda: None)()

    monkeypatch.setattr(matrix, "GUIDE", script.guide)
    for module in (matrix, model_guide):
        monkeypatch.setattr(module, "MODELS", {"tiny": 8})
    monkeypatch.setattr(matrix, "keep_contract", try_effect)
    monkeypatch.setattr(matrix, "load", lambda *_: toys.classifier(script.model))
    monkeypatch.setattr(matrix.PlaceCheck, "__call__", lambda *_: script.is_located)
    return script


def raise_error(error):
    """Return an effect that raises the error."""

    def effect():
        raise error

    return effect


def test_interrupted_script_resumes(tiny, tmp_path):
    tiny.effects[NAMES[3]] = raise_error(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        main(["--results", str(tiny.results)])
    assert list(load_results(tiny.results)["tiny"]) == NAMES[:3]
    assert not tiny.guide.exists()
    tiny.effects.clear()
    tiny.tried.clear()
    assert main(["--results", str(tiny.results), "--table", str(tmp_path / "all.md")]) == 0
    assert tiny.tried == NAMES[3:]
    assert "| `tiny` (8) | none |" in tiny.guide.read_text()
    assert f": {len(NAMES)} fits." in tiny.guide.read_text()
    assert (tmp_path / "all.md").read_text().count("| fits |") == len(NAMES)
    assert main(["--results", str(tiny.results)]) == 0
    assert tiny.tried == NAMES[3:]  # every pair was done


def test_outcomes_of_errors(tiny):
    tiny.effects |= {
        "saliency": raise_error(UsageError("no", "way")),
        "agi": raise_error(KeyError("head")),
        "rise": raise_error(BrokenError("not finite")),
        "lrp": lambda: tiny.model.head.bias.data.add_(1),
    }
    assert main(["--results", str(tiny.results), "tiny"]) == 1
    results = load_results(tiny.results)["tiny"]
    outcomes = {name: (result.outcome, result.text) for name, result in results.items()}
    assert {name: outcome for name, outcome in outcomes.items() if outcome != ("fits", "")} == {
        "saliency": ("refused", "no; way"),
        "agi": ("broken", "KeyError: 'head'"),
        "rise": ("broken", "not finite"),
        "lrp": ("broken", "the method changed the model"),
    }
    assert not tiny.guide.exists()  # a table with broken pairs is not written


def test_scrambled_map_is_broken(tiny):
    tiny.is_located = False
    assert main(["--results", str(tiny.results)]) == 1
    assert load_results(tiny.results)["tiny"]["grad-cam"] == PairResult(
        "tiny", "grad-cam", "broken", "the cells of the map are not where the image shows them"
    )


def test_unknown_model_is_refused(tiny, capsys):
    with pytest.raises(SystemExit):
        main(["--results", str(tiny.results), "tiny", "resnet19"])
    assert capsys.readouterr().err.endswith("unknown models: resnet19\n")
    assert tiny.tried == []


def test_models_with_same_refusals_share_row():
    refused = {"a": ["lrp"], "b": [], "c": ["lrp"]}
    results = {}
    for name, methods in refused.items():
        results[name] = {method: PairResult(name, method, "fits") for method in NAMES}
        for method in methods:
            results[name][method] = PairResult(name, method, "refused", "why | not")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_guide, "MODELS", {"a": 64, "b": 64, "c": 107})
        assert models_table(results).splitlines()[2:] == ["| `a`, `c` (107) | `lrp` |", "| `b` | none |"]
        lines = full_table(results).splitlines()
    assert lines[0] == "| method | a | b | c |"
    assert "| lrp | – | fits | – |" in lines
    assert lines[-2:] == ["| a | lrp | why \\| not |", "| c | lrp | why \\| not |"]


def test_reasons_do_not_name_layers():
    texts = {
        "a": "lrp has no rule for layer_norm in vit.norm1; use saliency",
        "b": "lrp has no rule for layer_norm in swin.norm; use saliency",
    }
    results = {name: {"lrp": PairResult(name, "lrp", "refused", text)} for name, text in texts.items()}
    rows = reasons_table(results).splitlines()[2:]
    assert rows == ["| has no rule for layer_norm; use saliency | `lrp` | 2 |"]
