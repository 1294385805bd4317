"""Readers and parsers with random input: they return a valid result or raise an error of one line.

``make fuzz`` runs the same properties for minutes.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import xplain.pipelines.attribution  # noqa: F401  (registers methods and metrics)
from tests.helpers import toys
from tests.helpers.devkit import write_meta
from tests.helpers.hostile_inputs import FILES
from xplain.cli.app import app as cli
from xplain.cli.app import run
from xplain.core import config, config_file, option_values, options, sweeps
from xplain.core.array_store import encode_arrays
from xplain.core.checkpoint_store import DirectoryCheckpoints
from xplain.core.errors import InputError, XplainError
from xplain.core.registry import METHODS, METRICS
from xplain.core.run_store import RunStore, read_run, settings_digest
from xplain.core.text_files import decode_text, split_lines
from xplain.data.annotations import read_annotations
from xplain.data.class_names import read_class_names
from xplain.data.datasets import read_dataset
from xplain.data.file_index import FileIndex
from xplain.data.ilsvrc_devkit import read_meta
from xplain.data.image_metadata import strip_metadata
from xplain.data.images import decode_image
from xplain.data.map_files import read_map, read_map_record
from xplain.data.mask_categories import read_category_table, read_index_names
from xplain.data.mask_regions import ImageFacts
from xplain.data.masks import find_masks
from xplain.data.own_outputs import is_own_file
from xplain.data.preprocessing import Preprocessing
from xplain.data.sources import _read_list, find_images
from xplain.models.checkpoints import read_weights
from xplain.oracle.targets import TargetSpec
from xplain.pipelines.compare_runs import compare_runs
from xplain.pipelines.run_folders import choose_run_folder
from xplain.reports.evaluation_page import make_evaluation_page
from xplain.reports.evaluation_report import evaluation_csv, evaluation_table
from xplain.reports.published import read_published
from xplain.reports.render import draw, read_record
from xplain.reports.summary import summarize_run

ATTEMPTS = int(os.environ.get("XPLAIN_FUZZ_EXAMPLES", "100"))
fuzz = settings(
    max_examples=ATTEMPTS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EVALUATION = config.EvaluateConfig(
    options.ModelOptions(), options.ComputeOptions(), "photos", methods=(), metrics=(), output=Path(), score="prob"
)
CLASSIFIER = toys.classifier(
    toys.small_net(1), labels=["cat", "dog", "tench, Tinca tinca", "5", "ä"], wnids=list("abcde")
)
texts = st.text(max_size=40) | st.text("agi:=,-+.0123456789einfNa n\t", max_size=25)
names = st.sampled_from([spec.name for spec in (*METHODS, *METRICS)])
numbers = st.floats().map(str) | st.integers().map(str) | texts


def attempt(function, *arguments):
    """Return the result; None if the function raises an XplainError, which must be one line."""
    try:
        return function(*arguments)
    except XplainError as error:
        text = str(error)
    assert text.strip()
    assert "\n" not in text or any("\n" in str(argument) for argument in arguments)
    return None


@fuzz
@given(texts)
@example("a:b=c,b=d")
@example(":x=1")
@example("a:=")
def test_parse_choice(text):
    choice = attempt(config.Choice.parse, text)
    if choice is not None:
        assert choice.name == choice.name.strip() != ""
        assert len({key for key, _ in choice.params}) == len(choice.params)
        assert all(key and value for key, value in choice.params)


@fuzz
@given(texts | st.lists(texts, min_size=2, max_size=3).map(lambda parts: "ig:steps=" + "|".join(parts)))
@example("a:b=c:d=1|2,e=|")
@example("a:" + ",".join(f"p{k}=1|2" for k in range(30)))
def test_parse_sweep(text):
    methods = attempt(sweeps.parse_methods, text)
    if methods is not None and "|" in text:
        assert 1 <= len(methods) <= sweeps.MAX_METHODS
        assert len({config.Choice.parse(method).name for method in methods}) == 1


@fuzz
@given(texts | st.tuples(numbers, numbers).map(",".join))
def test_parse_clip_shard_batch_size(text):
    if (clip := attempt(option_values.parse_clip, text)) is not None:
        assert 0 <= clip[0] < clip[1] <= 100
    if (shard := attempt(option_values.parse_shard, text.replace(",", "/"))) is not None:
        assert 0 <= shard[0] < shard[1]
    if (rows := attempt(option_values.parse_batch_size, text)) is not None:
        assert rows >= 1


@fuzz
@given(names, st.data())
def test_resolve_parameters(name, data):
    spec = (METHODS if any(method.name == name for method in METHODS) else METRICS).get(name)
    key = data.draw(st.sampled_from(sorted(spec.parameters)) | texts) if spec.parameters else data.draw(texts)
    value = data.draw(numbers | st.none() | st.booleans() | st.floats() | st.integers() | st.lists(st.integers()))
    settled = attempt(spec.resolve, {key: value})
    if settled is not None and settled[key] is not None and spec.parameters[key].bounds is not None:
        assert spec.parameters[key].bounds.accepts(settled[key])


@fuzz
@given(texts | numbers)
@example("²")
@example("-1")
@example("tench")
def test_find_class_name(text):
    index = attempt(CLASSIFIER.class_names.find, text)
    assert index is None or 0 <= index < 5


@fuzz
@given(texts | st.lists(texts, max_size=3).map(",".join) | st.integers().map("top:{}".format), texts | st.none())
@example("--5", None)
@example("9" * 5000, None)
@example("auto", ",")
def test_parse_target(target, against):
    spec = attempt(TargetSpec.parse, target, against, CLASSIFIER)
    if spec is not None:
        assert spec.count >= 1
        assert spec.kind != "class" or 0 <= spec.index < 5
        assert spec.against is None or isinstance(spec.against, str) or set(spec.against) <= set(range(5))


@pytest.fixture(scope="module")
def idle():
    """Make the commands only parse their arguments."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("explain._run", "evaluate._run", "bench._run", "compare._compare_images", "compare._compare_runs"):
            patch.setattr(f"xplain.cli.{name}", lambda *_: 0)
        for name in ("explain", "evaluate", "bench", "compare"):  # hundreds of threads would slow all later tests
            patch.setattr(f"xplain.cli.{name}.set_threads", lambda threads: None)
        yield


def options_of(command: str) -> list[str]:
    """Return the long options of a command, except --config and --version."""
    params = typer.main.get_command(cli).commands[command].params
    names = [name for param in params for name in param.opts if name.startswith("--")]
    return [name for name in names if name not in ("--config", "--version")]


def parse_arguments(*arguments: str) -> int:
    """Return the exit code of a command that only parses its arguments; it must print at most one error line."""
    err, out = io.StringIO(), io.StringIO()
    with redirect_stderr(err), redirect_stdout(out):
        code = run(arguments)
    messages = [line for line in err.getvalue().splitlines() if line]
    assert code in (0, 2, 3), err.getvalue()
    assert len(messages) == (code != 0), err.getvalue()
    assert all(line.startswith("xplain: error: ") for line in messages)
    return code


COMMANDS = ("explain", "evaluate", "compare", "bench")
command_lines = st.sampled_from(COMMANDS).flatmap(
    lambda command: st.tuples(
        st.just(command), st.lists(st.tuples(st.sampled_from(options_of(command)), numbers | texts), max_size=4)
    )
)


@fuzz
@given(command_lines)
@example(("evaluate", [("--shard", "9" * 5000 + "/1")]))
@example(("explain", [("--batch-size", "9" * 5000)]))
def test_command_line_options(idle, command_line):
    command, pairs = command_line
    parse_arguments(command, "images", *(f"{name}={value}" for name, value in pairs))


plain = st.integers() | st.floats() | st.booleans() | texts | st.dates()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def to_toml(value: object) -> str:
    """Return a value in TOML syntax."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True).replace("\\ud", "\\u0") if value.isprintable() else '"x"'
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    return str(value).lower() if isinstance(value, bool | float) else str(value)


@fuzz
@given(st.sampled_from(COMMANDS), st.data())
def test_config_file_options(idle, tmp_path, command, data):
    names = [name[2:] for name in options_of(command)]
    path = tmp_path / "c.toml"
    given = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
    path.write_text("".join(f"{name} = {to_toml(value)}\n" for name, value in given.items()))
    parse_arguments(command, "images", "--config", str(path))


@pytest.mark.parametrize("command", COMMANDS)
def test_config_file_empty_list(idle, tmp_path, command):
    path = tmp_path / "c.toml"
    path.write_text("method = []\n" if command == "explain" else "model = []\nmethod = []\n")
    assert parse_arguments(command, "images", "--config", str(path)) == 0


@fuzz
@given(
    st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    st.sampled_from(["source", "figures", "notes", "x"]),
)
def test_read_published(tmp_path, value, key):
    path = tmp_path / "c.toml"
    path.write_text(
        '[published]\nsource = "a"\nfigures = []\n'.replace(f"{key} =", f"old_{key} =") + f"{key} = {to_toml(value)}\n"
    )
    attempt(read_published, path)
    path.write_text(f"published = {to_toml(value)}\n")
    attempt(read_published, path)


@fuzz
@given(
    st.lists(
        texts | st.sampled_from(["a\0b.png", "x" * 5000, "[", "*\0", "@a", "/dev/null", "/dev/zero", "/"]), max_size=4
    )
)
@example(["a\0b.png"])
@example(["x" * 5000])
@example(["@" + "x" * 5000])
@example(["/dev/zero"])
def test_find_images_of_random_names(tmp_path, names):
    for source in (
        attempt(find_images, [str(tmp_path / name) if name[:1] not in "/@" else name for name in names if name != "/"])
        or []
    ):
        attempt(source.read)


@fuzz
@given(st.binary(max_size=200) | st.just(b'[evaluate]\nlimit = "x"\nunknown = 1'))
def test_read_config_file(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    values = attempt(config_file.read_config_file, path, "evaluate", {"limit", "seed"}, ["explain", "evaluate"])
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
        b'{"key": "a", "mark": "item", "sha256": [], "label": {}, "file": [1, 2, 3]}',
        b'{"key": "a", "mark": "file", "sha256": "0", "file": [1, [], 3]}',
        b'{"key": "a", "mark": "file", "file": 1}',
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
        b'{"fingerprint": {}, "methods": {"m": 1}, "metrics": {}, "dataset": {"location": "\\u0000"}}',
        b'{"fingerprint": {"seed": null}, "methods": {"m": {"score": []}}, "metrics": {}, "dataset": []}',
    ]
)


@fuzz
@given(st.lists(lines, max_size=4).map(b"\n".join), runs)
def test_read_run_directory(tmp_path, content, run):
    folder = tmp_path / "run"
    (folder / "items").mkdir(parents=True, exist_ok=True)
    (folder / "items" / "0.jsonl").write_bytes(content)
    (folder / "run.json").write_bytes(run)
    attempt(read_run, folder)
    attempt(summarize_run, folder)
    assert choose_run_folder(folder, EVALUATION).parent == tmp_path
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


def corrupt(data, content: dict) -> dict:
    """Return a copy in which one value, at any depth, is replaced or missing."""
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


@fuzz
@given(st.data())
def test_corrupted_records(tmp_path, data):
    """Summaries, reports and comparisons of a run with one corrupted record."""
    folder = tmp_path / "run"
    (folder / "items").mkdir(parents=True, exist_ok=True)
    which = data.draw(st.integers(-1, len(RECORDS) - 1))
    records = [corrupt(data, record) if k == which else record for k, record in enumerate(RECORDS)]
    (folder / "items" / "0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "run.json").write_text(json.dumps(corrupt(data, RUN) if which < 0 else RUN))
    summary = attempt(summarize_run, folder)
    if summary is not None:
        evaluation_csv(summary), evaluation_table(summary), make_evaluation_page(summary, [], "")
    attempt(compare_runs, [folder])


@pytest.mark.parametrize(
    "change",
    [{"undefined": True}, {"curve": []}, {"value": "x"}, {"cost": None}, {"key": "c", "curve": [1.0] * 3}],
)
def test_damaged_records_are_named(tmp_path, change):
    (tmp_path / "items").mkdir()
    lines = [json.dumps(record) + "\n" for record in (SCORE | {"key": "b"}, SCORE | change)]
    (tmp_path / "items" / "0.jsonl").write_text("".join(lines))
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    with pytest.raises(InputError, match=r"the record of '[ac]' is invalid \(.*\); delete its line"):
        summarize_run(tmp_path)


def test_valid_records_are_read(tmp_path):
    """The run of test_corrupted_records is valid."""
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "0.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (row,) = summarize_run(tmp_path)["rows"]
    assert (row["mean"], row["n"], row["undefined"], row["curve"]) == (0.5, 1, {"why": 1}, [1.0, 0.5])


@fuzz
@given(st.binary(max_size=200) | st.lists(texts, max_size=5).map(lambda rows: "\n".join(rows).encode()))
@example(b'"')
@example(b"a.png,\x00")
@example(b"\x00 1\n../\x00,1")
@example(b"Id,PredictionString\na,0 1 2 3 4 1 1 2 3 4")
@example(b"1" * 5000)
def test_read_lists_and_classes(tmp_path, content):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(b"x")
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    for item in attempt(read_dataset, str(path), CLASSIFIER.class_names) or []:
        assert item.label is None or 0 <= item.label < 5
    attempt(read_dataset, str(folder), CLASSIFIER.class_names, str(path))
    attempt(read_class_names, path)


@fuzz
@given(st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-16", "surrogatepass")), st.booleans())
@example(b"\xff\xfe\x00\x00", False)
@example(b"\xef\xbb\xbf", False)
@example(b"\x00@\x00", True)
def test_read_path_lists(tmp_path, content, null):
    with suppress(ValueError):
        text = decode_text(content)
        assert "\n" not in "".join(split_lines(text))
        assert split_lines("\n".join(split_lines(text)) + "\n") == (split_lines(text) or [""])
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    for name in attempt(partial(_read_list, null=null), str(path)) or []:
        assert name
        assert "\0" not in name


valid_images = st.sampled_from([content for _, content, error in FILES.values() if not error])
damage = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)), max_size=6)


@fuzz
@given(valid_images, damage, st.integers(0, 1 << 16))
def test_decode_image_files(tmp_path, content, changes, cut):
    broken = bytearray(content)
    for position, new in changes:
        start = position % len(broken)
        broken[start : start + len(new)] = new
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
    assert is_own_file(path) in (False, record is not None)


headers = st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0\x08\0\0\0", b"MM\0+\0\x08\0\0", b""])


@fuzz
@given(headers, st.binary(max_size=80))
@example(b"II*\0", b"\x08\0\0\0\xff\xff")
@example(b"\xff\xd8\xff", b"\xe1\0\0" * 9)
def test_strip_metadata(header, rest):
    content = header + rest
    copies = list(strip_metadata(content))
    assert 1 <= len(copies) <= 4
    assert all(len(copy) <= len(content) and copy.startswith(header[:2]) for copy in copies)
    attempt(decode_image, content, "a")


def make_tar() -> bytes:
    """Return a small tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in (
            ("a.jpg", b"x"),
            ("a.cls", b"1"),
            ("b.png", b"y"),
            ("b.json", b'{"label": 2}'),
            ("c.d.gif", b"z"),
            ("c.cls", b"0"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def save_to_bytes(content: object) -> bytes:
    """Return the bytes that torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


VOC = (
    b"<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    b"</annotation>"
)
MAP = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 4, 4)


def read_map_file(path: Path) -> None:
    """Read a map of another program: its record, then its values, which are finite and have the right shape."""
    assert isinstance(read_map_record(path), dict)
    with path.open("rb") as stream:
        content = read_map(stream, path.name, (4, 4))
    assert content.values.shape in ((1, 4, 4), (3, 4, 4))
    assert np.isfinite(content.values).all()
    assert isinstance(content.record, dict)


COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 5, "width": 4}],
        "categories": [{"id": 1, "name": "0"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3.5, 0, 2, 4]], "iscrowd": 0},
            {"image_id": 1, "category_id": 1, "segmentation": {"counts": [3, 17], "size": [5, 4]}, "iscrowd": 1},
            {"image_id": 1, "category_id": 1, "segmentation": {"counts": "3a0", "size": [5, 4]}},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2.5]},
        ],
    }
).encode()


def read_masks(path: Path) -> None:
    """Read the masks of a folder or file, and place that of an image of 4 x 5 pixels on the model input."""
    masks = find_masks(
        str(path if path.suffix == ".json" else path.parent), FileIndex(path.parent, ["a.jpg"]), CLASSIFIER.class_names
    )
    placed = masks.locate([ImageFacts("a.jpg", (5, 4), 1)], [0], Preprocessing((6, 6), 8))
    assert placed.shape == (1, 1, 6, 6)
    assert bool((placed.isnan() | (placed == 0) | (placed == 1)).all())


def read_categories(path: Path) -> None:
    """Read the classes of categories."""
    read_category_table(str(path), ["cat", "dog"], CLASSIFIER.class_names)


def save_mask(mode: str) -> bytes:
    """Return the bytes of a PNG mask."""
    stream = io.BytesIO()
    Image.new(mode, (4, 5), 1).save(stream, "PNG")
    return stream.getvalue()


def save_meta() -> bytes:
    """Return the bytes of a development kit's meta.mat."""
    stream = io.BytesIO()
    write_meta(stream, {1: "n02119789", 300: "n02100735"})
    return stream.getvalue()


def save_map() -> bytes:
    """Return the bytes of a map as numpy.save writes them."""
    stream = io.BytesIO()
    np.save(stream, MAP)
    return stream.getvalue()


READERS = {  # kind: (reader, file name, content)
    "tar": (lambda path: read_dataset(str(path), CLASSIFIER.class_names), "a.tar", make_tar()),
    "tar.gz": (lambda path: read_dataset(str(path), CLASSIFIER.class_names), "a.tar.gz", gzip.compress(make_tar())),
    "npz": (read_record, "a.npz", encode_arrays({"values": np.ones((1, 4, 4))}, {"key": "a"})),
    "meta.mat": (lambda path: read_meta(path, "2012"), "meta.mat", save_meta()),
    "maps as npy": (read_map_file, "a.npy", save_map()),
    "maps as npz": (read_map_file, "a.npz", encode_arrays({"attribution": MAP}, {"target": {"index": 1}})),
    "states": (
        lambda path: DirectoryCheckpoints(path.parent).load("a"),
        "a.pt",
        save_to_bytes({"epoch": 1, "network": {"w": torch.ones(3)}}),
    ),
    "weights": (read_weights, "a.pth", save_to_bytes({"w": torch.ones(3)})),
    "safetensors": (read_weights, "a.safetensors", save({"w": torch.ones(3)})),
    "own picture": (
        is_own_file,
        "a.png",
        draw("overlay", np.zeros((4, 4, 3), np.uint8), np.ones((1, 4, 4)), options.RenderOptions(), {}),
    ),
    "own array": (is_own_file, "a.npz", encode_arrays({"values": np.ones((1, 4, 4))}, {"key": "a"})),
    "box table": (
        lambda path: read_annotations(str(path)).assign(FileIndex(path.parent, ["v/a.png"]), CLASSIFIER.class_names),
        "a.csv",
        b"image,xmin,ymin,xmax,ymax,class\nv/a.png,1,2,3,4,cat\nv/a,5,6,7.5,8\n",
    ),
    "boxes": (lambda path: read_annotations(str(path.parent)), "a.xml", VOC),
    "masks as png": (read_masks, "a.png", save_mask("L")),
    "masks with palette": (read_masks, "a.png", save_mask("P")),
    "masks as colors": (read_masks, "a.png", save_mask("RGB")),
    "masks as xml": (read_masks, "a.xml", VOC),
    "masks as coco": (read_masks, "a.json", COCO),
    "categories": (read_categories, "a.csv", b"category,class\ncat,0\ndog,1\n"),
    "names of categories": (read_index_names, "a.txt", b"0 background\n1 cat\n"),
}


@pytest.mark.parametrize("kind", READERS)
@fuzz
@given(damage, st.integers(0, 1 << 16), st.binary(max_size=40) | st.none())
def test_read_data_files(tmp_path_factory, kind, changes, cut, replacement):
    read, name, content = READERS[kind]
    if kind.startswith("tar"):
        pytest.importorskip("webdataset")
    broken = bytearray(content if replacement is None else replacement)
    for position, new in changes if broken else ():
        start = position % len(broken)
        broken[start : start + len(new)] = new
    if cut % 4 == 0 and broken:
        del broken[cut % len(broken) :]
    path = tmp_path_factory.mktemp("data") / name
    path.write_bytes(broken)
    attempt(read, path)


def test_attempt_keeps_other_errors():
    """attempt catches XplainError only."""
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)
