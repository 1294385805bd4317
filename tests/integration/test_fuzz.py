"""Readers and parsers under random input: a result that holds what it promises, or an error of one line; never anything else.

``make fuzz`` runs the same properties for minutes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import xplain.pipelines.attribution  # noqa: F401  (registers what there is)
from tests.helpers import toys
from tests.helpers.hostile_inputs import FILES
from xplain.cli.app import app as cli
from xplain.cli.app import run
from xplain.core import config
from xplain.core.array_store import encode_arrays
from xplain.core.checkpoint_store import DirectoryCheckpoints
from xplain.core.errors import InputError, XplainError
from xplain.core.registry import METHODS, METRICS
from xplain.core.run_store import RunStore, read_run, settings_digest
from xplain.data.annotations import read_annotations
from xplain.data.class_names import read_class_names
from xplain.data.datasets import read_dataset
from xplain.data.images import decode_image
from xplain.data.sources import find_images
from xplain.models.checkpoints import read_weights
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.compare_runs import compare_runs
from xplain.reports.evaluation_page import make_page
from xplain.reports.published import read_published
from xplain.reports.render import read_record
from xplain.reports.summary import summarise_run
from xplain.reports.tables import to_csv, to_markdown

ATTEMPTS = int(os.environ.get("XPLAIN_FUZZ_EXAMPLES", "100"))
random = settings(
    max_examples=ATTEMPTS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CLASSIFIER = toys.classifier(
    toys.small_net(1), labels=["cat", "dog", "tench, Tinca tinca", "5", "ä"], wnids=list("abcde")
)
texts = st.text(max_size=40) | st.text("agi:=,-+.0123456789einfNa n\t", max_size=25)
names = st.sampled_from([spec.name for spec in (*METHODS, *METRICS)])
numbers = st.floats().map(str) | st.integers().map(str) | texts


def attempt(function, *arguments):
    """The result, or None with an error that is one line."""
    try:
        return function(*arguments)
    except XplainError as error:
        text = str(error)
    assert text.strip()
    assert "\n" not in text or any("\n" in str(each) for each in arguments)
    return None


@random
@given(texts)
@example("a:b=c,b=d")
@example(":x=1")
@example("a:=")
def test_choices(text):
    choice = attempt(config.Choice.parse, text)
    if choice is not None:
        assert choice.name == choice.name.strip() != ""
        assert len({key for key, _ in choice.params}) == len(choice.params)
        assert all(key and value for key, value in choice.params)


@random
@given(texts | st.tuples(numbers, numbers).map(",".join))
def test_clips_shards_and_batch_sizes(text):
    if (clip := attempt(config.parse_clip, text)) is not None:
        assert 0 <= clip[0] < clip[1] <= 100
    if (shard := attempt(config.parse_shard, text.replace(",", "/"))) is not None:
        assert 0 <= shard[0] < shard[1]
    if (rows := attempt(config.parse_batch_size, text)) is not None:
        assert rows >= 1


@random
@given(names, st.data())
def test_parameters_of_methods_and_metrics(name, data):
    spec = (METHODS if any(each.name == name for each in METHODS) else METRICS).get(name)
    key = data.draw(st.sampled_from(sorted(spec.parameters)) | texts) if spec.parameters else data.draw(texts)
    value = data.draw(numbers | st.none() | st.booleans() | st.floats() | st.integers() | st.lists(st.integers()))
    settled = attempt(spec.resolve, {key: value})
    if settled is not None and settled[key] is not None and spec.parameters[key].bounds is not None:
        assert spec.parameters[key].bounds.accepts(settled[key])


@random
@given(texts | numbers)
@example("²")
@example("-1")
@example("tench")
def test_classes_and_targets(text):
    found = attempt(CLASSIFIER.class_names.find, text)
    assert found is None or 0 <= found < 5


@random
@given(texts | st.lists(texts, max_size=3).map(",".join) | st.integers().map("top:{}".format), texts | st.none())
@example("--5", None)
@example("9" * 5000, None)
@example("auto", ",")
def test_questions(target, against):
    question = attempt(TargetSpec.parse, target, against, CLASSIFIER)
    if question is not None:
        assert question.count >= 1
        assert question.kind != "class" or 0 <= question.index < 5
        assert question.against is None or isinstance(question.against, str) or set(question.against) <= set(range(5))


@pytest.fixture(scope="module")
def idle():
    """The commands do nothing but read what they are told."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("explain._run", "evaluate._run", "bench._run", "compare._compare_images", "compare._compare_runs"):
            patch.setattr(f"xplain.cli.{name}", lambda *_: 0)
        yield


def options_of(command: str) -> list[str]:
    """The long options of a command, but for those that end it or that are fuzzed by themselves."""
    known = typer.main.get_command(cli).commands[command].params
    names = [name for each in known for name in each.opts if name.startswith("--")]
    return [name for name in names if name not in ("--config", "--version")]


def tell(*arguments: str) -> int:
    """The exit code of a command that reads its arguments only; what it says is at most one line."""
    err, out = io.StringIO(), io.StringIO()
    with redirect_stderr(err), redirect_stdout(out):
        code = run(arguments)
    said = [line for line in err.getvalue().splitlines() if line]
    assert code in (0, 2, 3), err.getvalue()
    assert len(said) == (code != 0), err.getvalue()
    assert all(line.startswith("xplain: error: ") for line in said)
    return code


COMMANDS = ("explain", "evaluate", "compare", "bench")
told = st.sampled_from(COMMANDS).flatmap(
    lambda command: st.tuples(
        st.just(command), st.lists(st.tuples(st.sampled_from(options_of(command)), numbers | texts), max_size=4)
    )
)


@random
@given(told)
@example(("evaluate", [("--shard", "9" * 5000 + "/1")]))
@example(("explain", [("--batch-size", "9" * 5000)]))
def test_options(idle, told):
    command, pairs = told
    tell(command, "images", *(f"{name}={value}" for name, value in pairs))


plain = st.integers() | st.floats() | st.booleans() | texts | st.dates()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True).replace("\\ud", "\\u0") if value.isprintable() else '"x"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool | float) else str(value)


@random
@given(st.sampled_from(COMMANDS), st.data())
def test_options_of_configuration_files(idle, tmp_path, command, data):
    names = [name[2:] for name in options_of(command)]
    path = tmp_path / "c.toml"
    given = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in given.items()))
    tell(command, "images", "--config", str(path))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_list_is_nothing_given(idle, tmp_path, command):
    """What the test above found."""
    path = tmp_path / "c.toml"
    path.write_text("method = []\n" if command == "explain" else "model = []\nmethod = []\n")
    assert tell(command, "images", "--config", str(path)) == 0


@random
@given(
    st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    st.sampled_from(["source", "figures", "notes", "x"]),
)
def test_tables_of_published_figures(tmp_path, value, key):
    path = tmp_path / "c.toml"
    path.write_text(
        '[published]\nsource = "a"\nfigures = []\n'.replace(f"{key} =", f"old_{key} =") + f"{key} = {toml(value)}\n"
    )
    attempt(read_published, path)
    path.write_text(f"published = {toml(value)}\n")
    attempt(read_published, path)


@random
@given(
    st.lists(
        texts | st.sampled_from(["a\0b.png", "x" * 5000, "[", "*\0", "@a", "/dev/null", "/dev/zero", "/"]), max_size=4
    )
)
@example(["a\0b.png"])
@example(["x" * 5000])
@example(["@" + "x" * 5000])
@example(["/dev/zero"])
def test_names_of_images(tmp_path, named):
    for source in (
        attempt(find_images, [str(tmp_path / each) if each[:1] not in "/@" else each for each in named if each != "/"])
        or []
    ):
        attempt(source.read)


@random
@given(st.binary(max_size=200) | st.just(b'[evaluate]\nlimit = "x"\nunknown = 1'))
def test_configuration_files(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    values = attempt(config.read_config_file, path, "evaluate", {"limit", "seed"}, ["explain", "evaluate"])
    assert values is None or set(values) <= {"limit", "seed"}


lines = st.binary(max_size=60) | st.sampled_from(
    [
        b"[]",
        b"1",
        b"null",
        b'"x"',
        b"{}",
        b'{"key": 1, "mark": []}',
        b'{"key": "a", "mark": "item"}',
        b'{"key": {}}',
        b"\xff",
    ]
)
runs = st.binary(max_size=60) | st.sampled_from(
    [
        b"[]",
        b"{}",
        b"null",
        b'{"fingerprint": 1}',
        b'{"fingerprint": {}}',
        b'{"fingerprint": {}, "methods": {}, "metrics": {}}',
    ]
)


@random
@given(st.lists(lines, max_size=4).map(b"\n".join), runs)
def test_run_directories(tmp_path, content, run):
    folder = tmp_path / "run"
    (folder / "items").mkdir(parents=True, exist_ok=True)
    (folder / "items" / "0.jsonl").write_bytes(content)
    (folder / "run.json").write_bytes(run)
    attempt(read_run, folder)
    attempt(summarise_run, folder)
    store = attempt(RunStore.open, folder, 0, {"fingerprint": {}, "methods": {}, "metrics": {}})
    with store or nullcontext():
        pass


METHOD = {"method": "m", "params": {}, "score": "logit", "method_version": 1, "deviations": ""}
METRIC = {"metric": "deletion", "params": {}, "version": 1, "better": "lower", "unit": "u"}
RUN = {
    "schema": 1, "fingerprint": {"model": {"name": "net"}, "target": "auto"}, "protocol": None, "classes": 5, "accuracy": None,
    "dataset": {"location": "x", "items": 2, "labelled": 2}, "methods": {"m": METHOD}, "metrics": {"deletion": METRIC},
}  # fmt: skip
SCORE = {
    "key": "a", "mark": settings_digest(METHOD, METRIC), "method": "m", "metric": "deletion", "value": 0.5, "undefined": None,
    "curve": [1.0, 0.5], "target": 1, "cost": {"forwards": 1, "backwards": 1, "seconds": 0.1},
}  # fmt: skip
ITEM = {"key": "a", "mark": "item", "sha256": "0", "label": 1, "predicted": 1, "probability": 0.5}
RECORDS = [ITEM, ITEM | {"key": "b"}, SCORE, SCORE | {"key": "b", "value": None, "undefined": "why", "curve": None}]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


def spoil(data, content: dict) -> dict:
    """A copy with one value, at the top or within, that is another one, or is missing."""
    content = deepcopy(content)
    table = content
    while True:
        key = data.draw(st.sampled_from(sorted(table)))
        if isinstance(table[key], dict) and table[key] and data.draw(st.booleans()):
            table = table[key]
        elif data.draw(st.booleans()):
            del table[key]
            return content
        else:
            table[key] = data.draw(anything)
            return content


@random
@given(st.data())
def test_records_of_runs(tmp_path, data):
    """A run that was tampered with: a summary, a report and a comparison of it, or one line that says what is wrong."""
    folder = tmp_path / "run"
    (folder / "items").mkdir(parents=True, exist_ok=True)
    which = data.draw(st.integers(-1, len(RECORDS) - 1))
    records = [spoil(data, each) if k == which else each for k, each in enumerate(RECORDS)]
    (folder / "items" / "0.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    (folder / "run.json").write_text(json.dumps(spoil(data, RUN) if which < 0 else RUN))
    summary = attempt(summarise_run, folder)
    if summary is not None:
        to_csv(summary), to_markdown(summary), make_page(summary, [], "")
    attempt(compare_runs, [folder])


@pytest.mark.parametrize(
    "change",
    [{"undefined": True}, {"curve": []}, {"value": "x"}, {"cost": None}, {"key": "c", "curve": [1.0] * 3}],
)
def test_records_that_are_damaged_are_named(tmp_path, change):
    """What the test above found."""
    (tmp_path / "items").mkdir()
    lines = [json.dumps(each) + "\n" for each in (SCORE | {"key": "b"}, SCORE | change)]
    (tmp_path / "items" / "0.jsonl").write_text("".join(lines))
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    with pytest.raises(InputError, match=r"the record of '[ac]' is damaged \(.*\); delete its line"):
        summarise_run(tmp_path)


def test_records_that_are_whole_are_read(tmp_path):
    """What the test above tampers with is a run."""
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "0.jsonl").write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (row,) = summarise_run(tmp_path)["rows"]
    assert (row["mean"], row["n"], row["undefined"], row["curve"]) == (0.5, 1, {"why": 1}, [1.0, 0.5])


@random
@given(st.binary(max_size=200) | st.lists(texts, max_size=5).map(lambda rows: "\n".join(rows).encode()))
@example(b'"')
@example(b"a.png,\x00")
def test_lists_labels_and_class_files(tmp_path, content):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(b"x")
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    for item in attempt(read_dataset, str(path), CLASSIFIER.class_names) or []:
        assert item.label is None or 0 <= item.label < 5
    attempt(read_dataset, str(folder), CLASSIFIER.class_names, str(path))
    attempt(read_class_names, path)


whole = st.sampled_from([content for _, content, says in FILES.values() if not says])
damage = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)), max_size=6)


@random
@given(whole, damage, st.integers(0, 1 << 16))
def test_image_files(tmp_path, content, wounds, cut):
    broken = bytearray(content)
    for place, new in wounds:
        at = place % len(broken)
        broken[at : at + len(new)] = new
    if cut % 3 == 0:
        del broken[cut % len(broken) :]
    image = attempt(decode_image, bytes(broken), "a.png")
    if image is not None:
        assert image.mode == "RGB"
        assert np.asarray(image).dtype == np.uint8
    path = Path(tmp_path, "a.png")
    path.write_bytes(broken)
    record = attempt(read_record, path)
    assert record is None or isinstance(record, dict)


def members() -> bytes:
    """A small tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (("a.jpg", b"x"), ("a.cls", b"1"), ("b.png", b"y"), ("b.json", b'{"label": 2}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def saved(content: object) -> bytes:
    """As torch saves it."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


VOC = (
    b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    b"</annotation>"
)
READERS = {  # what reads it, and the name of a file that it reads
    "tar": (lambda path: read_dataset(str(path), CLASSIFIER.class_names), "a.tar", members()),
    "npz": (read_record, "a.npz", encode_arrays({"values": np.ones((1, 4, 4))}, {"key": "a"})),
    "states": (
        lambda path: DirectoryCheckpoints(path.parent).load("a"),
        "a.pt",
        saved({"epoch": 1, "network": {"w": torch.ones(3)}}),
    ),
    "weights": (read_weights, "a.pth", saved({"w": torch.ones(3)})),
    "safetensors": (read_weights, "a.safetensors", save({"w": torch.ones(3)})),
    "boxes": (lambda path: read_annotations(str(path.parent)), "a.xml", VOC),
}


@pytest.mark.parametrize("kind", READERS)
@random
@given(damage, st.integers(0, 1 << 16), st.binary(max_size=40) | st.none())
def test_files_of_data(tmp_path_factory, kind, wounds, cut, instead):
    read, name, content = READERS[kind]
    if kind == "tar":
        pytest.importorskip("webdataset")
    broken = bytearray(content if instead is None else instead)
    for place, new in wounds if broken else ():
        at = place % len(broken)
        broken[at : at + len(new)] = new
    if cut % 4 == 0 and broken:
        del broken[cut % len(broken) :]
    path = tmp_path_factory.mktemp("data") / name
    path.write_bytes(broken)
    attempt(read, path)


def test_an_error_that_is_no_error_of_a_user_is_seen():
    """The net itself holds."""
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)
