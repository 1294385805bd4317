"""Readers and parsers under random input: a result that holds what it promises, or an error of one line; never anything else.

``make fuzz`` runs the same properties for minutes.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import xplain.engine  # noqa: F401  (registers what there is)
from tests import toys
from tests.hostile import FILES
from xplain import config
from xplain.datasets import read_dataset
from xplain.errors import XplainError
from xplain.images import decode_image
from xplain.models.classes import read_classes
from xplain.registry import METHODS, METRICS
from xplain.render import read_record
from xplain.store import Store, read_run

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
        assert spec.parameters[key].bounds.admits(settled[key])


@random
@given(texts | numbers)
@example("²")
@example("-1")
@example("tench")
def test_classes_and_targets(text):
    found = attempt(CLASSIFIER.find_class, text)
    assert found is None or 0 <= found < 5


@random
@given(st.binary(max_size=200) | texts.map(str.encode) | st.just(b'[evaluate]\nlimit = "x"\nunknown = 1'))
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
    store = attempt(Store.open, folder, 0, {"fingerprint": {}, "methods": {}, "metrics": {}})
    with store or nullcontext():
        pass


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
    for item in attempt(read_dataset, str(path), CLASSIFIER) or []:
        assert item.label is None or 0 <= item.label < 5
    attempt(read_dataset, str(folder), CLASSIFIER, str(path))
    attempt(read_classes, path)


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


def test_an_error_that_is_no_error_of_a_user_is_seen():
    """The net itself holds."""
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)
