"""The reference of every method and metric: meanings of parameters, pages, the library's lists and the guides."""

import dataclasses
import json
import re

import pytest
from PIL import Image

import xplain
from tests.tools.pages import FOLDER, make_guides
from tests.tools.readme_pictures import CHEAPER, OVERLAYS, SIDE
from xplain.core.reference import describe_definition, describe_parameters, find_meanings
from xplain.core.registry import METHODS, METRICS, MethodSpec, Registry
from xplain.reports.reference_page import escape_markdown, make_page, split_paragraphs

SPECS = [*METHODS, *METRICS]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


@every_spec
def test_every_parameter_has_a_meaning(spec):
    parameters = describe_parameters(spec)
    assert [info.name for info in parameters] == list(spec.parameters)
    for info in parameters:
        assert len(info.meaning.split()) >= 2, info.name
        assert "as in ``" not in info.meaning, info.name
        assert info.type in ("int", "float", "bool", "str", "path")
        assert info.to_dict()["choices"] == list(spec.parameters[info.name].choices)
    json.dumps([info.to_dict() for info in parameters])


@every_spec
def test_page_holds_definition_parameters_and_paper(spec):
    page = make_page(spec)
    text = page.to_text(100)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith(f"{spec.name}\n\n{spec.summary.split()[0]}")
    for name in spec.parameters:
        assert f"\n  {name}: " in text
    joined = " ".join(text.split())
    headings = [line for line in text.splitlines() if line in ("Parameters:", "Properties:", "Definition:")]
    expected = {"Parameters:": spec.parameters, "Properties:": page.facts, "Definition:": page.definition}
    assert headings == [heading for heading, content in expected.items() if content]
    assert not spec.paper or " ".join(spec.paper.citation.split()) in joined
    facts = dict(page.facts)
    assert facts.get("Differences from the paper", "") == spec.deviations
    if isinstance(spec, MethodSpec):
        assert facts["Axioms kept"] == (", ".join(sorted(spec.axioms)) or "none")
        assert facts.get("Known limits", "") == spec.limits
    else:
        assert facts["Undefined (NaN)"] == spec.undefined
    assert not [entry for entry in describe_definition(spec).splitlines() if entry.startswith(("x:", "y:"))]


def test_guides_are_up_to_date():
    """Run ``python -m tests.tools.pages`` after a change of a registration or a docstring."""
    for path, content in make_guides().items():
        assert path.read_text("utf-8") == content, path.name


def test_every_method_for_the_default_model_has_a_picture():
    """Run ``make readme`` for a new method."""
    names = {spec.name for spec in METHODS if not spec.name.startswith(("attention-", "legrad", "grad-eclip"))}
    pictures = {path.stem: path for path in OVERLAYS.glob("*.jpg")}
    assert set(pictures) == names
    assert sum(path.stat().st_size for path in pictures.values()) < 500_000
    for path in pictures.values():
        with Image.open(path) as picture:
            assert picture.size == (SIDE, SIDE)
    guide = make_guides()[FOLDER / "methods.md"]
    assert re.findall(r'<img src="../.readme/methods/(.+?).jpg"', guide) == [n for n in METHODS.names if n in names]
    assert (
        '<img src="../.readme/methods/rise.jpg" alt="Overlay of the cat by rise:masks=300" width="160">\n\n`rise:masks=300`'
        in guide
    )


def test_pictures_need_at_most_about_300_rows():
    """The settings of the pictures are valid, and only those of methods that cost more by default."""
    for spec in METHODS:
        settings = dict(part.split("=") for part in CHEAPER.get(spec.name, "").split(",") if part)
        cost, default = sum(spec.cost(**spec.resolve(settings))), sum(spec.cost(**spec.resolve({})))
        assert cost <= 305 or spec.name == "ablation-cam", spec.name
        assert (default > 300) == (bool(settings) or spec.name == "ablation-cam"), spec.name


def test_accepted_values_on_pages():
    heads = {name: text.partition(";")[0] for name, text in make_page(METHODS.get("ig")).parameters}
    assert heads["baseline"] == "black, white, mean, blur, uniform, an image file or a folder of images"
    assert heads["direction"] == "none or idgi"
    layer = dict(make_page(METHODS.get("grad-cam")).parameters)["layer"]
    assert layer.startswith("the name of a layer, or several such as layer3+layer4; default auto. The name of a module")


def test_parameters_of_agi_and_deletion():
    agi = {info.name: info for info in describe_parameters(METHODS.get("agi"))}
    assert agi["variant"].choices == ("official", "paper")
    assert (agi["step_size"].type, agi["step_size"].default, agi["step_size"].bounds) == ("float", 0.05, "> 0")
    assert (agi["nodes"].default, agi["nodes"].bounds) == (None, ">= 1 or none")
    assert agi["distances"].type == "path"
    assert agi["steps"].meaning == "maximum number of steps per false class."
    morf, lerf = (find_meanings(METRICS.get(name), METRICS) for name in ("morf", "lerf"))
    assert morf["unit"] == lerf["unit"] == find_meanings(METRICS.get("deletion"), METRICS)["unit"]
    baseline = find_meanings(METRICS.get("normalised-insertion"), METRICS)["baseline"]
    assert baseline.startswith("what replaces units: ``mean`` is the zero")
    assert baseline.endswith("both curves. Two baselines are scaled before their mean.")


def test_entries_end_at_blank_lines_and_raises():
    registry: Registry[MethodSpec] = Registry("method")

    def function(oracle, x, y, *, rng, steps: int = 3, kind: str = "a"):
        """"""

    doc = """Do it.

A formula: x = 1.

x: images.
rng: streams.
steps: number of
steps.
Raises UsageError if not.

kind: which
one.

The end."""
    registry.add(MethodSpec("one", function, doc=doc))
    spec = registry.get("one")
    assert find_meanings(spec, registry) == {
        "x": "images.",
        "rng": "streams.",
        "steps": "number of steps.",
        "kind": "which one.",
    }
    bare = dataclasses.replace(spec, doc="Do it.")
    assert [info.meaning for info in describe_parameters(bare, registry)] == ["", ""]
    assert describe_definition(spec) == "A formula: x = 1.\n\nRaises UsageError if not.\n\nThe end."
    registry.add(dataclasses.replace(spec, name="two", doc="Do it.\n\nsteps, kind: as in ``one``. And more."))
    assert find_meanings(registry.get("two"), registry) == {
        "steps": "number of steps. And more.",
        "kind": "which one. And more.",
    }


def test_paragraphs_and_markdown():
    long = "a" * 120
    assert split_paragraphs(f"{long}.\nb.\nc:\nd\n\ne") == [f"{long}. b.", "c:", "d", "e"]
    assert escape_markdown("x_0 * ``a_b`` <I, φ> |x|") == "x\\_0 \\* `a_b` \\<I, φ> \\|x\\|"
    assert escape_markdown("- f") == "\\- f"


def test_library_lists_methods_and_metrics():
    methods, metrics = xplain.methods(), xplain.metrics()
    assert methods.names == METHODS.names
    assert metrics.names == METRICS.names
    assert methods["sg"].name == "smoothgrad"
    assert [info.name for info in methods["sg"].parameters] == [
        "samples",
        "noise",
        "kind",
        "tolerance",
        "max_samples",
    ]
    assert "ig" in methods
    assert "deletion" not in methods
    assert [entry.name for entry in methods[:2]] == ["saliency", "input-x-gradient"]
    assert repr(methods[:1]) == "saliency  Compute the gradient of the score with respect to the image."
    assert repr(methods["gxi"]) == (
        "input-x-gradient(baseline=black): Multiply the image by the gradient of the score."
    )
    assert (metrics["deletion"].better, metrics["deletion"].unit) == ("lower", "mean target probability")
    assert metrics["rma"].name == "relevance-mass"
    with pytest.raises(KeyError, match="nope"):
        methods["nope"]
