"""Published values in a configuration file: reading, errors, and their place in results."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import xplain.pipelines.catalog  # noqa: F401  (registers methods and metrics)
from tests.conftest import TINY
from xplain.core.config import Choice
from xplain.core.errors import InputError, UsageError
from xplain.reports.paper_settings import PaperSettings
from xplain.reports.published import (
    PublishedValue,
    format_published,
    published_notes,
    read_published,
    resolve_values,
)

FILE = """
protocol = "agi"
[evaluate]
method = ["ig:steps=5", "sm", "sm:absolute=true"]
metric = ["deletion:steps=4", "insertion:steps=4"]
[published]
source = "A paper, Table 1"
unknown = ["the size of the images"]
notes = ["one softmax"]
figures = [
  {model = "python:tests.helpers.factories:tiny", method = "integrated-gradients:steps=5", metric = "deletion:steps=4", value = 0.125},
  {model = "python:tests.helpers.factories:tiny", method = "sm", metric = "deletion:steps=4", value = 0.02058},
  {model = "python:tests.helpers.factories:tiny", method = "sm", metric = "insertion:steps=4,area=trapezoid", value = 1},
  {model = "resnet50 on CIFAR-10", method = "sm", metric = "deletion:steps=4", value = 0.5},
]
"""


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file and reads its table."""

    def write_and_read(text: str = FILE):
        (tmp_path / "table-1.toml").write_text(text)
        return read_published(tmp_path / "table-1.toml")

    return write_and_read


def test_read_published(read):
    published = read()
    assert (published.name, published.source, published.protocol) == ("table-1", "A paper, Table 1", "agi")
    assert (published.unknown, published.notes) == (("the size of the images",), ("one softmax",))
    assert published.models == ["python:tests.helpers.factories:tiny", "resnet50 on CIFAR-10"]
    sm, deletion = Choice("sm"), Choice("deletion", (("steps", "4"),))
    assert published.values[1] == PublishedValue("python:tests.helpers.factories:tiny", sm, deletion, 0.02058)


def test_read_published_without_table(read):
    assert read_published(None) is None
    assert read("seed = 1\n") is None


def test_read_published_uses_evaluate_protocol(read):
    text = FILE.replace("[evaluate]", '[evaluate]\nprotocol = "mfaba"')
    assert read(text).protocol == "mfaba"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unknown =", "unknwon =", r"unknown key 'unknwon' in \[published\] in .*table-1.toml; did you mean 'unknown'\?"),
        ("value = 1}", "valeu = 1}", "unknown key 'valeu' in an entry of figures in .*; did you mean 'value'"),
        ("value = 1}", 'value = "1"}', "value '1' in the figures of .* must be a number"),
        ("value = 1}", "value = true}", "value True in the figures of .* must be a number"),
        (", value = 1}", "}", "an entry of figures in .* has no value; set value"),
        ('source = "A paper, Table 1"\n', "", r"\[published\] in .* has no source; set source"),
        ('"A paper, Table 1"', "1", "source in .* must be a string"),
        ('["one softmax"]', '"one softmax"', r'notes in .* must be a list of strings; use notes = \["..."\]'),
        ('method = "sm", metric = "deletion:steps=4", value = 0.5', 'method = 1, metric = "", value = 0.5', "must be strings"),
        ('unknown = [', 'settings = {images = "1000"}\nunknown = [', r"images in the settings of .*, '1000', must be an integer"),
        ('unknown = [', 'settings = {dataset = 3}\nunknown = [', r"dataset in the settings of .*, 3, must be a string"),
        ('unknown = [', 'settings = {image = 3}\nunknown = [', r"unknown key 'image' in settings of .*; did you mean 'images'"),
        ('method = "sm", metric = "ins', 'method = "sm:absolute", metric = "ins', "invalid parameter 'absolute' in 'sm:absolute'"),
    ],
)  # fmt: skip
def test_read_published_malformed_table(read, old, new, message):
    assert FILE.count(old) == 1
    with pytest.raises(UsageError, match=message):
        read(FILE.replace(old, new))


def test_read_published_wrong_types(read):
    with pytest.raises(UsageError, match=r"\[published\] in .* must be a table"):
        read("published = 3\n")
    with pytest.raises(UsageError, match=r"figures in .* must be a list of tables"):
        read('[published]\nsource = "a"\nfigures = [1]\n')
    with pytest.raises(InputError, match="cannot read the configuration file"):
        read("[published\n")


def test_settings_are_those_of_the_table_and_its_options(read):
    text = FILE.replace("unknown = [", 'settings = {dataset = "ImageNet", images = 7}\nunknown = [')
    text = text.replace("[evaluate]", '[evaluate]\nimage_size = 224\ntarget = "label"\nscore = "prob"')
    models = ("python:tests.helpers.factories:tiny", "resnet50 on CIFAR-10")
    assert read(text).settings == PaperSettings(models, "ImageNet", 7, 224, "label", "prob")
    assert read().settings == PaperSettings(models)
    without_values = text[: text.index("figures = [")] + "figures = []\n"
    assert read(without_values.replace("[evaluate]", '[evaluate]\nmodel = "vgg16"')).settings.models == ("vgg16",)


def test_speeds_are_refused_by_evaluate(read):
    speeds = read(FILE.replace('"insertion:steps=4,area=trapezoid"', '"images/s"'))
    with pytest.raises(UsageError, match=r"table-1.toml holds published speeds, .*; use it with xplain bench"):
        resolve_values(speeds)


def test_evaluate_prints_the_agreement_of_orders(xp, photos):
    """The published order of four methods is that of the run for one metric, and its opposite for the other."""
    methods = ["saliency", "ig:steps=5", "gxi", "sobel"]
    options = f"[evaluate]\nmethod = {json.dumps(methods)}\nmetric = ['deletion:steps=8', 'insertion:steps=8']\n"
    Path("table-1.toml").write_text(options)
    args = ("evaluate", photos, *TINY, "--config", "table-1.toml", "-o", "run")
    (summary,) = xp(*args, "--json").records
    names = [name.partition(":")[0] for name in summary["run"]["methods"]]
    signs = {"deletion:steps=8": 1, "insertion:steps=8": -1}
    spelled = dict(zip(names, methods, strict=False))
    entries = [
        f'{{model = "python:tests.helpers.factories:tiny", method = "{spelled[row["method"].partition(":")[0]]}", '
        f'metric = "{row["metric"]}", value = {signs[row["metric"]] * row["mean"]}}}'
        for row in summary["rows"]
        if row["method"] != "random"
    ]
    table = f'[published]\nsource = "A paper"\nsettings = {{images = 4}}\nfigures = [{", ".join(entries)}]\n'
    Path("table-1.toml").write_text(options + table)
    ran = xp(*args)
    start = ran.lines.index("Agreement with the published order (Kendall's tau-b, 95% bootstrap interval over images):")
    for line, name, tau in zip(ran.lines[start + 1 :], signs, ("1.00", "-1.00"), strict=False):
        assert re.fullmatch(rf"- {name}: τ = {tau} \(-?\d\.\d\d to -?\d\.\d\d\), methods: 4, images: 3", line)
    assert ran.lines[start - 2].startswith("Intervals from fewer than 10 images (n = 3) are too narrow: ")
    assert ran.lines[start - 4] == "**Warning:** this run differs from the published table in images 3 (table: 4)."
    page = Path("run/report.html").read_text()
    assert '<p class="warning">Warning: this run differs from the published table in images 3 (table: 4).</p>' in page
    assert "<li>deletion:steps=8: τ = 1.00 (" in page
    order = json.loads(Path("run/summary.json").read_text())["published"]["order"]
    assert [(entry["metric"], entry["tau"], entry["n"]) for entry in order] == [
        ("deletion:steps=8", 1.0, 3),
        ("insertion:steps=8", -1.0, 3),
    ]


def test_resolve_values_of_aliases(read):
    values = resolve_values(read())
    assert sorted(values.values()) == [0.02058, 0.125, 0.5, 1.0]
    for text in ("saliency", "sm:absolute=false"):
        assert (
            resolve_values(read(FILE.replace('method = "sm", metric = "del', f'method = "{text}", metric = "del')))
            == values
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('method = "sm", metric = "ins', 'method = "smm", metric = "ins', "unknown method 'smm'"),
        ('method = "sm", metric = "ins', 'method = "sm:steps=3", metric = "ins', "saliency has no parameter 'steps'"),
        ("insertion:steps=4,area", "insertoin:steps=4,area", "unknown metric 'insertoin'"),
        ("insertion:steps=4,area=trapezoid", "deletion:steps=4", "table-1 has two values for python:tests.helpers.factories:tiny"),
    ],
)  # fmt: skip
def test_resolve_values_of_unknown_names(read, old, new, message):
    with pytest.raises(UsageError, match=message):
        resolve_values(read(FILE.replace(old, new, 1)))


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.48, "0.4800"), (0.02058, "0.02058"), (-0.006, "-0.0060")])
def test_format_published(value, text):
    assert format_published(value) == text


def test_evaluate_adds_paper_values(xp, photos):
    Path("table-1.toml").write_text(FILE)
    (summary,) = xp("evaluate", photos, *TINY, "--config", "table-1.toml", "--json").records
    labels = {"integrated-gradients:steps=5", "saliency", "saliency:absolute=true", "random"}
    deletion, insertion = (f"{name}:steps=4,unit=union3,area=mean" for name in ("deletion", "insertion"))
    rows = {(row["method"], row["metric"]): row["published"] for row in summary["rows"]}
    assert rows == {
        (method, metric): {
            ("integrated-gradients:steps=5", deletion): 0.125,
            ("saliency", deletion): 0.02058,
        }.get((method, metric))  # the figure for insertion has another area
        for method in labels
        for metric in (deletion, insertion)
    }
    assert summary["published"]["unknown"] == ["the size of the images"]
    assert "published" not in json.dumps(summary["run"])
    folder = Path("xplain-runs/photos.python-tests.helpers.factories-tiny.table-1")
    table = list(csv.DictReader(folder.joinpath("summary.csv").read_text().splitlines()))
    assert [row["published"] for row in table if row["metric"] == deletion][:2] == ["0.125", "0.02058"]
    page = folder.joinpath("report.html").read_text()
    assert "<th>published</th>" in page
    assert ">0.02058</td>" in page
    assert "<h2>Not specified in the paper</h2><ul><li>the size of the images</li></ul>" in page


def test_evaluate_prints_paper_values(xp, photos):
    Path("table-1.toml").write_text(FILE)
    ran = xp("evaluate", photos, *TINY, "--config", "table-1.toml", "-o", "run")
    assert ran.lines[2].startswith("| metric | method | mean | published | 95% CI |")
    (row,) = [line.split(" | ") for line in ran.lines if "| saliency |" in line and "deletion" in line]
    assert row[3] == "0.02058"
    after = "\n".join(ran.lines[ran.lines.index("Published values:") :])
    assert after == (
        "Published values:\n- A paper, Table 1\n- models in the table: python:tests.helpers.factories:tiny, resnet50 on CIFAR-10\n\n"
        "Not specified in the paper:\n- the size of the images\n\nNotes:\n- one softmax"
    )
    assert Path("run/summary.md").read_text() == ran.out


@pytest.mark.parametrize(
    ("model", "models"),
    [
        ({"name": "b"}, "models in the table: a, b"),
        ({"name": "c"}, "models in the table: a, b; c is not one of them, so no published value is shown"),
        (None, "models in the table: a, b; this run is not one of them, so no published value is shown"),
    ],
)
def test_published_notes_skip_empty_headings(model, models):
    table = {"source": "A paper", "models": ["a", "b"], "unknown": [], "notes": []}
    summary = {"published": table, "run": {"fingerprint": {"model": model}}}
    assert published_notes(summary) == {"Published values": ["A paper", models]}
    table["notes"] = ["one softmax"]
    assert published_notes(summary) == {"Published values": ["A paper", models], "Notes": ["one softmax"]}
    assert published_notes({"run": summary["run"]}) == {}


def test_evaluate_model_without_published_values(xp, photos):
    Path("table-1.toml").write_text(FILE)
    smooth = ("-m", "python:tests.helpers.factories:smooth", "--device", "cpu")
    ran = xp("evaluate", photos, *smooth, "--config", "table-1.toml", "-o", "run")
    assert {line.split(" | ")[3] for line in ran.lines if line.startswith("| deletion")} == {"-"}
    assert (
        "- models in the table: python:tests.helpers.factories:tiny, resnet50 on CIFAR-10; "
        "python:tests.helpers.factories:smooth is not one of them, so no published value is shown"
    ) in ran.lines


def test_run_ignores_published_values(xp, photos):
    Path("table-1.toml").write_text(FILE)
    args = ("evaluate", photos, *TINY, "-M", "deletion:steps=4", "-a", "sm", "-o", "run", "--json")
    xp(*args, "--protocol", "agi", "--config", "table-1.toml")
    before = Path("run/run.json").read_bytes()
    (summary,) = xp(*args, "--protocol", "agi").records
    assert Path("run/run.json").read_bytes() == before
    assert "published" not in summary
    assert "published" not in summary["rows"][0]


def test_evaluate_checks_published_first(xp, photos):
    Path("t.toml").write_text(FILE.replace('method = "sm", metric = "ins', 'method = "smm", metric = "ins'))
    ran = xp("evaluate", photos, *TINY, "--config", "t.toml", "-o", "run")
    assert (ran.code, ran.err, Path("run").exists()) == (
        2,
        "xplain: error: a figure of [published] in t.toml: unknown method 'smm'; did you mean 'sm'?\n",
        False,
    )


def test_explain_refuses_published_table(xp, photos):
    Path("t.toml").write_text(FILE)
    ran = xp("explain", photos, *TINY, "--config", "t.toml")
    assert (ran.code, ran.err) == (
        2,
        "xplain: error: unknown table [published] in t.toml; use it only with evaluate and bench\n",
    )
