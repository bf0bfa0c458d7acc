"""Studies from the command line: killed and resumed, two launches at once, status and report."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import study
from studies.ledger import Ledger
from studies.plan import merge, read_study
from studies.worker import Worker
from tiny_study import tiny, write
from tiny_text_folders import bert_folder, text_folder

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(path for path in (ROOT / "recipes/configs/study").glob("*.yaml") if not path.name.startswith("_"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def launch(config, folder, *launcher):
    line = [*launcher, "recipes/study.py", "run", "--config", str(config), "--output_dir", str(folder)]
    return subprocess.Popen(
        [sys.executable, *line], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def lines_of(folder):
    path = folder / "results.jsonl"
    return path.read_text().splitlines() if path.is_file() else []


def comparable(line):
    """A result without times and what differs between processes."""
    record = json.loads(line)
    for name in ("seconds", "finished"):
        del record[name]
    del record["training"]["seconds"]
    return record


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The tiny study, run in this process without a break: 2 methods x (2 settings + 2 seeds) = 8 runs."""
    folder = tmp_path_factory.mktemp("whole")
    config = write(folder / "study.config.yaml", tiny())
    study.main(["--config", str(config), "--output_dir", str(folder)])
    return folder


def test_every_run_is_there_once_and_was_told(finished, capsys):
    records = [json.loads(line) for line in lines_of(finished)]
    assert len(records) == 8 and len({record["id"] for record in records}) == 8
    assert [record["final"] for record in records] == [False] * 4 + [True] * 4
    chosen = {}
    for method in ("baseline", "direct"):
        scores = [r["metrics"]["validation"] for r in records if r["method"] == method and not r["final"]]
        chosen[method] = max(range(2), key=lambda s: (scores[s]["accuracy"], -scores[s]["loss"], -s))
    assert {(r["method"], r["seed"], r["setting"]) for r in records if r["final"]} == {
        (method, seed, chosen[method]) for method in chosen for seed in (0, 1)
    }
    assert all(("test" in record["metrics"]) == record["final"] for record in records)
    study.main(["--config", str(finished / "study.config.yaml"), "--output_dir", str(finished)])
    assert "8 runs in" in (printed := capsys.readouterr().out) and "8 of them done" in printed
    assert len(lines_of(finished)) == 8, "what is done is not run again"


def test_a_killed_study_goes_on_and_two_launches_share_what_is_left(finished, tmp_path):
    config = finished / "study.config.yaml"
    first = launch(config, tmp_path)
    end = time.time() + 120
    while len(lines_of(tmp_path)) < 2 and time.time() < end:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(30)
    before = lines_of(tmp_path)
    assert 2 <= len(before) < 8, "it must be killed in the middle"
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"id": "torn')  # as if it had been killed while it wrote
    both = [launch(config, tmp_path) for _ in range(2)]
    printed = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    after = lines_of(tmp_path)
    assert after[: len(before)] == before and after[len(before)] == '{"id": "torn'
    whole = [comparable(line) for line in lines_of(finished)]
    found = [comparable(line) for place, line in enumerate(after) if place != len(before)]
    assert len(found) == 8, "nothing is run twice"
    # Nothing lost, and every number what it would have been: to the last digit
    by_id = {record["id"]: record for record in whole}
    assert {record["id"]: record for record in found} == by_id
    told = [line for text in printed for line in text.splitlines() if re.match(r"\[\d+/8\]", line)]
    assert len(told) == 8 - len(before)


@pytest.mark.slow
def test_processes_of_accelerate_share_the_runs(finished, tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2.yaml"]
    process = launch(finished / "study.config.yaml", tmp_path, *launcher)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    assert printed.count("8 runs in") == 2, "two processes worked"
    found = {record["id"]: record for record in map(comparable, lines_of(tmp_path))}
    assert found == {record["id"]: record for record in map(comparable, lines_of(finished))}
    assert len(lines_of(tmp_path)) == 8 and all(record["hardware"]["processes"] == 1 for record in found.values())


def test_status_and_report(finished, capsys):
    study.main(["status", str(finished)])
    printed = capsys.readouterr().out
    assert printed.startswith("8 of 8 runs done, 0 running, 0 left") and "direct    tuning 2/2  final 2/2" in printed
    study.main(["report", str(finished)])
    page = capsys.readouterr().out
    assert page.strip() == (finished / "report.md").read_text().strip() and "## clean" in page
    records = [json.loads(line) for line in lines_of(finished)]
    mean = sum(r["metrics"]["test"]["accuracy"] for r in records if r["method"] == "direct" and r["final"]) / 2
    assert f"| {mean:.4f} [" in page
    assert str(finished.parent) not in page + (finished / "results.jsonl").read_text(), "no path of this machine"


def test_another_configuration_reuses_what_is_the_same(finished, tmp_path, capsys):
    (tmp_path / "results.jsonl").write_bytes((finished / "results.jsonl").read_bytes())
    (tmp_path / "study.yaml").write_bytes((finished / "study.yaml").read_bytes())
    methods = {**tiny()["methods"], "norm only": {"arguments": {"measure": "none"}}}
    methods["norm only"]["grid"] = {"activation_weight": [0.01, 0.1]}
    config = write(tmp_path / "more.yaml", tiny(methods=methods))
    study.main(["run", "--config", str(config), "--output_dir", str(tmp_path), "--methods", "norm only"])
    printed = capsys.readouterr().out
    assert "12 runs in" in printed and "8 of them done" in printed and "runs of another configuration" in printed
    assert [json.loads(line)["method"] for line in lines_of(tmp_path)[8:]] == ["norm only"] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "drect"], "--methods: unknown method 'drect': did you mean 'direct'"),
        (["--conditions", "noisy"], "--conditions: unknown condition 'noisy': known: clean"),
    ],
)
def test_unknown_names_stop_it_before_training(words, message, tmp_path, capsys):
    config = write(tmp_path / "study.config.yaml", tiny())
    with pytest.raises(SystemExit) as stopped:
        study.main(["run", "--config", str(config), "--output_dir", str(tmp_path / "out"), *words])
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_broken_configuration_and_a_wrong_folder_are_told(tmp_path, capsys):
    config = write(tmp_path / "study.config.yaml", tiny(recipe="images"))
    for words, message in (
        (["run", "--config", str(config), "--output_dir", str(tmp_path / "out")], "recipe is 'images'"),
        (["status", str(tmp_path)], "holds no study.yaml"),
        (["report", str(tmp_path)], "holds no study.yaml"),
    ):
        with pytest.raises(SystemExit):
            study.main(words)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


PLAIN = ("baseline", "weight decay", "dropout", "label smoothing", "fewer epochs")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_understood_and_trains(config, tmp_path):
    """Every setting is parsed, and methods train for two steps on data that are at hand: all, once for each recipe."""
    found, _ = read_study(config)
    assert (
        found.reference == "baseline"
        and len(found.seeds) >= (3 if config.stem.startswith(("map_", "resnet_")) else 5)
        and found.budget >= 3
    )
    worker = Worker(found, Ledger(Path("unused")))
    for condition in found.conditions:
        for run in found.tuning_runs(condition, {"baseline": 0}):
            worker._parse(run, Path("unused"))
    few = {"max_train_samples": 24, "max_validation_samples": 8, "max_steps": 2, "use_cpu": True}
    places = {"dataset": "embedded", "max_test_samples": 8}
    if found.recipe == "text_classification":
        places = {"model": str(bert_folder(tmp_path / "bert")), "dataset": str(text_folder(tmp_path / "texts"))}
        places["pretrained"] = False
    short = dataclasses.replace(
        found, arguments=merge(found.arguments, few, places), conditions={"few": {}}, seeds=found.seeds[:1]
    )
    worker = Worker(short, Ledger(tmp_path / "study"))
    names = list(found.methods)
    methods = (
        names if config.stem in ("fashion_mnist_1k_cnn", "movie_minilm", "map_settings") else names[:: len(names) - 1]
    )
    for run in short.final_runs("few", dict.fromkeys(methods, 0)):
        record = worker.execute(run, tmp_path / "run")
        assert record["status"] == "done" and record["training"]["steps"] == 2, run
        assert record["diversity"]["active"] == (run.method not in PLAIN)
