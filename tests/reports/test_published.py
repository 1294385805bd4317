"""A paper's figures in a configuration file: what is read, what is refused, and where they stand in the results."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import xplain.pipelines.catalog  # noqa: F401  (registers methods and metrics)
from tests.conftest import TINY
from xplain.core.config import Choice
from xplain.core.errors import InputError, UsageError
from xplain.reports.published import Figure, about_published, find_figures, published_number, read_published

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
    """Write a file and read its table."""

    def write_and_read(text: str = FILE):
        (tmp_path / "table-1.toml").write_text(text)
        return read_published(tmp_path / "table-1.toml")

    return write_and_read


def test_the_table_is_read(read):
    found = read()
    assert (found.name, found.source, found.protocol) == ("table-1", "A paper, Table 1", "agi")
    assert (found.unknown, found.notes) == (("the size of the images",), ("one softmax",))
    assert found.models == ["python:tests.helpers.factories:tiny", "resnet50 on CIFAR-10"]
    sm, deletion = Choice("sm"), Choice("deletion", (("steps", "4"),))
    assert found.figures[1] == Figure("python:tests.helpers.factories:tiny", sm, deletion, 0.02058)


def test_without_a_table_there_is_none(read):
    assert read_published(None) is None
    assert read("seed = 1\n") is None


def test_the_evaluate_tables_protocol_holds_for_the_figures(read):
    text = FILE.replace("[evaluate]", '[evaluate]\nprotocol = "mfaba"')
    assert read(text).protocol == "mfaba"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("unknown =", "unknwon =", r"unknown key 'unknwon' in \[published\] in .*table-1.toml; did you mean 'unknown'\?"),
        ("value = 1}", "valeu = 1}", "unknown key 'valeu' in a figure of .*; did you mean 'value'"),
        ("value = 1}", 'value = "1"}', "value '1' of a figure of .* is not a number"),
        ("value = 1}", "value = true}", "value True of a figure of .* is not a number"),
        (", value = 1}", "}", "a figure of .* has no value; give it model, method, metric, value"),
        ('source = "A paper, Table 1"\n', "", r"\[published\] in .* has no source; give it source, figures"),
        ('"A paper, Table 1"', "1", "source in .* is not a text"),
        ('["one softmax"]', '"one softmax"', r'notes in .* is not a list of texts; write notes = \["..."\]'),
        ('method = "sm", metric = "deletion:steps=4", value = 0.5', 'method = 1, metric = "", value = 0.5', "not all texts"),
        ('method = "sm", metric = "ins', 'method = "sm:absolute", metric = "ins', "cannot read 'absolute' in 'sm:absolute'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(read, old, new, message):
    assert FILE.count(old) == 1
    with pytest.raises(UsageError, match=message):
        read(FILE.replace(old, new))


def test_published_must_be_a_table(read):
    with pytest.raises(UsageError, match=r"\[published\] in .* is not a table"):
        read("published = 3\n")
    with pytest.raises(UsageError, match=r"figures in .* is not a list of tables"):
        read('[published]\nsource = "a"\nfigures = [1]\n')
    with pytest.raises(InputError, match="cannot read the configuration"):
        read("[published\n")


def test_figures_are_found_however_methods_and_metrics_are_written(read):
    figures = find_figures(read())
    assert sorted(figures.values()) == [0.02058, 0.125, 0.5, 1.0]
    for text in ("saliency", "sm:absolute=false"):
        assert (
            find_figures(read(FILE.replace('method = "sm", metric = "del', f'method = "{text}", metric = "del')))
            == figures
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('method = "sm", metric = "ins', 'method = "smm", metric = "ins', "unknown method 'smm'"),
        ('method = "sm", metric = "ins', 'method = "sm:steps=3", metric = "ins', "saliency has no parameter 'steps'"),
        ("insertion:steps=4,area", "insertoin:steps=4,area", "unknown metric 'insertoin'"),
        ("insertion:steps=4,area=trapezoid", "deletion:steps=4", "table-1 has two figures for python:tests.helpers.factories:tiny"),
    ],
)  # fmt: skip
def test_figures_of_nothing_are_refused(read, old, new, message):
    with pytest.raises(UsageError, match=message):
        find_figures(read(FILE.replace(old, new, 1)))


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.48, "0.4800"), (0.02058, "0.02058"), (-0.006, "-0.0060")])
def test_figures_are_shown_as_printed(value, text):
    assert published_number(value) == text


def test_figures_stand_beside_the_runs_own(xp, photos):
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
    assert "<td>0.02058</td>" in page
    assert "<h2>Not in the paper</h2><ul><li>the size of the images</li></ul>" in page


def test_the_table_is_printed_with_what_is_not_known(xp, photos):
    Path("table-1.toml").write_text(FILE)
    ran = xp("evaluate", photos, *TINY, "--config", "table-1.toml", "-o", "run")
    assert ran.lines[2].startswith("| metric | method | mean | published | 95 % interval |")
    (row,) = [line.split(" | ") for line in ran.lines if "| saliency |" in line and "deletion" in line]
    assert row[3] == "0.02058"
    after = "\n".join(ran.lines[ran.lines.index("Published:") :])
    assert after == (
        "Published:\n- A paper, Table 1\n- its models: python:tests.helpers.factories:tiny, resnet50 on CIFAR-10\n\n"
        "Not in the paper:\n- the size of the images\n\nNotes:\n- one softmax"
    )
    assert Path("run/summary.md").read_text() == ran.out


@pytest.mark.parametrize(
    ("model", "models"),
    [
        ({"name": "b"}, "its models: a, b"),
        ({"name": "c"}, "its models: a, b; c is none of them, so there is no figure to compare with"),
        (None, "its models: a, b;  is none of them, so there is no figure to compare with"),
    ],
)
def test_a_heading_without_texts_is_left_out(model, models):
    about = {"source": "A paper", "models": ["a", "b"], "unknown": [], "notes": []}
    summary = {"published": about, "run": {"fingerprint": {"model": model}}}
    assert about_published(summary) == {"Published": ["A paper", models]}
    about["notes"] = ["one softmax"]
    assert about_published(summary) == {"Published": ["A paper", models], "Notes": ["one softmax"]}
    assert about_published({"run": summary["run"]}) == {}


def test_another_model_than_the_papers_has_no_figures_but_their_names(xp, photos):
    Path("table-1.toml").write_text(FILE)
    smooth = ("-m", "python:tests.helpers.factories:smooth", "--device", "cpu")
    ran = xp("evaluate", photos, *smooth, "--config", "table-1.toml", "-o", "run")
    assert {line.split(" | ")[3] for line in ran.lines if line.startswith("| deletion")} == {"-"}
    assert (
        "- its models: python:tests.helpers.factories:tiny, resnet50 on CIFAR-10; "
        "python:tests.helpers.factories:smooth is none of them, so there is no figure to compare with"
    ) in ran.lines


def test_figures_are_no_part_of_a_run(xp, photos):
    Path("table-1.toml").write_text(FILE)
    args = ("evaluate", photos, *TINY, "-M", "deletion:steps=4", "-a", "sm", "-o", "run", "--json")
    xp(*args, "--protocol", "agi", "--config", "table-1.toml")
    before = Path("run/run.json").read_bytes()
    (summary,) = xp(*args, "--protocol", "agi").records
    assert Path("run/run.json").read_bytes() == before
    assert "published" not in summary
    assert "published" not in summary["rows"][0]


def test_a_wrong_figure_is_known_before_the_run(xp, photos):
    Path("t.toml").write_text(FILE.replace('method = "sm", metric = "ins', 'method = "smm", metric = "ins'))
    ran = xp("evaluate", photos, *TINY, "--config", "t.toml", "-o", "run")
    assert (ran.code, ran.err, Path("run").exists()) == (
        2,
        "xplain: error: unknown method 'smm'; did you mean 'sm'?\n",
        False,
    )


def test_the_table_is_for_evaluate(xp, photos):
    Path("t.toml").write_text(FILE)
    ran = xp("explain", photos, *TINY, "--config", "t.toml")
    assert (ran.code, ran.err) == (2, "xplain: error: unknown table [published] in t.toml; it is for evaluate\n")
