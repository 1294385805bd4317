"""The README's table of what was tried: a sample of it run, every family in it, and a check that sees what is broken."""

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
from tests.tools import model_matrix as matrix
from tests.tools.model_matrix import MODELS, Pair, every_pair, main, read_kept, summary, try_pairs
from tests.tools.update_readme import README
from xplain.core.errors import UsageError
from xplain.core.registry import METHODS
from xplain.core.types import Attribution
from xplain.models.torchvision_models import torchvision_names

NAMES = [spec.name for spec in METHODS]
SAMPLE = {  # of a deep network only what depends most on how it is built
    "squeezenet1_1": NAMES,
    "timm:vit_little_patch16_reg4_gap_256": [
        "integrated-gradients",
        "grad-cam",
        "attention-rollout",
        "attention-relevance",
        "guided-backprop",
        "lrp",
    ],
}


def readme_table() -> dict[str, set[str]]:
    """The methods that refuse each model, as the README has them."""
    (table,) = re.findall(r"<!-- fits -->\n(.*?)<!-- /fits -->", README.read_text("utf-8"), re.DOTALL)
    found = {}
    for line in table.splitlines()[2:]:
        _, names, refused, _ = line.split("|")
        found |= {name: set(re.findall("`([^`]+)`", refused)) for name in re.findall("`([^`]+)`", names)}
    return found


@pytest.mark.parametrize(("name", "methods"), SAMPLE.items(), ids=SAMPLE)
def test_a_sample_of_the_table_holds(name, methods):
    pairs = list(try_pairs(name, known=set(NAMES).difference(methods)))
    assert [pair.method for pair in pairs] == methods
    assert [pair for pair in pairs if pair.outcome == "broken"] == []
    refused = {pair.method for pair in pairs if pair.outcome == "refused"}
    assert refused == readme_table()[name].intersection(methods)


def test_the_table_has_every_model_and_methods_that_exist():
    table = readme_table()
    assert set(table) == set(MODELS)
    assert set().union(*table.values()) <= set(NAMES)


def test_every_family_of_torchvision_is_tried():
    """A family is a module of torchvision's; two of them hold several."""
    modules = {name: models.get_model_builder(name).__module__ for name in torchvision_names()}
    assert set(modules.values()) == {modules[name] for name in MODELS if name in modules}
    for start in ("resnet", "resnext", "wide_resnet", "efficientnet_b", "efficientnet_v2", "swin_t", "swin_v2"):
        assert any(name.startswith(start) for name in MODELS), start


# ------------------------------------------------------------------------------------------- what is broken is seen


def honest(oracle, x, y):
    return Attribution(oracle.gradients(x, y).values)


def uncounted(oracle, x, y):
    oracle.classifier(x)
    return honest(oracle, x, y)


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


@pytest.mark.parametrize(("what", "function"), BROKEN.items())
def test_a_broken_promise_is_named(what, function, monkeypatch):
    check(honest, monkeypatch)
    with pytest.raises(BrokenError, match=f"^{what}"):
        check(function, monkeypatch)


def test_what_only_rounding_does_to_an_image_by_itself_is_no_broken_promise(monkeypatch):
    """A method that is right in float64 and a hundredth off in float32."""

    def rounded(oracle, x, y):
        values = honest(oracle, x, y).values
        return Attribution(values if x.dtype == torch.float64 else values * (1 + 0.01 * len(x)))

    check(rounded, monkeypatch)


TOUCHES = {
    "tensors": lambda model: model.head.bias.data.add_(1),
    "modes": lambda model: model.pool.train(),
    "hooks": lambda model: model.conv1.register_forward_hook(print),
    "frozen": lambda model: model.conv2.requires_grad_(False),
    "modules": lambda model: setattr(model, "act1", torch.nn.ReLU().eval()),
    "in-place": lambda model: setattr(model.act1, "inplace", True),
}


@pytest.mark.parametrize(("what", "touch"), TOUCHES.items())
def test_a_touched_model_is_seen(what, touch):
    model = toys.small_net(1)
    before = state(model)
    assert state(model) == before
    touch(model)
    after = state(model)
    assert {each for each in after if after[each] != before[each]} == {what}


# ------------------------------------------------------------------------------------------- keeping and writing


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The script with one tiny model, its files in ``tmp_path``; effects of methods by name, and the names of methods tried."""
    made = SimpleNamespace(model=toys.small_net().float(), kept=tmp_path / "kept.jsonl", effects={}, tried=[])
    made.model.size = (8, 10)
    made.readme = tmp_path / "README.md"
    made.readme.write_text("<!-- fits -->\nold\n<!-- /fits -->\n")

    def keep(spec, *_):
        made.tried.append(spec.name)
        made.effects.get(spec.name, lambda: None)()

    monkeypatch.setattr(matrix, "README", made.readme)
    monkeypatch.setattr(matrix, "MODELS", {"tiny": 8})
    monkeypatch.setattr(matrix, "keep_contract", keep)
    monkeypatch.setattr(matrix.xplain, "load_classifier", lambda *_, **__: toys.classifier(made.model))
    return made


def raises(error):
    def effect():
        raise error

    return effect


def test_an_interrupted_table_goes_on(tiny, tmp_path):
    tiny.effects[NAMES[3]] = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        main(["--kept", str(tiny.kept)])
    assert list(read_kept(tiny.kept)["tiny"]) == NAMES[:3]
    assert "old" in tiny.readme.read_text()
    tiny.effects.clear()
    tiny.tried.clear()
    assert main(["--kept", str(tiny.kept), "--table", str(tmp_path / "all.md")]) == 0
    assert tiny.tried == NAMES[3:]
    assert "| `tiny` (8) | none |" in tiny.readme.read_text()
    assert (tmp_path / "all.md").read_text().count("| fits |") == len(NAMES)
    assert main(["--kept", str(tiny.kept)]) == 0
    assert tiny.tried == NAMES[3:]  # nothing was left to do


def test_a_crash_a_broken_promise_and_a_touched_model_are_broken_and_a_refusal_is_not(tiny):
    tiny.effects |= {
        "saliency": raises(UsageError("no", "way")),
        "agi": raises(KeyError("head")),
        "rise": raises(BrokenError("not finite")),
        "lrp": lambda: tiny.model.head.bias.data.add_(1),
    }
    assert main(["--kept", str(tiny.kept), "tiny"]) == 1
    outcomes = {name: (pair.outcome, pair.text) for name, pair in read_kept(tiny.kept)["tiny"].items()}
    assert {name: pair for name, pair in outcomes.items() if pair != ("fits", "")} == {
        "saliency": ("refused", "no; way"),
        "agi": ("broken", "KeyError: 'head'"),
        "rise": ("broken", "not finite"),
        "lrp": ("broken", "the model is not as it was"),
    }
    assert "old" in tiny.readme.read_text()  # a table with broken pairs is not shown


def test_a_model_that_is_not_in_the_table_is_refused(tiny, capsys):
    with pytest.raises(SystemExit):
        main(["--kept", str(tiny.kept), "tiny", "resnet19"])
    assert capsys.readouterr().err.endswith("not among the models that are tried: resnet19\n")
    assert tiny.tried == []


def test_models_with_the_same_refusals_share_a_row():
    refused = {"a": ["lrp"], "b": [], "c": ["lrp"]}
    found = {
        name: {m: Pair(name, m, "refused" if m in why else "fits", "why | not" if m in why else "") for m in NAMES}
        for name, why in refused.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "MODELS", {"a": 64, "b": 64, "c": 107})
        assert summary(found).splitlines()[2:] == ["| `a`, `c` (107) | `lrp` |", "| `b` | none |"]
        lines = every_pair(found).splitlines()
    assert lines[0] == "| method | a | b | c |"
    assert "| lrp | – | fits | – |" in lines
    assert lines[-2:] == ["| a | lrp | why \\| not |", "| c | lrp | why \\| not |"]
