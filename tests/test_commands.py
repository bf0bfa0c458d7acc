"""Every command of every page that takes long, truly started, as a process of its own: short, offline, on stand-ins.

`make test-slow` runs these; `.venv/bin/python -m pytest -m slow tests/test_commands.py -k study` some of them.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, commands
from hub_folders import make_hub
from shorten import (
    MAKE,
    NOT_STARTED,
    check_outputs,
    copy_seeds,
    good_ends,
    is_known,
    is_run_at_once,
    needed,
    output_of,
    shortened,
)

LONG = [words for words in commands() if words[0] not in NOT_STARTED and not is_run_at_once(words)]
# What git ignores
UNWANTED = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")


def test_every_command_is_run():
    """Whole in test_documents.py, short here, or not at all for a reason that is named."""
    assert len(LONG) > 50
    for words in commands():
        at_once, long = is_run_at_once(words), words in LONG
        assert at_once + long + (words[0] in NOT_STARTED) == 1, words
        assert not long or is_known(words), f"shorten.py says nothing of {shlex.join(words)}"


def test_what_is_said_of_commands_is_said_of_some_page():
    assert {words[0] for words in commands()} >= set(NOT_STARTED)
    assert {words[1] for words in commands() if words[0] == "make"} == set(MAKE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository, with what it needs of the Hub and an environment that starts this interpreter."""
    root = tmp_path_factory.mktemp("typed") / "hf_diversity"
    shutil.copytree(ROOT, root, ignore=UNWANTED)
    make_hub(root)
    for name in (".venv", ".venv-min"):
        python = root / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@" $SHORT\n')
        python.chmod(0o755)
        (root / name / ".installed").touch()
    return root


@pytest.fixture(scope="module")
def type_(checkout, tmp_path_factory):
    """Start a command, and before it those whose outputs it reads, each once; return what it printed."""
    printed = {}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout), "HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1",
    }  # fmt: skip

    def start(words):
        if words not in printed:
            for other in needed(words):
                start(other)
            if "recipes/compare.py" in words:
                copy_seeds(words[2:])
            if output := output_of(words):  # another command of the page may have left it
                shutil.rmtree(output, ignore_errors=True)
            short = {"SHORT": MAKE[words[1]] if words[0] == "make" else ""}
            done = subprocess.run(shortened(words), env=environment | short, capture_output=True, text=True)
            assert done.returncode in good_ends(words), (
                f"{shlex.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
            )
            printed[words] = done.stdout
        return printed[words]

    return start


@pytest.mark.slow
@pytest.mark.parametrize("words", LONG, ids=shlex.join)
def test_the_command_ends_well_and_leaves_what_it_promises(words, checkout, type_, monkeypatch):
    monkeypatch.chdir(checkout)
    check_outputs(words, type_(words))
