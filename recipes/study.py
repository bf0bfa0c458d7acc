"""Compare methods over seeds and conditions, each with settings chosen on validation by the same budget.

    python recipes/study.py run --config recipes/configs/study/fashion_mnist_1k_cnn.yaml [--data_root DIR]
    python recipes/study.py status outputs/study/fashion_mnist_1k_cnn
    python recipes/study.py report outputs/study/fashion_mnist_1k_cnn

A study that was stopped goes on where it was. Several launches may share a folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from common.arguments import unknown_name
from common.terminal import quiet
from studies.ledger import Ledger
from studies.plan import Study, make_study, read_study
from studies.progress import finished_runs, readable, status, time_left
from studies.worker import Worker, work_alone


def run(options: argparse.Namespace) -> None:
    """Run what is left of a study."""
    work_alone()
    quiet()
    logging.getLogger("hf_diversity").setLevel(logging.ERROR)  # the same lines for every run
    torch.set_num_threads(options.threads)
    study, values = read_study(options.config)
    folder = options.output_dir or Path("outputs") / "study" / options.config.stem
    for kind, names, known in (
        ("method", options.methods, study.methods),
        ("condition", options.conditions, study.conditions),
    ):
        for name in names or ():
            if name not in known:
                raise ValueError(f"--{kind}s: {unknown_name(kind, name, list(known))}")
    ledger = Ledger(folder)
    worker = Worker(study, ledger, options.data_root, options.methods, options.conditions)
    worker.check()
    ledger.create()
    _keep_config(folder, values)
    _say(f"{study.size} runs in {folder}, {finished_runs(study, ledger.records())} of them done")

    def finished(record: dict[str, Any]) -> None:
        records = ledger.records()
        left = time_left(study, records, max(1, len(ledger.running())))
        _say(f"[{finished_runs(study, records)}/{study.size}] {_line(record)}; left: {readable(left or 0.0)}")

    worker.work(finished)
    _say(f"done; python recipes/study.py report {folder}")


def show_status(options: argparse.Namespace) -> None:
    """Print how far a study is."""
    ledger = Ledger(options.folder)
    print(status(stored_study(options.folder), ledger.records(), ledger.running()))


def write_report(options: argparse.Namespace) -> None:
    """Write the report of a study, finished or not."""
    try:
        from studies.report import write
    except ImportError as error:
        raise ValueError(f'{error}: the report needs more packages; type: pip install -e ".[recipes]"') from error
    print(write(options.folder, stored_study(options.folder), Ledger(options.folder).records()))


def stored_study(folder: Path) -> Study:
    """Return the study that a folder holds.

    Raises:
        ValueError: it holds none.
    """
    path = folder / "study.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} holds no study.yaml: name the folder of a study, the output_dir of `study.py run`")
    return make_study(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


def _keep_config(folder: Path, values: dict[str, Any]) -> None:
    """Keep the configuration beside the results, for `status` and `report`."""
    path = folder / "study.yaml"
    if path.is_file() and yaml.safe_load(path.read_text(encoding="utf-8")) != values:
        _say(f"{folder} holds runs of another configuration: those that are the same in this one are not run again")
    partial = folder / f"study.yaml.{os.getpid()}"
    partial.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    partial.replace(path)


def _line(record: dict[str, Any]) -> str:
    stage = "final" if record["final"] else f"setting {record['setting'] + 1}"
    found = "diverged"
    if record["status"] == "done":
        shown = ("validation", "test") if record["final"] else ("validation",)
        found = ", ".join(f"{split} accuracy {record['metrics'][split]['accuracy']:.4f}" for split in shown)
    run = f"{record['condition']}, {record['method']}, {stage}, seed {record['seed']}"
    return f"{run}: {found}, {record['seconds']:.1f} s"


def _say(text: str) -> None:
    print(text, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line; `run` may be left out."""
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0].startswith("--config"):
        words.insert(0, "run")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="{run,status,report}")
    runs = commands.add_parser("run", help="run what is left", allow_abbrev=False)
    runs.add_argument("--config", type=Path, required=True, help="YAML file of the study")
    runs.add_argument("--output_dir", type=Path, help="folder of the study; default outputs/study/NAME of the file")
    runs.add_argument(
        "--data_root", type=Path, help="folder with local copies: DIR/cifar10 takes the place of uoft-cs/cifar10"
    )
    runs.add_argument("--methods", nargs="+", help="run these methods alone; default all")
    runs.add_argument("--conditions", nargs="+", help="run these conditions alone; default all")
    runs.add_argument("--threads", type=int, default=1, help="threads of torch; small networks gain nothing from more")
    runs.set_defaults(command=run)
    for name, command, text in (
        ("status", show_status, "say what is done, running and left"),
        ("report", write_report, "write report.md, report.json and figures into the folder"),
    ):
        other = commands.add_parser(name, help=text, allow_abbrev=False)
        other.add_argument("folder", type=Path, help="folder of the study")
        other.set_defaults(command=command)
    options = parser.parse_args(words)
    try:
        options.command(options)
    except ValueError as error:
        parser.exit(2, f"study.py: {error}\n")


if __name__ == "__main__":
    main()
