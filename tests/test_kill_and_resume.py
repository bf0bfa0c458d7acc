"""A run that is killed and resumed ends as the run that was not, bit for bit: all that is in its last checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from launch import SCRIPTS, launch
from safetensors.torch import load_file
from tiny import assert_same

# The model has 33 kB and the optimiser twice that
FULL = {"full at the model": 8_192, "full at the optimiser": 45_000}
DEATHS = ("step", "model", "optimizer", "state", "rename", "deletion")


def history(folder):
    records = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{key: value for key, value in r.items() if "runtime" not in key and "second" not in key} for r in records]


def assert_same_checkpoint(first, second):
    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in second.iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "diversity_state.json"} < names
    assert_same(load_file(first / "model.safetensors"), load_file(second / "model.safetensors"), rtol=0, atol=0)
    for name in names:
        if name in ("optimizer.pt", "scheduler.pt") or name.startswith("rng_state"):
            one, other = (torch.load(folder / name, weights_only=False) for folder in (first, second))
            assert_equal(one, other)
    gammas = [json.loads((folder / "diversity_state.json").read_text()) for folder in (first, second)]
    assert gammas[0] == gammas[1] and gammas[0]["gamma"]
    assert history(first) == history(second) and len(history(first)) == 6


def assert_equal(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for item, another in zip(one, other, strict=True):
            assert_equal(item, another)
    else:  # numbers, tensors, numpy arrays
        assert type(one) is type(other) and numpy.array_equal(one, other), (one, other)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    plan = [{"folder": str(folder / "whole"), "resume": False}]
    for death in DEATHS:
        run = {"folder": str(folder / death), "save_total_limit": 1 if death == "deletion" else None}
        plan += [{**run, "resume": False, "die": death}, {**run, "resume": True}]
    for name, largest_file in FULL.items():
        run = {"folder": str(folder / name), "save_total_limit": 1}
        plan += [{**run, "resume": False, "largest_file": largest_file}, {**run, "resume": True}]
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, SCRIPTS / "killed.py", json.dumps(plan)]
    subprocess.run(command, check=True, timeout=240, env=environment)
    return folder


@pytest.mark.parametrize("death", DEATHS)
def test_killed_and_resumed_is_the_uninterrupted_run(runs, death):
    assert_same_checkpoint(runs / "whole" / "checkpoint-12", runs / death / "checkpoint-12")
    left = {path.name for path in (runs / death).iterdir()}
    assert left == ({"checkpoint-12"} if death == "deletion" else {"checkpoint-4", "checkpoint-8", "checkpoint-12"})


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_leaves_the_checkpoint_before_it_whole_and_says_so(runs, name):
    error = json.loads((runs / name / "error.json").read_text())
    before = str(runs / name / "checkpoint-4")
    assert error["found"] == ["checkpoint-4"]  # save_total_limit=1 has not deleted it, nothing half-written is left
    for words in (f"checkpoint-8 could not be written in {runs / name} (", "checkpoint-4 is whole", "free some space",
                  f"trainer.train(resume_from_checkpoint={before!r})"):  # fmt: skip
        assert words in error["message"]
    assert_same_checkpoint(runs / "whole" / "checkpoint-12", runs / name / "checkpoint-12")


@pytest.mark.slow
def test_two_processes_killed_while_saving_resume_the_uninterrupted_run(tmp_path):
    def run(name, **settings):
        plan = [{"folder": str(tmp_path / name), "per_device_train_batch_size": 1, **settings}]
        launch(SCRIPTS / "killed.py", json.dumps(plan))

    run("whole", resume=False)
    with pytest.raises(AssertionError, match="SIGKILL"):
        run("killed", resume=False, die="optimizer")
    # the process that lives on may have removed what was written
    assert {path.name for path in (tmp_path / "killed").iterdir()} - {"_incomplete"} == {"checkpoint-4"}
    run("killed", resume=True)
    assert_same_checkpoint(tmp_path / "whole" / "checkpoint-12", tmp_path / "killed" / "checkpoint-12")
    assert (tmp_path / "killed" / "checkpoint-12" / "rng_state_1.pth").is_file()
