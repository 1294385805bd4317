"""``xplain evaluate -M roar``: trials are stored, resumed and added, also together with metrics of single images."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TINY
from tests.helpers.patches import make_set, patch_map, write_set
from xplain.core.checkpoint_store import DirectoryCheckpoints
from xplain.core.registry import METHODS, method
from xplain.core.types import Attribution

METRIC = "roar:fractions=12+30,epochs=2,network=small,batch=16,learning_rate=0.003"
IDSDS = "idsds:grid=3,epochs=2,network=small,batch=16,learning_rate=0.003"
CPU = ("--device", "cpu", "-o", "run", "--json")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with 40 training and 20 test images as PNG files."""
    return write_set(make_set(40, 20), tmp_path_factory.mktemp("patches"))


@pytest.fixture(autouse=True)
def patch():
    """Register the true map as the method ``patch``."""

    @method("patch", cost=lambda **_: (0, 0))
    def patch(oracle, x, y) -> Attribution:
        return Attribution(patch_map(x))

    yield
    del METHODS._specs["patch"]


def lines(folder: str = "run") -> dict[tuple[str, str], dict]:
    """Return the records by trial and method, without the seconds."""
    records = [
        json.loads(line) for path in Path(folder, "items").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    for record in records:
        record.get("cost", {}).pop("seconds", None)
    return {(record["key"], record["method"]): record for record in records if "method" in record}


def test_roar_writes_records_and_report(xp, made, monkeypatch):
    seen = []

    @contextmanager
    def show_progress(wanted, unit):
        yield lambda done, total: seen.append((unit, done, total))

    monkeypatch.setattr("xplain.cli.evaluate.show_progress", show_progress)
    ran = xp("evaluate", made, "-M", f"{METRIC},trials=2", "-a", "patch", *CPU)
    assert ran.code == 0, ran.err
    epochs = 2 * (2 + 2 * 2 * 2)  # trials x (the first network's, and those of each method and fraction)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    units, totals = {unit for unit, _, _ in seen}, {total for _, _, total in seen}
    assert (units, totals, seen[-1][1]) == ({"epochs"}, {epochs}, epochs)
    assert len({done for _, done, _ in seen}) == epochs + 1
    (summary,) = ran.records
    rows = {row["method"]: row for row in summary["rows"]}
    assert list(rows) == ["patch", "random"]
    records = lines()
    assert set(records) == {(f"trial {n}", name) for n in (1, 2) for name in rows}
    for name, row in rows.items():
        trials = [records[f"trial {n}", name] for n in (1, 2)]
        assert row["n"] == 2
        assert row["mean"] == pytest.approx(sum(trial["value"] for trial in trials) / 2)
        assert row["curve"] == pytest.approx(
            [sum(pair) / 2 for pair in zip(*(trial["curve"] for trial in trials), strict=True)]
        )
        assert all(trial["value"] == pytest.approx(sum(trial["curve"][1:]) / 2, abs=1e-6) for trial in trials)
    differences = [records[f"trial {n}", "random"]["value"] - records[f"trial {n}", "patch"]["value"] for n in (1, 2)]
    assert rows["random"]["difference"]["mean"] == pytest.approx(sum(differences) / 2)
    entry = summary["run"]["metrics"][METRIC]
    assert (entry["places"], entry["trials"], entry["better"]) == ([0.0, 0.12, 0.3], 2, "lower")
    assert summary["run"]["fingerprint"]["model"] is None
    text = Path("run/summary.md").read_text()
    assert text.startswith(f"{made}; target: auto\n")
    assert f"| {METRIC}, removed fraction | 0% | 12% | 30% |" in text
    assert (
        f"{METRIC} trains its own networks (small) on 40 images and tests them on 20 images of 12 x 12 pixels (predefined train"
        in text
    )
    assert "efficientnet" not in text
    page = Path("run/report.html").read_text()
    assert "(percentile method) over images, and over trials for roar" in page
    assert "n is the number of trials" in page
    assert "Mean curves" in page
    assert sorted(path.name for path in Path("run/roar").rglob("*.pt")) == ["base.pt", "base.pt"]


def test_trial_shares_first_network(xp, made):
    xp("evaluate", made, "-M", f"{METRIC},trials=2", "-a", "patch", *CPU)
    accuracies = {key: record["curve"][0] for key, record in lines().items()}
    for n in (1, 2):
        assert accuracies[f"trial {n}", "patch"] == accuracies[f"trial {n}", "random"]
    one, two = Path("run/roar").rglob("base.pt")
    assert one.read_bytes() != two.read_bytes()


@pytest.mark.parametrize("saves", [1, 3, 6, 8])
def test_roar_resumes_killed_run(xp, made, monkeypatch, saves):
    """Saved are 2 epochs of the first network, cost and ranks of two parts, and 2 epochs per fraction; killed within each."""
    command = ("evaluate", made, "-M", f"{METRIC},trials=1", "-a", "saliency", *CPU)
    xp(*command)
    whole = lines()
    save, done = DirectoryCheckpoints.save, []

    def kill(self, name, state):
        save(self, name, state)
        done.append(name)
        if len(done) == saves:
            raise KeyboardInterrupt

    again = ["broken" if part == "run" else part for part in command]
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryCheckpoints, "save", kill)
        assert xp(*again).code == 130
    assert lines("broken") == {}
    before = {path: path.stat().st_mtime_ns for path in Path("broken/roar").rglob("base.pt")}
    assert xp(*again).code == 0
    assert lines("broken") == whole
    if saves > 2:
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_trials_and_methods_are_added(xp, made, monkeypatch):
    xp("evaluate", made, "-M", f"{METRIC},trials=1", "-a", "patch", *CPU)
    before = lines()
    (summary,) = xp("evaluate", made, "-M", f"{METRIC},trials=2", "-a", "patch", "-a", "sobel", *CPU).records
    after = lines()
    assert {key: after[key] for key in before} == before
    assert {row["method"]: row["n"] for row in summary["rows"]} == {"patch": 2, "random": 2, "sobel": 2}
    monkeypatch.setattr("xplain.metrics.roar.train", lambda *_: pytest.fail("trained again"))
    assert xp("evaluate", made, "-M", f"{METRIC},trials=2", "-a", "patch", *CPU).code == 0


def test_shards_divide_trials(xp, made):
    for part in ("0/2", "1/2"):
        assert xp("evaluate", made, "-M", f"{METRIC},trials=3", "-a", "patch", "--shard", part, *CPU).code == 0
    shares = [
        {json.loads(line)["key"] for line in Path(f"run/items/{rank}.jsonl").read_text().splitlines()}
        for rank in (0, 1)
    ]
    assert shares == [{"trial 1", "trial 3"}, {"trial 2"}]
    sharded = lines()
    xp("evaluate", made, "-M", f"{METRIC},trials=3", "-a", "patch", "--device", "cpu", "-o", "one")
    assert lines("one") == sharded


def test_roar_with_metrics_of_images(xp, tmp_path):
    """One data set and one run, in either order: deletion measures the model, roar its own networks."""
    data = make_set(12, 6)
    folder = write_set(data, tmp_path / "data") / "test"  # class folders without train and test: divided by roar
    (folder / "upright").rename(folder / "0")
    (folder / "level").rename(folder / "1")
    quick = METRIC.replace("epochs=2", "epochs=1") + ",trials=1"
    both = xp("evaluate", folder, "-M", "deletion:steps=4", "-M", quick, "-a", "saliency", *TINY, *CPU[2:])
    assert both.code == 0, both.err
    (summary,) = both.records
    assert [(row["metric"].split(":")[0], row["n"]) for row in summary["rows"]] == [("deletion", 6)] * 2 + [
        ("roar", 1)
    ] * 2
    assert summary["run"]["fingerprint"]["model"]["name"] == TINY[1]
    assert (summary["items"]["evaluated"], summary["top1"] is None) == (6, False)
    xp("evaluate", folder, "-M", quick, "-a", "saliency", "--device", "cpu", "-o", "late")
    late = xp("evaluate", folder, "-M", "deletion:steps=4", "-a", "saliency", *TINY, "-o", "late", "--json")
    assert late.code == 0, late.err
    values = {(row["metric"], row["method"]): row["mean"] for row in summary["rows"]}
    assert {(row["metric"], row["method"]): row["mean"] for row in late.records[0]["rows"]} == values


def test_roar_on_handwritten_digits(xp, tmp_path):
    """Handwritten digits of 8 x 8: the accuracy with all pixels, and without a tenth and nine tenths of them."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = tmp_path / "digits" / str(label) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).round().astype("uint8")).save(path)
    short = "roar:fractions=10+90,trials=1,epochs=8,network=small,batch=32,learning_rate=0.005,per_class=60"
    ran = xp("evaluate", tmp_path / "digits", "-M", short, "-a", "saliency:absolute=true", *CPU)
    assert ran.code == 0, ran.err
    curves = {row["method"]: row["curve"] for row in ran.records[0]["rows"]}
    for whole, tenth, most in curves.values():
        assert whole > 0.9
        assert whole >= tenth > most
    assert (
        "on 600 images and tests them on 359 images of 8 x 8 pixels (80%/20% split of each class"
        in Path("run/summary.md").read_text()
    )


def test_roar_counts_bad_image(xp, tmp_path):
    folder = write_set(make_set(12, 6), tmp_path / "data")
    (folder / "train" / "level" / "bad.png").write_text("no picture")
    quick = METRIC.replace("epochs=2", "epochs=1") + ",trials=1"
    ran = xp("evaluate", folder, "-M", quick, "-a", "patch", *CPU)
    assert ran.code == 5
    assert "bad.png' is not an image" in ran.err
    assert ran.records[0]["items"]["failed"] == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["-m", "resnet50"], "--model cannot be used with roar, which trains its own networks; remove --model"),
        (["--limit", "5"], "--limit cannot be used with roar, which trains its own networks; use roar:per_class=N"),
        (["--image-size", "64"], "--image-size cannot be used with roar, which trains its own networks; use roar:size=N"),
        (["-M", "deletion", *TINY, "-m", "resnet50"], "roar trains its own networks and cannot be combined with several models"),
        (["-M", "roar:fractions=0.5.9"], "roar: invalid value fractions=0.5.9; use increasing percentages such as"),
        (["-M", "roar:network=resnet"], "roar: invalid value network=resnet; use cnn or small"),
    ],
)  # fmt: skip
def test_roar_usage_error_is_one_line(xp, args, text):
    ran = xp("evaluate", "nowhere", "-M", "roar", *args)
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err
    assert ran.err.count("\n") == 1


def test_roar_rejects_run_of_other_images(xp, tmp_path):
    folder = write_set(make_set(12, 6), tmp_path / "data")
    quick = METRIC.replace("epochs=2", "epochs=1") + ",trials=1"
    assert xp("evaluate", folder, "-M", quick, "-a", "patch", *CPU).code == 0
    Image.new("RGB", (12, 12)).save(folder / "train" / "level" / "more.png")
    ran = xp("evaluate", folder, "-M", quick, "-a", "patch", *CPU)
    assert ran.code == 2
    assert "results for different images; use another --output or the same dataset" in ran.err
    ran = xp(
        "evaluate", folder, "-M", quick.replace("12+30", "20"), "-a", "patch", *CPU
    )  # another metric of the same images
    assert (ran.code, "contains roar:fractions=12+30" in ran.err) == (2, True)


def test_summary_counts_requested_trials(xp, made):
    quick = METRIC.replace("epochs=2", "epochs=1")
    command = ("evaluate", made, "-a", "patch", "--device", "cpu", "-o", "run")
    ran = xp(*command, "-M", f"{quick},trials=3", "--shard", "0/2")
    assert ran.lines[0].endswith(f"; 2 of 3 trials of {quick}")
    assert f"2 of 3 trials of {quick}" in Path("run/report.html").read_text()
    ran = xp(*command, "-M", f"{quick},trials=2", "--json")
    assert {row["n"] for row in ran.records[0]["rows"]} == {2}
    assert xp(*command, "-M", f"{quick},trials=1", "--json").records[0]["rows"][0]["n"] == 1
    assert "trials of" not in Path("run/summary.md").read_text().splitlines()[0]
    assert xp(*command, "-M", f"{quick},trials=3", "--json").records[0]["rows"][0]["n"] == 3


def test_roar_default_directory_has_no_model(xp, made):
    quick = METRIC.replace("epochs=2", "epochs=1") + ",trials=1"
    assert xp("evaluate", made, "-M", quick, "-a", "patch", "--device", "cpu").code == 0
    assert Path("xplain-runs", f"{made.name}.roar", "summary.md").exists()


def test_idsds_is_evaluated_like_roar(xp, made):
    """One network per trial for all methods, and one value per trial; the same command again computes nothing."""
    metric = f"{IDSDS},trials=2"
    ran = xp("evaluate", made, "-M", metric, "-a", "patch", "-a", "sobel", "--target", "label", *CPU)
    assert ran.code == 0, ran.err
    (summary,) = ran.records
    assert [row["method"] for row in summary["rows"]] == ["patch", "sobel", "random"]
    assert [row["n"] for row in summary["rows"]] == [2, 2, 2]
    assert all(-1 <= row["mean"] <= 1 and row["curve"] is None for row in summary["rows"])
    networks = sorted(path.name for path in Path("run/idsds").rglob("base*"))
    assert len(networks) == 2
    table = Path("run/summary.md").read_text()
    assert "| idsds:grid=3" in table
    for report in (table, Path("run/report.html").read_text()):
        assert "trains its own networks (small) on 40 images" in report
        assert "n is the number of trials, and each value is the mean over the test images" in report
        assert "excludes" not in report
        assert "Mean curves" not in report
    before = lines()
    again = xp("evaluate", made, "-M", metric, "-a", "patch", "-a", "sobel", "--target", "label", *CPU)
    assert again.code == 0
    assert lines() == before
    refused = xp("evaluate", made, "-M", metric, "--limit", "5", *CPU)
    assert refused.err == (
        "xplain: error: --limit cannot be used with idsds, which trains its own networks; use idsds:per_class=N\n"
    )


@pytest.mark.parametrize("saves", [1, 3, 4])
def test_idsds_resumes_killed_run(xp, made, monkeypatch, saves):
    """Saved are 2 epochs of the network, and the cost and the scores of each method; killed within each."""
    command = ("evaluate", made, "-M", f"{IDSDS},trials=1", "-a", "saliency", *CPU)
    xp(*command)
    whole = lines()
    save, done = DirectoryCheckpoints.save, []

    def kill(self, name, state):
        save(self, name, state)
        done.append(name)
        if len(done) == saves:
            raise KeyboardInterrupt

    again = ["broken" if part == "run" else part for part in command]
    with monkeypatch.context() as patched:
        patched.setattr(DirectoryCheckpoints, "save", kill)
        assert xp(*again).code == 130
    assert lines("broken") == {}
    before = {path: path.stat().st_mtime_ns for path in Path("broken/idsds").rglob("base.pt")}
    assert xp(*again).code == 0
    assert lines("broken") == whole
    if saves > 2:
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_idsds_counts_undefined_images(xp, made):
    """The map is constant for the images of dark first pixels, and the mean is over the other images."""

    @method("partial", cost=lambda **_: (0, 0))
    def partial(oracle, x, y) -> Attribution:
        return Attribution(patch_map(x) * (x[:, :1, :1, :1] > 0.5))

    try:
        ran = xp("evaluate", made, "-M", f"{IDSDS},trials=2", "-a", "partial", *CPU)
    finally:
        del METHODS._specs["partial"]
    assert ran.code == 5
    count = int((make_set(40, 20).test.pixels[:, 0, 0, 0] < 128).sum())
    assert 0 < count < 20
    reason = "the map's sums do not vary between cells"
    row, control = ran.records[0]["rows"]
    assert (row["n"], row["undefined"], row["undefined_images"]) == (2, {}, {reason: 2 * count})
    assert "undefined_images" not in control
    records = lines()
    assert records["trial 1", "partial"]["undefined_images"] == {reason: count}
    assert "undefined_images" not in records["trial 1", "random"]
    text = f"of partial excludes test images without a score, over all trials: {2 * count} ("
    assert text in Path("run/summary.md").read_text()
    assert text in Path("run/report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("grid=13", "idsds: grid=13 exceeds the image size of 12 x 12 pixels; use a smaller grid"),
        ("grid=1", "idsds: invalid value grid=1; use an integer >= 2"),
        ("size=3", "idsds: grid=4 exceeds the image size of 3 x 3 pixels; use a smaller grid"),
    ],
)
def test_idsds_of_small_images(xp, made, settings, text):
    """The error comes before the run directory is made, which would list the metric."""
    ran = xp("evaluate", made, "-M", f"idsds:{settings}", "-a", "patch", *CPU)
    assert (ran.code, ran.out, ran.err) == (2, "", f"xplain: error: {text}\n")
    assert not Path("run").exists()


@pytest.mark.parametrize("metric", ["roar", "idsds"])
def test_small_training_set_is_refused(xp, tmp_path, metric):
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (12, 12)).save(folder / "one.png")
    command = ("evaluate", "data", "-M", metric, "-a", "patch", *CPU)
    few = "class 'a' has fewer than two images, so none is left for testing; add images to this class"
    assert xp(*command).err == f"xplain: error: {few}\n"
    Image.new("RGB", (12, 12)).save(folder / "two.png")
    ran = xp(*command)
    single = "training dataset 'data' has one class, 'a'; add images of other classes"
    assert (ran.code, ran.err) == (3, f"xplain: error: {single}\n")
    assert not Path("run").exists()
