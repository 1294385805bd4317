"""Messages name options inside a command, and keyword arguments outside."""

import subprocess
import sys
import warnings

import pytest

from xplain.core.errors import UsageError, emit_note
from xplain.core.option_words import in_words_of_caller, option_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "set --activation sigmoid if several labels can apply",
            'set activation="sigmoid" if several labels can apply',
        ),
        ("use a smaller --image-size or another --device", "use a smaller size or another device"),
        ("use --precision fp32", 'use precision="fp32"'),
        ("--labels requires classes; remove --labels", "labels requires classes; remove labels"),
        (
            "choose a layer with --layer NAME, or --layout HxW+PREFIX",
            'choose a layer with layer="NAME", or layout="HxW+PREFIX"',
        ),
        ("choose one, such as --logits aux.head", 'choose one, such as logits="aux.head"'),
        ("set --logits 0 or --logits 1", "set logits=0 or logits=1"),
        ("remove --logits", "remove logits"),
        ("such as --range 0,4095", "such as value_range=(0, 4095) of read_image"),
        ("use --mean and --std if", "use mean and std if"),
        ("load it with --mean M,M,M and --std S,S,S", "load it with mean=[M, M, M] and std=[S, S, S]"),
        ("--offline disables downloads", "offline=True disables downloads"),
        ("load it with --model script:a.pt", 'load it with the model "script:a.pt"'),
        ("check --model and --weights", "check the model and weights"),
        ("unknown method 'x'; see xplain list methods", "unknown method 'x'; see xplain.methods()"),
        (
            "unknown class 'x'; see xplain list classes -m 'python:my net:make'",
            "unknown class 'x'; see classifier.labels",
        ),
        ('use "xplain evaluate DATASET --metric roar"', 'use "xplain evaluate DATASET --metric roar"'),
        ("choose another --output", "choose another --output"),
        ("no such file: '--weights'", "no such file: '--weights'"),
        ("a--limit", "a--limit"),
    ],
)
def test_options_become_keywords_outside_of_a_command(text, expected):
    with option_names(False):
        assert in_words_of_caller(text) == expected
        with option_names():
            assert in_words_of_caller(text) == text
        assert in_words_of_caller(text) == expected


def test_python_programs_get_keywords_without_a_setting():
    code = "import xplain.core.errors as e; print(e.UsageError('--labels requires classes', 'set --limit N'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "labels requires classes; set limit=N\n"


def test_errors_and_notes_use_the_words_of_the_caller():
    with option_names(False):
        error = UsageError("--labels requires classes", "set --activation sigmoid")
    assert (error.message, error.hint) == ("labels requires classes", 'set activation="sigmoid"')
    assert str(error) == 'labels requires classes; set activation="sigmoid"'
    with option_names():
        assert str(UsageError("--labels requires classes", "remove it")) == "--labels requires classes; remove it"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with option_names(False):
            emit_note("set --activation none if it is a value")
        with option_names():
            emit_note("set --activation none if it is a value")
    assert [str(warning.message) for warning in caught] == [
        'set activation="none" if it is a value',
        "set --activation none if it is a value",
    ]
