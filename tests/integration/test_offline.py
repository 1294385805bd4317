"""--offline: no command downloads anything, and what is there already is used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision import models

import xplain
from tests.conftest import ROOT, SAMPLES
from xplain.core.errors import InputError, UsageError

CAT = SAMPLES / "cat.jpg"
NET = "squeezenet1_1"
FILE = models.get_model_weights(NET).DEFAULT.url.rpartition("/")[2]
COMMANDS = {
    "explain": ["explain", CAT],
    "evaluate": ["evaluate", "photos"],
    "compare": ["compare", CAT],
    "bench": ["bench"],
    "list": ["list", "methods"],
}
# Runs a command twice where every connection is a bug; in between, a folder is put in its place.
TWICE = """
import os, socket, sys
def refuse(*_, **__): raise AssertionError("asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from xplain.cli.app import run
folder, place, *command = sys.argv[1:]
before = run(command)
os.renames(folder, place)
print(before, run(command), file=sys.stderr)
"""
TIMM = "test_resnet.r160_in1k"  # half a million weights


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty TORCH_HOME."""
    folder = tmp_path / "home"
    monkeypatch.setenv("TORCH_HOME", str(folder))
    return folder


@pytest.fixture
def connections(monkeypatch) -> list[object]:
    """What was asked of the network, where there is none."""
    asked = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network in tests")

    for place, name in ((socket.socket, "connect"), (socket, "getaddrinfo"), (torch.hub, "urlopen")):
        monkeypatch.setattr(place, name, refuse)
    return asked


def put(home: Path) -> Path:
    """An untrained checkpoint where torchvision keeps what it downloads."""
    path = home / "hub" / "checkpoints" / FILE
    path.parent.mkdir(parents=True)
    torch.save(models.get_model(NET, weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_downloads_weights(xp, photos, home, connections, command):
    ran = xp(*COMMANDS[command], "-m", NET, "--device", "cpu", "--offline")
    assert (ran.code, ran.out, connections) == (3, "", [])
    assert ran.err == (
        f"xplain: error: the weights of {NET} are missing at {home}/hub/checkpoints/{FILE}, "
        "and --offline downloads nothing; put the file there, or use --weights FILE\n"
    )
    assert not home.exists()


def test_without_the_option_the_network_is_asked(xp, home, connections):
    ran = xp("explain", CAT, "-m", NET, "--device", "cpu")
    assert (ran.code, len(connections)) == (3, 1)
    assert "no network in tests" in ran.err


def test_weights_that_are_there_are_used(xp, home, connections, monkeypatch):
    path = put(home)
    monkeypatch.setenv("XPLAIN_OFFLINE", "1")
    ran = xp("explain", CAT, "-m", NET, "--device", "cpu", "-a", "saliency", "--json")
    assert (ran.code, connections) == (0, [])
    assert ran.records[0]["model"]["weights"]["source"] == str(path)


def test_models_that_need_no_download_are_as_ever(xp, home, connections):
    for flags in (["-m", "efficientnet-lite0"], ["-m", NET, "--weights", "random"]):
        ran = xp("explain", CAT, *flags, "--device", "cpu", "-a", "saliency", "--offline", "--overwrite")
        assert (ran.code, connections) == (0, [])


def test_data_sets_are_not_downloaded_either(xp, home, connections):
    ran = xp("evaluate", "torchvision:CIFAR10:data", "-M", "roar", "-a", "saliency", "--device", "cpu", "--offline")
    assert (ran.code, connections) == (3, [])
    assert ran.err.startswith("xplain: error: no whole CIFAR10 in 'data'; get it once by python -c ")


# -------------------------------------------------------------------------------------------------- timm


def test_timms_models_come_from_the_hubs_cache_or_not_at_all(tmp_path):
    """In a process of its own, as the hub's client looks its mode up when it is imported."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    commit = "0" * 40
    weights = Path("snapshots", commit, "model.safetensors")
    (tmp_path / "made" / weights).parent.mkdir(parents=True)
    (tmp_path / "made" / "refs").mkdir()
    (tmp_path / "made" / "refs" / "main").write_text(commit)
    torch.manual_seed(0)
    save_file(timm.create_model(TIMM, pretrained=False).state_dict(), tmp_path / "made" / weights)

    place = tmp_path / "hub" / "hub" / f"models--timm--{TIMM}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XPLAIN_"))}
    environment |= {"HF_HOME": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch"), "PYTHONPATH": str(ROOT)}
    command = ["explain", CAT, "-m", f"timm:{TIMM}", "-a", "saliency", "--device", "cpu", "--offline", "--json"]
    ran = subprocess.run(
        [sys.executable, "-c", TWICE, *map(str, (tmp_path / "made", place, *command))],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    error, codes = ran.stderr.splitlines()
    assert codes == "3 0"
    assert error.startswith(f"xplain: error: cannot load the weights of timm:{TIMM} without a download (--offline): ")
    assert error.endswith("; use --weights FILE")
    record = json.loads(ran.stdout)
    clf = xplain.load_classifier(f"timm:{TIMM}", device="cpu", weights=place / weights)
    x = xplain.read_image(CAT, preprocessing=clf.preprocessing)[None]
    assert record["target"]["probability"] == pytest.approx(float(clf(x).detach().softmax(dim=1).max()), abs=1e-5)


@pytest.fixture
def elsewhere(monkeypatch):
    """timm with a model whose weights are not the hub's, but lie under a URL."""
    timm = pytest.importorskip("timm")
    from timm.models import _builder

    cfg = timm.get_pretrained_cfg(TIMM)
    own = replace(cfg, hf_hub_id=None, url="https://example.org/net-0123abcd.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda *_, **__: own)
    monkeypatch.setattr(_builder, "get_pretrained_cfg", lambda *_, **__: own)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that it is put back
    return f"timm:{TIMM}"


def test_timms_other_files_are_looked_for_where_torch_keeps_them(elsewhere, home, connections, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        xplain.load_classifier(elsewhere, device="cpu", offline=True)
    assert str(error.value) == (
        f"the weights of {elsewhere} are missing at {home}/hub/checkpoints/net-0123abcd.pth, "
        "and --offline downloads nothing; put the file there, or use --weights FILE"
    )
    assert connections == []


@pytest.mark.parametrize(
    ("url", "digits"),
    [("https://example.org/net-0123abcd.pth", "0123abcd"), ("https://example.org/net-300e.pth", None)],
)
def test_timms_other_files_are_checked_against_the_hash_in_their_name(elsewhere, home, monkeypatch, url, digits):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm.get_pretrained_cfg(TIMM), "url", url)
    asked = []

    def download(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append((url, hash_prefix))
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match="no network in tests"):
        xplain.load_classifier(elsewhere, device="cpu")
    assert asked == [(url, digits)]


def test_a_hub_that_was_imported_online_is_refused(elsewhere, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match="set HF_HUB_OFFLINE=1 before Python starts"):
        xplain.load_classifier(elsewhere, device="cpu", offline=True)
