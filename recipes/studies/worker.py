"""The runs of a study, one after another, until none is left."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import math
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from common.arguments import DataArguments, parse_values
from common.calibration import with_calibration
from common.data import Splits, load_splits
from common.recipe import Prepared, run_recipe

from hf_diversity import DiversityConfig
from hf_diversity.cards.settings import plain
from hf_diversity.layers import find_layers
from hf_diversity.regularizer import NonFiniteRegularizerError
from studies.ledger import Ledger
from studies.plan import Run, Study, open_runs

# A run's own copy of what is the same in every line, and curves that nobody logged.
LEFT_OUT = ("history", "figures", "command", "name")
DISTRIBUTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
POLL_SECONDS = 1.0


class Worker:
    """Executes runs of a study in this process.

    Args:
        study: what is to be run.
        ledger: where results go.
        data_root: a folder whose `fashion_mnist` takes the place of the data set `zalando-datasets/fashion_mnist`, and
            so on for every data set, model, tokenizer and file of weights.
        methods: those to run; default all.
        conditions: those to run; default all.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        data_root: Path | None = None,
        methods: Collection[str] | None = None,
        conditions: Collection[str] | None = None,
    ):
        """See the class."""
        self.study, self.ledger, self.data_root = study, ledger, data_root
        self.methods = set(study.methods if methods is None else methods)
        self.conditions = set(study.conditions if conditions is None else conditions)
        self.recipe = importlib.import_module(study.recipe)
        self._splits: tuple[str, Splits] | None = None

    def check(self) -> None:
        """Try everything that may be wrong before anything is trained.

        Every setting is parsed, the data of every condition loaded, and the model of every method built.

        Raises:
            ValueError: says in which condition, method or setting.
        """
        for condition in self.study.conditions:
            built = set()
            for run in self.study.tuning_runs(condition, {self.study.reference: 0}):
                if run.seed != self.study.tuning_seeds[0]:
                    break
                arguments = self._parse(run, Path("."))
                if run.method not in built:
                    built.add(run.method)
                    try:
                        prepared = self.recipe.prepare(arguments[0], arguments[1], self._load(arguments[1]))
                        diversity = arguments[self.recipe.TYPES.index(DiversityConfig)]
                        find_layers(prepared.model, diversity.layers, diversity.drop_prefix_tokens)
                    except ValueError as error:
                        raise ValueError(f"condition {condition!r}, method {run.method!r}: {error}") from error

    def work(self, finished: Callable[[dict[str, Any]], None]) -> None:
        """Run until nothing is left.

        What another launch is running is waited for: the final runs depend on all tuning runs of their method.

        Args:
            finished: called with the record of each run that this process has finished.
        """
        self.ledger.create()
        while waiting := self._waiting():
            if not any(self._try(run, finished) for run in waiting):
                time.sleep(POLL_SECONDS)

    def _waiting(self) -> list[Run]:
        runs = open_runs(self.study, self.ledger.records())
        return [run for run in runs if run.method in self.methods and run.condition in self.conditions]

    def _try(self, run: Run, finished: Callable[[dict[str, Any]], None]) -> bool:
        """Execute a run, unless another process has it or has just finished it."""
        with self.ledger.claim(run.id) as folder:
            if folder is None or run.id in self.ledger.records():
                return folder is not None
            record = self.execute(run, folder)
            self.ledger.append(record)
        finished(record)
        return True

    def execute(self, run: Run, folder: Path) -> dict[str, Any]:
        """Train and evaluate; return the line for the results file.

        A run that diverges has a result as well: that it did.
        """
        start = time.perf_counter()
        arguments = self._parse(run, folder)
        record: dict[str, Any] = {
            "id": run.id,
            "condition": run.condition,
            "method": run.method,
            "setting": run.setting,
            "seed": run.seed,
            "final": run.is_final,
            "status": "done",
            "recipe": run.recipe,
            "fields": dict(run.fields),
        }
        try:
            results = run_recipe(self._load, self._prepare, *arguments, callbacks=[])
        except NonFiniteRegularizerError as error:
            results = {"error": str(error)}
        if not _is_finite(results.get("metrics")):
            record["status"] = "diverged"
        record |= {key: value for key, value in results.items() if key not in LEFT_OUT}
        now = datetime.datetime.now(datetime.UTC)
        record |= {"seconds": time.perf_counter() - start, "finished": now.isoformat(timespec="seconds")}
        return plain(record)

    def _load(self, arguments: DataArguments) -> Splits:
        """The examples, loaded once for runs on the same ones that follow one another."""
        key = repr(arguments)
        if self._splits is None or self._splits[0] != key:
            self._splits = None  # let go of the old ones first
            self._splits = (key, load_splits(arguments))
        return self._splits[1]

    def _prepare(self, *arguments: Any) -> Prepared:
        prepared = self.recipe.prepare(*arguments)
        return dataclasses.replace(prepared, scoring=with_calibration(prepared.scoring))

    def _parse(self, run: Run, folder: Path) -> tuple[Any, ...]:
        fields = {name: self._place(name, value) for name, value in run.fields.items()}
        source = f"condition {run.condition!r}, method {run.method!r}, setting {run.setting + 1}"
        return parse_values(self.recipe.TYPES, {**fields, "output_dir": str(folder)}, source)

    def _place(self, name: str, value: Any) -> Any:
        if name not in ("dataset", "test_dataset", "model", "tokenizer", "weights") or self.data_root is None:
            return value
        place = self.data_root / Path(str(value)).name
        return str(place) if place.exists() else value


def _is_finite(metrics: dict[str, dict[str, float | None]] | None) -> bool:
    values = [value for split in (metrics or {}).values() for value in split.values()]
    return bool(values) and all(value is not None and math.isfinite(value) for value in values)


def work_alone() -> None:
    """Make a process that accelerate started one launch among several: runs are shared, not trained jointly.

    Each takes one GPU, that of its rank, if there are any. Call it before anything asks for a device.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Empty means none, and leaves the CPU.
    devices = [str(place) for place in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    if devices and devices != [""]:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(os.environ.get("LOCAL_RANK", "0")) % len(devices)]
    for name in DISTRIBUTED:
        os.environ.pop(name, None)
