"""``xplain evaluate --maps NAME=DIR``: maps of other programs are evaluated like methods, and no two versions of them are mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import xplain
from xplain.core.run_store import read_run, settings_digest
from xplain.pipelines import evaluate as pipeline

MODEL = "python:tests.helpers.factories:single"
SINGLE = ("-m", MODEL, "--device", "cpu")
METRICS = ("-M", "insertion:steps=8", "-M", "deletion:steps=8")
RUN = (*SINGLE, *METRICS, "-a", "ig", "-o", "run")
KEYS = ("cat/a.jpg", "espresso/b.jpg", "rocket/c.jpg")


@pytest.fixture
def maps(tmp_path) -> Path:
    """A folder of random maps of the photographs."""
    folder = tmp_path / "maps"
    for k, key in enumerate(KEYS):
        save(folder, key, np.random.default_rng(k).normal(size=(3, 32, 32)))
    return folder


def save(folder: Path, key: str, array: np.ndarray) -> None:
    """Write a map as NPY."""
    path = (folder / key).with_suffix(".npy")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def rows(run: str = "run") -> dict[tuple[str, str], dict]:
    """Return the rows of a summary by method and metric name."""
    summary = json.loads(Path(run, "summary.json").read_text())
    return {(row["method"], row["metric"].split(":")[0]): row for row in summary["rows"]}


def values(run: str = "run", method: str = "other") -> dict[tuple[str, str], float | None]:
    """Return the current values by key and metric of a run."""
    description = json.loads(Path(run, "run.json").read_text())
    marks = {settings_digest(description["methods"][method], metric) for metric in description["metrics"].values()}
    records = [record for record in read_run(Path(run))[1] if record["mark"] in marks]
    return {(record["key"], record["metric"]): record["value"] for record in records}


@pytest.fixture
def batches(monkeypatch) -> list[list[str]]:
    """Record the keys of the images whose metrics are computed."""
    calls: list[list[str]] = []
    run_metrics = pipeline.run_metrics

    def recorded(source, metrics, classifier, images, attribution, compute, keys, *rest):
        calls.append([source.label, *keys])
        return run_metrics(source, metrics, classifier, images, attribution, compute, keys, *rest)

    monkeypatch.setattr(pipeline, "run_metrics", recorded)
    return calls


def test_captum_scores_as_ours(xp, photos, tmp_path):
    """Integrated gradients of captum, as it is called by its users, and ours."""
    attr = pytest.importorskip("captum.attr")
    clf = xplain.load_classifier(MODEL, device="cpu")
    for key in KEYS:
        x = xplain.read_image(photos / key, preprocessing=clf.preprocessing)[None]
        target = int(clf(x).argmax())
        gradients = attr.IntegratedGradients(clf)
        map_ = gradients.attribute(x, target=target, n_steps=50, method="gausslegendre")[0]
        save(tmp_path / "captum", key, map_.detach().numpy())
    done = xp("evaluate", photos, *RUN, "--maps", "captum=captum")
    assert done.code == 0
    for metric in ("insertion", "deletion"):
        ours, theirs = rows()["integrated-gradients", metric], rows()["captum", metric]
        assert theirs["mean"] == pytest.approx(ours["mean"], abs=1e-3)
        assert theirs["n"] == 3
        assert theirs["difference"]["mean"] == pytest.approx(0, abs=1e-3)
        assert theirs["difference"]["n"] == 3
        assert theirs["mean"] != pytest.approx(rows()["random", metric]["mean"], abs=1e-3)
        assert (theirs["forwards"], theirs["backwards"]) == (None, None)


def test_unusable_maps_are_counted_and_named(xp, photos, maps):
    (maps / "cat" / "a.npy").unlink()
    save(maps, "rocket/c.jpg", np.zeros((32, 33)))
    for _ in range(2):
        done = xp("evaluate", photos, *RUN, "--maps", "other=maps")
        assert done.code == 5
        row = rows()["other", "deletion"]
        assert row["n"] == 1
        assert row["undefined"] == {"no map": 1, "the map has the wrong shape": 1}
        assert "other, no map: cat/a.jpg." in done.out
        assert "other, the map has the wrong shape: rocket/c.jpg." in done.out
        assert "the map has the wrong shape: rocket/c.jpg." in Path("run/report.html").read_text()
    first = xp("evaluate", photos, *RUN, "--maps", "other=maps", "-o", "new", "--fail-fast")
    assert first.code == 3
    assert "have none for 'cat/a.jpg'" in first.err


def test_changed_map_is_evaluated_again_alone(xp, photos, maps, batches):
    more = ("--maps", "other=maps")
    xp("evaluate", photos, *RUN, *more)
    before = values()
    batches.clear()
    assert xp("evaluate", photos, *RUN, *more).code == 0
    assert batches == []
    save(maps, "espresso/b.jpg", np.load(maps / "espresso" / "b.npy") * -1)
    assert xp("evaluate", photos, *RUN, *more).code == 0
    assert batches == [["other", "espresso/b.jpg"]]
    after = values()
    xp("evaluate", photos, *RUN, *more, "-o", "fresh")
    assert after == values("fresh")
    assert {key for key, value in after.items() if value != before[key]} == {
        (KEYS[1], "insertion:steps=8"),
        (KEYS[1], "deletion:steps=8"),
    }
    save(maps, "espresso/b.jpg", np.load(maps / "espresso" / "b.npy") * -1)  # as it was
    batches.clear()
    xp("evaluate", photos, *RUN, *more)
    assert batches == []
    assert values() == before


def test_added_map_completes_run(xp, photos, maps, batches):
    array = np.load(maps / "cat" / "a.npy")
    (maps / "cat" / "a.npy").unlink()
    assert xp("evaluate", photos, *RUN, "--maps", "other=maps").code == 5
    save(maps, "cat/a.jpg", array)
    batches.clear()
    assert xp("evaluate", photos, *RUN, "--maps", "other=maps").code == 0
    assert batches == [["other", "cat/a.jpg"]]
    assert rows()["other", "insertion"]["n"] == 3
    assert json.loads(Path("run/summary.json").read_text())["unusable_maps"] == {}


def test_limit_can_be_raised(xp, photos, maps, batches):
    for limit, keys in ((1, KEYS[:1]), (3, KEYS[1:])):
        batches.clear()
        assert xp("evaluate", photos, *RUN, "--maps", "other=maps", "--limit", limit).code == 0
        assert [call for call in batches if call[0] == "other"] == [["other", *keys]]


def test_maps_are_added_to_existing_run(xp, photos, maps, batches):
    """Also after an earlier version: the records of methods stay as they are."""
    xp("evaluate", photos, *RUN)
    before = values(method="integrated-gradients")
    batches.clear()
    assert xp("evaluate", photos, *RUN, "--maps", "other=maps", "--maps", "again=maps").code == 0
    assert batches == [["other", *KEYS], ["again", *KEYS]]
    assert values(method="integrated-gradients") == before
    assert list(values().values()) == list(values(method="again").values())


def test_metrics_of_the_method_are_undefined(xp, photos, maps):
    metrics = ("max-sensitivity:samples=2", "completeness-gap", "infidelity:perturbations=2", "deletion:steps=4")
    options = [part for metric in metrics for part in ("-M", metric)]
    done = xp("evaluate", photos, *SINGLE, *options, "-a", "ig", "--maps", "other=maps", "-o", "run")
    assert done.code == 5
    undefined = {metric: row["undefined"] for (method, metric), row in rows().items() if method == "other"}
    assert undefined == {
        "max-sensitivity": {"max-sensitivity requires the attribution method": 3},
        "completeness-gap": {"it is unknown what the attributions should sum to": 3},
        "infidelity": {"infidelity requires the kind of attribution (gradients or contributions)": 3},
        "deletion": {},
    }
    assert "set content=slopes or content=contributions" in done.err
    options = ("-M", "infidelity:perturbations=2,content=slopes", "-a", "ig", "--maps", "other=maps", "-o", "slopes")
    done = xp("evaluate", photos, *SINGLE, *options)
    assert done.code == 0
    assert "assumes that the maps explain the logit; set score=prob" in done.err


def test_own_files_are_maps(xp, photos):
    """The maps of --save-maps and of explain --save raw score as the method that made them."""
    xp("evaluate", photos, *RUN, "--save-maps")
    expected = values(method="integrated-gradients")
    xp("explain", photos, *SINGLE, "-a", "ig", "--save", "raw", "-o", "raw")
    done = xp("evaluate", photos, *RUN, "-o", "new", "--maps", "saved=run/maps", "--maps", "raw=raw")
    assert done.code == 0
    assert "note" not in done.err
    assert values("new", "saved") == values("new", "raw") == pytest.approx(expected, rel=1e-6)


def test_own_maps_of_another_class_are_counted(xp, photos):
    xp("explain", photos, *SINGLE, "-a", "ig", "--save", "raw", "-o", "raw", "--target", "cat")
    done = xp("evaluate", photos, *RUN, "--target", "label", "--maps", "raw=raw")
    assert done.code == 5
    assert rows()["raw", "deletion"]["undefined"] == {"the map explains another class": 2}
    assert rows()["raw", "deletion"]["n"] == 1


def test_shards_evaluate_all_maps(xp, photos, maps):
    (maps / "cat" / "a.npy").unlink()
    for shard in ("0/2", "1/2"):
        xp("evaluate", photos, *RUN, "--maps", "other=maps", "--shard", shard)
    xp("evaluate", photos, *RUN, "--maps", "other=maps", "-o", "whole")
    assert values() == values("whole")


def test_compare_runs_with_maps(xp, photos, maps):
    xp("evaluate", photos, *RUN, "--maps", "other=maps")
    xp("evaluate", photos, *RUN, "-o", "new", "--maps", "other=maps")
    done = xp("compare", "run", "new", "-o", "same")
    assert done.code == 0
    assert "other @ new" in done.out.split("used once: ")[1].splitlines()[0]
    save(maps, "cat/a.jpg", np.ones((32, 32)))
    xp("evaluate", photos, *RUN, "-o", "new", "--maps", "other=maps")
    assert xp("compare", "run", "new", "-o", "changed").code == 0
    pairs = json.loads(Path("changed/compare.json").read_text())["pairs"]
    assert {"other @ run", "other @ new"} <= {pair[side] for pair in pairs for side in ("first", "second")}


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--maps", "maps"), 2, "cannot read --maps 'maps'; write NAME=DIR"),
        (("--maps", "ig=maps"), 2, "'ig' is the name of a method"),
        (("--maps", "a=maps", "--maps", "a=other"), 2, "'a' is specified more than once"),
        (("--maps", "a=nowhere"), 3, "no folder of maps 'nowhere'"),
        (("--maps", "a=run"), 3, "no folder of maps 'run'"),
        (("--maps", "a=photos"), 3, "no map in 'photos'"),
        (("--maps", "a=maps", "-m", "resnet18"), 2, "--maps explain one model and cannot be used with 2"),
        (("--maps", "a=maps", "-M", "roar"), 2, "which --maps do not explain; run -M roar separately"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(xp, photos, maps, options, code, text):
    done = xp("evaluate", photos, *RUN, *options)
    assert (done.code, done.out) == (code, "")
    assert len(done.err.splitlines()) == 1
    assert text in done.err
