"""`hf-diversity env`: enough for a bug report, and nobody's name."""

import getpass
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

import hf_diversity
from hf_diversity import environment
from hf_diversity.cli import main


def printed(capsys, *arguments):
    assert main(["env", *arguments]) == 0
    return capsys.readouterr().out


def test_json(capsys):
    found = json.loads(printed(capsys, "--json"))
    versions = found["versions"]
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__
    assert versions["transformers"] == transformers.__version__
    assert versions["hf_diversity"] == hf_diversity.__version__
    assert {"python", "accelerate", "datasets", "evaluate", "timm", "peft", "matplotlib", "trl"} <= versions.keys()
    assert found["cpu"]["cores"] == os.cpu_count() and found["gpus"] == [] and found["processes"] == 1


def test_text_names_what_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr(environment, "OPTIONAL", ("no-such-package",))
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    lines = dict(line.split(maxsplit=1) for line in printed(capsys).splitlines())
    assert lines["no-such-package"] == "not installed"
    assert lines["torch"] and lines["gpu"] == "none"
    assert lines["processes"] == "3" and lines["OMP_NUM_THREADS"] == "7"


def test_gpus(capsys, monkeypatch):
    card = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    gpu = {"name": "Some GPU", "memory_gib": 80.0, "capability": "9.0"}
    assert json.loads(printed(capsys, "--json"))["gpus"] == [gpu, gpu]
    assert printed(capsys).count("Some GPU, 80.0 GiB, capability 9.0") == 2


def test_no_names_of_users_machines_or_folders(capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", "/home/somebody/secret")
    output = printed(capsys) + printed(capsys, "--json")
    for path in (str(Path.home()), str(Path.cwd()), "somebody"):
        assert len(path) > 3 and path not in output
    assert not {getpass.getuser(), socket.gethostname()} & set(output.split())


def test_help_lists_the_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "env " in capsys.readouterr().out
