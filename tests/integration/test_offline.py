"""--offline: no command downloads anything, and local files are used."""

from __future__ import annotations

import json
import os
import re
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
# Runs a command twice while connections fail; in between, it moves a folder to where the command looks for it.
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
    """Disable the network and return the list of attempted connections."""
    attempts = []

    def refuse(*arguments: object, **_: object) -> None:
        attempts.append(arguments)
        raise OSError("no network in tests")

    for owner, name in ((socket.socket, "connect"), (socket, "getaddrinfo"), (torch.hub, "urlopen")):
        monkeypatch.setattr(owner, name, refuse)
    return attempts


def write_checkpoint(home: Path) -> Path:
    """Write an untrained checkpoint to the download folder of torchvision."""
    path = home / "hub" / "checkpoints" / FILE
    path.parent.mkdir(parents=True)
    torch.save(models.get_model(NET, weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_offline_commands_download_nothing(xp, photos, home, connections, command):
    ran = xp(*COMMANDS[command], "-m", NET, "--device", "cpu", "--offline")
    assert (ran.code, ran.out, connections) == (3, "", [])
    assert ran.err == (
        f"xplain: error: weights of {NET} not found at {home}/hub/checkpoints/{FILE}, "
        "and --offline disables downloads; put the file there or use --weights FILE\n"
    )
    assert not home.exists()


def test_online_explain_downloads_weights(xp, home, connections):
    ran = xp("explain", CAT, "-m", NET, "--device", "cpu")
    assert (ran.code, len(connections)) == (3, 1)
    assert "no network in tests" in ran.err


def test_offline_uses_local_weights(xp, home, connections, monkeypatch):
    path = write_checkpoint(home)
    monkeypatch.setenv("XPLAIN_OFFLINE", "1")
    ran = xp("explain", CAT, "-m", NET, "--device", "cpu", "-a", "saliency", "--json")
    assert (ran.code, connections) == (0, [])
    assert ran.records[0]["model"]["weights"]["source"] == str(path)


def test_offline_models_without_download(xp, home, connections):
    for flags in (["-m", "efficientnet-lite0"], ["-m", NET, "--weights", "random"]):
        ran = xp("explain", CAT, *flags, "--device", "cpu", "-a", "saliency", "--offline", "--overwrite")
        assert (ran.code, connections) == (0, [])


def test_offline_data_sets_download_nothing(xp, home, connections):
    ran = xp("evaluate", "torchvision:CIFAR10:data", "-M", "roar", "-a", "saliency", "--device", "cpu", "--offline")
    assert (ran.code, connections) == (3, [])
    assert ran.err.startswith("xplain: error: CIFAR10 is missing or incomplete in 'data'; download it with: python -c ")


def test_offline_timm_uses_hub_cache(tmp_path):
    """Runs in a separate process, since huggingface_hub reads its mode when it is imported."""
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
    error, result, codes = ran.stderr.splitlines()
    assert re.fullmatch(r"xplain: \S*cat\.jpg: saliency: .* \d\.\d+", result)
    assert codes == "3 0"
    assert error.startswith(f"xplain: error: cannot load the weights of timm:{TIMM} without a download (--offline): ")
    assert error.endswith("; use --weights FILE")
    record = json.loads(ran.stdout)
    clf = xplain.load_classifier(f"timm:{TIMM}", device="cpu", weights=place / weights)
    x = xplain.read_image(CAT, preprocessing=clf.preprocessing)[None]
    assert record["target"]["probability"] == pytest.approx(float(clf(x).detach().softmax(dim=1).max()), abs=1e-5)


@pytest.fixture
def url_model(monkeypatch):
    """Return a timm model whose weights come from a URL, not from the Hugging Face hub."""
    timm = pytest.importorskip("timm")
    from timm.models import _builder

    cfg = timm.get_pretrained_cfg(TIMM)
    url_cfg = replace(cfg, hf_hub_id=None, url="https://example.org/net-0123abcd.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda *_, **__: url_cfg)
    monkeypatch.setattr(_builder, "get_pretrained_cfg", lambda *_, **__: url_cfg)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # restored after the test
    return f"timm:{TIMM}"


def test_offline_timm_uses_torch_cache(url_model, home, connections, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        xplain.load_classifier(url_model, device="cpu", offline=True)
    assert str(error.value) == (
        f"weights of {url_model} not found at {home}/hub/checkpoints/net-0123abcd.pth, "
        "and --offline disables downloads; put the file there or use --weights FILE"
    )
    assert connections == []


@pytest.mark.parametrize(
    ("url", "digits"),
    [("https://example.org/net-0123abcd.pth", "0123abcd"), ("https://example.org/net-300e.pth", None)],
)
def test_timm_url_checks_hash(url_model, home, monkeypatch, url, digits):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm.get_pretrained_cfg(TIMM), "url", url)
    downloads = []

    def download(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        downloads.append((url, hash_prefix))
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match="no network in tests"):
        xplain.load_classifier(url_model, device="cpu")
    assert downloads == [(url, digits)]


def test_offline_rejects_online_hub(url_model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match="set HF_HUB_OFFLINE=1 before starting Python"):
        xplain.load_classifier(url_model, device="cpu", offline=True)
