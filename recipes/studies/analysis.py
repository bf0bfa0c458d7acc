"""What the results of a study say: chosen settings, means, and differences to the reference."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.comparison import gap, metric, over_layers
from common.report import CORRUPTED

from studies.inference import Interval, PairedDifference, holm, mean_interval, paired_difference
from studies.plan import Study, choose, merge, varied_fields

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """What is compared.

    Attributes:
        title: as it is printed.
        read: takes it from a record.
        better: 1 if more is better, -1 if less is, 0 if neither.
        tested: whether differences are tested; the others are described.
        by_median: whether a table tells the median and no interval: wall-clock time, which holds the hours for which a
            process or the machine was stopped.
    """

    title: str
    read: Callable[[Any], float]
    better: int
    tested: bool = True
    by_median: bool = False


MEASURES = {
    "train_accuracy": Measure("train accuracy", metric("train", "accuracy"), 0, tested=False),
    "test_accuracy": Measure("test accuracy", metric("test", "accuracy"), 1),
    "accuracy_gap": Measure("accuracy gap (train - test)", gap("test", "accuracy"), -1),
    "train_loss": Measure("train loss", metric("train", "loss"), 0, tested=False),
    "test_loss": Measure("test loss", metric("test", "loss"), -1),
    "loss_gap": Measure("loss gap (test - train)", gap("test", "loss"), -1),
    "calibration_error": Measure("test calibration error", metric("test", "calibration_error"), -1),
    "mean_similarity": Measure(
        "mean similarity of units", lambda record: over_layers(record, "after", "mean_similarity"), 0, tested=False
    ),
    "effective_rank": Measure(
        "effective rank", lambda record: over_layers(record, "after", "effective_rank"), 0, tested=False
    ),
    "seconds": Measure(
        "median seconds of training", lambda record: record["training"]["seconds"], 0, tested=False, by_median=True
    ),
}
# Means over the corruptions of the test images, in conditions that have any
CORRUPTED_MEASURES = {
    f"{CORRUPTED}_{name}": Measure(f"mean {name.replace('_', ' ')} under corruption", metric(CORRUPTED, name), better)
    for name, better in (("accuracy", 1), ("loss", -1), ("calibration_error", -1))
}


def measures_of(study: Study, condition: str) -> dict[str, Measure]:
    """Return `MEASURES`, and those of the corrupted test images that a condition has."""
    names = merge(study.arguments, study.conditions[condition]).get("test_corruptions") or []
    names = [names] if isinstance(names, str) else names
    each = {
        f"test_{name}_accuracy": Measure(f"accuracy under {name}", metric(f"test_{name}", "accuracy"), 1)
        for name in names
    }
    return {**MEASURES, **(CORRUPTED_MEASURES if names else {}), **each}


@dataclass(frozen=True)
class MethodResult:
    """A method in a condition.

    Attributes:
        setting: what distinguishes the chosen setting from the method's others.
        scores: validation score of each setting (mean over the tuning seeds; None where one diverged) with its fields.
        at_edge: fields whose chosen number is the smallest or largest that was tried.
        seeds: of the finished final runs that did not diverge.
        diverged: seeds of the final runs that did.
        values: by measure, in the order of `seeds`.
        means: by measure.
        differences: by tested measure; none for the reference.
        adjusted_p: p values corrected for all comparisons of that measure in the study.
    """

    setting: dict[str, Any]
    scores: list[tuple[dict[str, Any], float | None]]
    at_edge: list[str]
    seeds: list[int]
    diverged: list[int]
    values: dict[str, list[float]]
    means: dict[str, Interval]
    differences: dict[str, PairedDifference]
    adjusted_p: dict[str, float]


def analyse(study: Study, records: Mapping[str, Record]) -> dict[str, dict[str, MethodResult]]:
    """Compare all methods in all conditions, as far as they are finished.

    Args:
        study: what was to be run.
        records: finished runs by id.

    Returns:
        By condition and method; methods without a finished final run are left out.
    """
    found = {condition: _analyse_condition(study, condition, records) for condition in study.conditions}
    _correct(found)
    return found


def _analyse_condition(study: Study, condition: str, records: Mapping[str, Record]) -> dict[str, MethodResult]:
    measures = measures_of(study, condition)
    chosen = choose(study, condition, records)
    finals: dict[str, dict[int, Record]] = {}
    for run in study.final_runs(condition, chosen):
        if run.id in records:
            finals.setdefault(run.method, {})[run.seed] = records[run.id]
    scores = _scores(study, condition, chosen, records)
    by_seed = {method: _values(found, measures) for method, found in finals.items()}
    results = {}
    for method, found in finals.items():
        values = by_seed[method]
        differences = {}
        if method != study.reference and study.reference in by_seed:
            differences = _differences(values, by_seed[study.reference], measures)
        varied = varied_fields(study.methods[method])
        columns = {name: [row[name] for row in values.values()] for name in measures} if values else {}
        results[method] = MethodResult(
            setting=varied[chosen[method]],
            scores=list(zip(varied, scores[method], strict=True)),
            at_edge=_at_edge(varied, chosen[method]),
            seeds=list(values),
            diverged=[seed for seed in found if seed not in values],
            values=columns,
            means={name: mean_interval(column) for name, column in columns.items()},
            differences=differences,
            adjusted_p={},
        )
    return results


def _values(found: Mapping[int, Record], measures: Mapping[str, Measure]) -> dict[int, dict[str, float]]:
    """Every measure of the runs that did not diverge, by seed."""
    done = {seed: record for seed, record in found.items() if record["status"] == "done"}
    return {
        seed: {name: float(measure.read(record)) for name, measure in measures.items()}
        for seed, record in done.items()
    }


def _differences(
    values: Mapping[int, Mapping[str, float]],
    reference: Mapping[int, Mapping[str, float]],
    measures: Mapping[str, Measure],
) -> dict[str, PairedDifference]:
    shared = [seed for seed in values if seed in reference]
    if not shared:
        return {}
    return {
        name: paired_difference([values[seed][name] for seed in shared], [reference[seed][name] for seed in shared])
        for name, measure in measures.items()
        if measure.tested
    }


def _scores(
    study: Study, condition: str, chosen: Mapping[str, int], records: Mapping[str, Record]
) -> dict[str, list[float | None]]:
    gathered: dict[str, list[list[float]]] = {m: [[] for _ in settings] for m, settings in study.methods.items()}
    for run in study.tuning_runs(condition, chosen):
        record = records.get(run.id)
        if record is not None and record["status"] == "done":
            gathered[run.method][run.setting].append(record["metrics"]["validation"][study.select_by])
    whole = len(study.tuning_seeds)
    return {
        method: [statistics.fmean(values) if len(values) == whole else None for values in settings]
        for method, settings in gathered.items()
    }


def _at_edge(settings: list[dict[str, Any]], chosen: int) -> list[str]:
    """Fields of which more than two numbers were tried, and the chosen one is the first or last of them."""
    names = []
    for name, value in settings[chosen].items():
        try:
            tried = sorted({float(fields[name]) for fields in settings if name in fields})
        except (TypeError, ValueError):
            continue  # not a number
        if len(tried) > 2 and float(value) in (tried[0], tried[-1]):
            names.append(name)
    return names


def _correct(found: dict[str, dict[str, MethodResult]]) -> None:
    """Correct the p values of each measure for all its comparisons, over methods and conditions."""
    # A mapping, which keeps its order: two reports of the same runs are the same file.
    tested = {name: None for results in found.values() for result in results.values() for name in result.differences}
    for name in tested:
        places = [
            (condition, method)
            for condition, results in found.items()
            for method, result in results.items()
            if name in result.differences
        ]
        adjusted = holm([found[c][m].differences[name].p for c, m in places])
        for (condition, method), p in zip(places, adjusted, strict=True):
            result = found[condition][method]
            found[condition][method] = dataclasses.replace(result, adjusted_p={**result.adjusted_p, name: p})
