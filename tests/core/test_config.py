"""Tests of xplain.core.config."""

from __future__ import annotations

import pytest

from xplain.core.config import Choice
from xplain.core.config_file import read_config_file, read_toml
from xplain.core.errors import InputError, UsageError
from xplain.core.options import ComputeOptions, ModelOptions, RenderOptions

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
    assert str(error.value) == f"invalid parameter {part!r} in {text!r}; use NAME:key=value,key=value"


@pytest.mark.parametrize("text", ["", " ", ":steps=3"])
def test_choice_rejects_missing_name(text):
    with pytest.raises(UsageError, match="does not start with a name"):
        Choice.parse(text)


def test_choice_rejects_repeated_parameter():
    with pytest.raises(UsageError) as error:
        Choice.parse("agi:steps=1,steps=2")
    assert str(error.value) == "parameter 'steps' is set more than once in 'agi:steps=1,steps=2'; set it only once"
    with pytest.raises(UsageError, match="'step_size' is set more than once"):
        Choice.parse("agi:step-size=1,step_size=1")


def test_option_group_defaults():
    assert ModelOptions() == ModelOptions("efficientnet-lite0", None, None, None, "auto", False)
    assert ComputeOptions() == ComputeOptions("fp32", None, 0)
    assert RenderOptions() == RenderOptions((80.0, 99.0), "positive", "sum", "auto", 0.8)


@pytest.mark.parametrize(
    ("options", "name"),
    [({}, "inferno"), ({"sign": "signed"}, "RdBu_r"), ({"sign": "signed", "cmap": "viridis"}, "viridis")],
)
def test_render_options_choose_colormap(options, name):
    assert RenderOptions(**options).colormap == name


@pytest.fixture
def read(tmp_path):
    """Write a configuration file and read it for a command."""

    def write_and_read(text: str | bytes, command: str = "explain"):
        path = tmp_path / "x.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config_file(path, command, OPTIONS, COMMANDS)

    return write_and_read


def test_top_level_options_apply_everywhere(read):
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


@pytest.mark.parametrize("text", ["seed = ", "seed = 1\nseed = 2\n", b"\xff\xfea"])
def test_invalid_toml_raises_input_error(read, text):
    with pytest.raises(InputError, match=r"cannot read the configuration file '.*x\.toml'") as error:
        read(text)
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_published_table_needs_evaluate(read):
    text = "seed = 1\n[published]\nsource = 'a paper'\n"
    assert read(text, "evaluate") == {"seed": 1}
    with pytest.raises(UsageError, match=r"unknown table \[published\] in .*; use it only with evaluate"):
        read(text, "explain")


def test_missing_config_file_raises_input_error(tmp_path):
    with pytest.raises(InputError, match=r"gone\.toml"):
        read_config_file(tmp_path / "gone.toml", "explain", OPTIONS, COMMANDS)


def test_missing_configuration_file_names_the_way_out(tmp_path):
    with pytest.raises(
        InputError, match=r"cannot read the configuration file '.*': No such file or directory; check the path"
    ):
        read_toml(tmp_path / "none.toml")
