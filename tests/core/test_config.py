"""Tests of xplain.core.config."""

from __future__ import annotations

import pytest

from xplain.core.config import Choice, Compute, parse_batch_size, parse_clip, read_config_file
from xplain.core.errors import InputError, UsageError

OPTIONS = ("batch_size", "method", "seed", "output")
COMMANDS = ("explain", "evaluate")


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("agi", "agi", ()),
        ("agi:", "agi", ()),
        ("agi:steps=10", "agi", (("steps", "10"),)),
        ("agi:steps=10,classes=5", "agi", (("steps", "10"), ("classes", "5"))),
        (" agi : steps = 10 , classes = 5 ", "agi", (("steps", "10"), ("classes", "5"))),
        ("agi:step-size=0.1", "agi", (("step_size", "0.1"),)),
        ("ig:baseline=black,", "ig", (("baseline", "black"),)),
        ("eg:baselines=a=b", "eg", (("baselines", "a=b"),)),
        ("eg:baselines=C:/d", "eg", (("baselines", "C:/d"),)),
    ],
)
def test_choice_parses_name_and_parameters(text, name, params):
    assert Choice.parse(text) == Choice(name, params)


@pytest.mark.parametrize(
    ("text", "part"),
    [("agi:steps", "steps"), ("agi:steps=", "steps="), ("agi:=3", "=3"), ("agi:steps=1,classes", "classes")],
)
def test_choice_rejects_incomplete_parameter(text, part):
    with pytest.raises(UsageError) as error:
        Choice.parse(text)
    assert str(error.value) == f"cannot read {part!r} in {text!r}; write NAME:key=value,key=value"


@pytest.mark.parametrize("text", ["", " ", ":steps=3"])
def test_choice_rejects_missing_name(text):
    with pytest.raises(UsageError, match="no name in"):
        Choice.parse(text)


def test_choice_rejects_repeated_parameter():
    with pytest.raises(UsageError) as error:
        Choice.parse("agi:steps=1,steps=2")
    assert str(error.value) == "parameter 'steps' is given twice in 'agi:steps=1,steps=2'; give it once"
    with pytest.raises(UsageError, match="'step_size' is given twice"):
        Choice.parse("agi:step-size=1,step_size=1")


@pytest.mark.parametrize(("text", "rows"), [("auto", None), ("1", 1), ("128", 128)])
def test_parse_batch_size(text, rows):
    assert parse_batch_size(text) == rows


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "many", "Auto", "None"])
def test_parse_batch_size_rejects_other_text(text):
    with pytest.raises(UsageError) as error:
        parse_batch_size(text)
    assert str(error.value) == f"batch size {text!r} is not a number of rows; write auto or a whole number from 1"


@pytest.mark.parametrize(
    ("text", "clip"), [("80,99", (80.0, 99.0)), ("0,100", (0.0, 100.0)), (" 1.5 , 2 ", (1.5, 2.0))]
)
def test_parse_clip(text, clip):
    assert parse_clip(text) == clip


@pytest.mark.parametrize("text", ["80", "80,", "80,90,99", "a,b", ""])
def test_parse_clip_rejects_other_text(text):
    with pytest.raises(UsageError, match=f"cannot read clip '{text}'"):
        parse_clip(text)


@pytest.mark.parametrize("text", ["99,80", "80,80", "-1,50", "50,101", "nan,50", "0,nan", "0,inf"])
def test_parse_clip_rejects_invalid_range(text):
    with pytest.raises(UsageError, match="is not 0 <= LOW < HIGH <= 100"):
        parse_clip(text)


def test_compute_defaults():
    assert Compute() == Compute("efficientnet-lite0", None, None, "auto", "fp32", None, 0, None)


@pytest.fixture
def read(tmp_path):
    """Write a configuration file and read it for a command."""

    def write_and_read(text: str | bytes, command: str = "explain"):
        path = tmp_path / "x.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config_file(path, command, OPTIONS, COMMANDS)

    return write_and_read


def test_top_level_options_apply_to_every_command(read):
    text = 'seed = 3\nbatch-size = 8\nmethod = ["agi", "ig"]\n'
    for command in COMMANDS:
        assert read(text, command) == {"seed": 3, "batch_size": 8, "method": ["agi", "ig"]}


def test_command_table_overrides_top_level(read):
    text = 'seed = 3\noutput = "a"\n[explain]\nseed = 4\n[evaluate]\noutput = "b"\n'
    assert read(text, "explain") == {"seed": 4, "output": "a"}
    assert read(text, "evaluate") == {"seed": 3, "output": "b"}


def test_command_table_overrides_other_spelling(read):
    assert read("batch_size = 1\n[explain]\nbatch-size = 2\n") == {"batch_size": 2}
    assert read("batch-size = 1\n[explain]\nbatch_size = 2\n") == {"batch_size": 2}


def test_empty_file_sets_no_option(read):
    assert read("") == {}


def test_table_of_other_command_is_ignored(read):
    assert read("[evaluate]\nwhatever = 1\n", "explain") == {}


def test_unknown_option_suggests_similar_name(read):
    with pytest.raises(UsageError, match=r"unknown option 'sede' in .*x\.toml; did you mean 'seed'\?"):
        read("sede = 3\n")
    with pytest.raises(UsageError, match=r"unknown option 'zzz' .*; see --help"):
        read("[explain]\nzzz = 3\n")


def test_unknown_table_suggests_similar_name(read):
    with pytest.raises(UsageError, match=r"unknown table \[explian\] in .*; did you mean 'explain'\?"):
        read("[explian]\nseed = 3\n")


@pytest.mark.parametrize("text", ["seed = ", "seed = 1\nseed = 2\n", b"\xff\xfe"])
def test_invalid_toml_raises_input_error(read, text):
    with pytest.raises(InputError, match=r"cannot read the configuration .*x\.toml") as error:
        read(text)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_missing_config_file_raises_input_error(tmp_path):
    with pytest.raises(InputError, match=r"gone\.toml"):
        read_config_file(tmp_path / "gone.toml", "explain", OPTIONS, COMMANDS)
