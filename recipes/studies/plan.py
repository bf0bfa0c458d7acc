"""What a study consists of: conditions, methods, their settings and seeds, and the runs that follow from them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from common.arguments import read_values, unknown_name

RECIPES = ("image_classification", "text_classification")
SELECTIONS = ("accuracy", "loss")
KEYS = ("recipe", "select_by", "seeds", "tuning_seeds", "arguments", "conditions", "methods")
METHOD_KEYS = ("arguments", "settings", "grid")
# One seed draws everything: the examples, the noise of their labels, the first weights and the order of the batches.
SEEDS = ("seed", "split_seed", "label_noise_seed")
# The study decides about these; everything else may be set.
OWN = (
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "keep_files",
    "evaluate_test",
    "figures",
    *SEEDS,
)
DEFAULTS = {"eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no", "report_to": "none"}
DEFAULTS |= {"disable_tqdm": True, "diagnostics": True, "measure_similarity": True}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        condition: name of the condition.
        method: name of the method.
        setting: place of the setting among the method's.
        seed: of everything random.
        is_final: the test set is evaluated; if not, the run serves the choice of a setting, and sees no test example.
        recipe: name of the recipe.
        fields: arguments of the recipe.
    """

    condition: str
    method: str
    setting: int
    seed: int
    is_final: bool
    recipe: str
    fields: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """Digest of all that decides about the outcome: equal runs of two studies are one run."""
        text = json.dumps({"recipe": self.recipe, "fields": self.fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """Say which run it is."""
        stage = "final" if self.is_final else f"tuning, setting {self.setting + 1}"
        return f"{self.condition}, {self.method}, seed {self.seed} ({stage})"


@dataclass(frozen=True)
class Study:
    """Conditions x methods x seeds, each method with as many settings to choose from.

    Attributes:
        recipe: "image_classification" or "text_classification".
        select_by: metric of the validation set by which a setting is chosen, "accuracy" or "loss".
        seeds: of the final runs.
        tuning_seeds: of the runs that settings are chosen by; others than those of the final runs.
        arguments: of the recipe, for all runs.
        conditions: arguments by name, for example of the number of training examples or the label noise.
        methods: settings by name; the first is the reference that the others are compared with. Theirs are put on top
            of its chosen setting: at a learning rate of its own, even a method that does nothing would change the gap.
    """

    recipe: str
    select_by: str
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]
    arguments: Mapping[str, Any]
    conditions: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return next(iter(self.methods))

    @property
    def budget(self) -> int:
        """Settings of each method."""
        return len(self.methods[self.reference])

    @property
    def size(self) -> int:
        """Number of runs."""
        return len(self.conditions) * len(self.methods) * (self.budget * len(self.tuning_seeds) + len(self.seeds))

    def tuning_runs(self, condition: str, chosen: Mapping[str, int]) -> Iterator[Run]:
        """The runs that settings are chosen by: the reference's, and, once `chosen` holds its setting, all others'.

        Seed by seed, so that runs on the same data follow one another.
        """
        methods = self.methods if self.reference in chosen else [self.reference]
        for seed, method in itertools.product(self.tuning_seeds, methods):
            for setting in range(self.budget):
                yield self._run(condition, method, setting, seed, chosen, is_final=False)

    def final_runs(self, condition: str, chosen: Mapping[str, int]) -> Iterator[Run]:
        """The final runs of the methods in `chosen`, with the setting chosen for each."""
        for seed, method in itertools.product(self.seeds, self.methods):
            if method in chosen:
                yield self._run(condition, method, chosen[method], seed, chosen, is_final=True)

    def _run(
        self, condition: str, method: str, setting: int, seed: int, chosen: Mapping[str, int], is_final: bool
    ) -> Run:
        parts = [DEFAULTS, self.arguments, self.conditions[condition]]
        if method != self.reference:
            parts.append(self.methods[self.reference][chosen[self.reference]])
        fields = merge(*parts, self.methods[method][setting])
        fields |= {"keep_files": False, "figures": False, "evaluate_test": is_final, **dict.fromkeys(SEEDS, seed)}
        if not is_final:
            fields |= {"measure_similarity": False, "diagnostics": False}
        return Run(condition, method, setting, seed, is_final, self.recipe, fields)


def merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields; later parts win, and mappings (`model_args`) are merged key by key."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = merged.get(key)
            merged[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_study(path: Path) -> tuple[Study, dict[str, Any]]:
    """Read a configuration of a study.

    What a file says takes the place of what its `base` says, key by key; `arguments` are added to those of the base.

    Returns:
        The study, and the values of the file with those of its `base`.

    Raises:
        ValueError: the file is not there or broken, or methods have budgets of unequal size; says where.
    """
    values = read_values(path, _fail, _on_top)
    return make_study(values, f"--config {path}"), values


def _on_top(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Arguments are added to those of the base; everything else takes the place of its."""
    return {**base, **own, "arguments": merge(base.get("arguments") or {}, own.get("arguments") or {})}


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


def make_study(values: Mapping[str, Any], source: str) -> Study:
    """Make a study of the values of a configuration.

    Args:
        values: by key, `KEYS`.
        source: where they come from, for the errors.

    Raises:
        ValueError: a value is missing, unknown or does not fit.
    """

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{source}: {message}")

    _check_keys(values, KEYS, "", fail)
    for key in ("recipe", "seeds", "tuning_seeds", "arguments", "conditions", "methods"):
        if key not in values:
            fail(f"{key} is missing; recipes/configs/study has examples")
    if values["recipe"] not in RECIPES:
        fail(f"recipe is {values['recipe']!r}: it must be one of {', '.join(RECIPES)}")
    select_by = values.get("select_by", "accuracy")
    if select_by not in SELECTIONS:
        fail(f"select_by is {select_by!r}: it must be one of {', '.join(SELECTIONS)}")
    seeds, tuning_seeds = (_seeds(name, values[name], fail) for name in ("seeds", "tuning_seeds"))
    if shared := sorted(set(seeds) & set(tuning_seeds)):
        fail(f"{shared} are both in seeds and in tuning_seeds: results need seeds that no setting was chosen by")
    arguments = _mapping("arguments", values["arguments"], fail)
    conditions = {
        name: _mapping(f"condition {name!r}", fields or {}, fail)
        for name, fields in _mapping("conditions", values["conditions"], fail).items()
    }
    methods = {
        name: _settings(f"method {name!r}", _mapping(f"method {name!r}", method, fail), fail)
        for name, method in _mapping("methods", values["methods"], fail).items()
    }
    if not conditions or not methods:
        fail("there must be at least one condition and one method; type conditions: {all: {}} for a single one")
    budgets = {name: len(settings) for name, settings in methods.items()}
    if len(set(budgets.values())) > 1:
        fail(f"the methods have {budgets} settings: a fair choice needs as many for each, the baseline too")
    for where, parts in {"arguments": [arguments], **{k: [v] for k, v in conditions.items()}, **methods}.items():
        for name in OWN:
            if any(name in part for part in parts):
                fail(f"{where}: {name} is set by the study itself; take it out")
    return Study(values["recipe"], select_by, seeds, tuning_seeds, arguments, conditions, methods)


def _settings(where: str, method: Mapping[str, Any], fail: Callable[[str], NoReturn]) -> list[dict[str, Any]]:
    """Every setting of a method: its `arguments`, with each of `settings`, with each combination of `grid`."""
    _check_keys(method, METHOD_KEYS, f"{where}: ", fail)
    listed = method.get("settings", [{}])
    if not isinstance(listed, list) or not listed or not all(isinstance(fields, Mapping) for fields in listed):
        fail(f"{where}: settings must be a list of mappings, for example [{{weight_decay: 0.1}}]")
    grid = _mapping(f"{where}: grid", method.get("grid") or {}, fail)
    for name, choices in grid.items():
        if not isinstance(choices, list) or not choices:
            fail(f"{where}: {name} of grid is {choices!r}: it must be a list of values")
    combinations = [dict(zip(grid, choice, strict=True)) for choice in itertools.product(*grid.values())]
    fixed = _mapping(f"{where}: arguments", method.get("arguments") or {}, fail)
    settings = [merge(fixed, fields, combination) for fields in listed for combination in combinations]
    texts = [json.dumps(fields, sort_keys=True) for fields in settings]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        fail(f"{where}: the setting {twice} is there twice")
    return settings


def varied_fields(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of each setting what differs between them, `model_args` key by key."""
    flat = [
        {
            inner: item
            for key, value in fields.items()
            for inner, item in (value.items() if isinstance(value, Mapping) else [(key, value)])
        }
        for fields in settings
    ]
    names = list(dict.fromkeys(name for fields in flat for name in fields))
    varied = [name for name in names if any(fields.get(name) != flat[0].get(name) for fields in flat)]
    return [{name: fields[name] for name in varied if name in fields} for fields in flat]


def choose(study: Study, condition: str, records: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Choose the setting of each method whose tuning runs are all done, the reference first.

    The best mean over the tuning seeds on the validation set counts; equal means are told apart by the other metric,
    then by the order in the configuration. A setting that diverged with a seed is not chosen. No test result can play
    a part: the runs have none.

    Args:
        study: methods and settings.
        condition: for which to choose.
        records: finished runs by id.

    Returns:
        Place of the setting by method, without methods that are not tuned yet or whose settings all diverged.
    """
    chosen: dict[str, int] = {}
    for _ in ("the reference", "what is built on its choice"):
        by_method: dict[str, list[Run]] = {}
        for run in study.tuning_runs(condition, chosen):
            by_method.setdefault(run.method, []).append(run)
        for method, runs in by_method.items():
            best = _best(runs, records, study.select_by)
            if best is not None:
                chosen[method] = best
    return chosen


def _best(runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]], select_by: str) -> int | None:
    """The best setting of one method; None as long as a run is missing, or if all settings diverged."""
    if any(run.id not in records for run in runs):
        return None
    scores: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        scores.setdefault(run.setting, []).append(_score(records[run.id], select_by))
    means = {
        setting: tuple(math.fsum(column) / len(column) for column in zip(*found, strict=True))
        for setting, found in scores.items()
    }
    best = max(means, key=lambda setting: (means[setting], -setting))
    return best if math.isfinite(means[best][0]) else None


def _score(record: Mapping[str, Any], select_by: str) -> tuple[float, float]:
    """What is to be large: the metric that decides, and the one that breaks ties."""
    if record["status"] != "done":
        return -math.inf, -math.inf
    accuracy, loss = (record["metrics"]["validation"][name] for name in ("accuracy", "loss"))
    return (accuracy, -loss) if select_by == "accuracy" else (-loss, accuracy)


def open_runs(study: Study, records: Mapping[str, Mapping[str, Any]]) -> list[Run]:
    """Return the runs that could be started now, in order.

    Args:
        study: what is to be run.
        records: finished runs by id.
    """
    waiting = []
    for condition in study.conditions:
        chosen = choose(study, condition, records)
        runs = [*study.tuning_runs(condition, chosen), *study.final_runs(condition, chosen)]
        waiting += [run for run in runs if run.id not in records]
    return waiting


def _seeds(name: str, value: Any, fail: Callable[[str], NoReturn]) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    is_list = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not is_list or not seeds or len(set(seeds)) < len(seeds):
        fail(f"{name} is {value!r}: it must be a number of seeds, or a list of different ones; type {name}: [0, 1, 2]")
    return seeds


def _mapping(where: str, value: Any, fail: Callable[[str], NoReturn]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        fail(f"{where} is {value!r}: it must be a mapping of names to values")
    return {str(key): item for key, item in value.items()}


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str, fail: Callable[[str], NoReturn]) -> None:
    for key in values:
        if key not in known:
            fail(where + unknown_name("key", str(key), known))
