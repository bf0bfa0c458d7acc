"""report.md and report.json of a study: tables, figures, and what they say in words."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import scipy
import statsmodels

from hf_diversity.cards.settings import plain
from studies.analysis import CORRUPTED_MEASURES, MEASURES, Measure, MethodResult, Record, analyse, measures_of
from studies.figures import COMPARED, CORRUPTED_ACCURACY, write_figures
from studies.inference import Interval
from studies.plan import Study, merge
from studies.progress import finished_runs, readable

Results = Mapping[str, Mapping[str, MethodResult]]
CLEAR = 0.05

READING = """
- A setting is chosen by the mean {select_by} on the validation set over the tuning seeds {tuning_seeds}; every method
  had {budget} settings to choose from, those of the others on top of what was chosen for {reference}. The runs that
  settings are chosen by never evaluate the test set. It was evaluated once for each method and seed, with the chosen
  setting and with seeds that no choice has seen.
- The runs of a seed share training examples, label noise, validation examples, first weights and the order of the
  batches, whatever the method. So differences are taken seed by seed. As a seed also draws the examples, the intervals
  hold for other samples of this data set, not for other data.
- Brackets hold 95 % t intervals, not corrected. p is that of the two-sided paired t test, corrected (Holm) for all
  comparisons of that measure in this study ({comparisons}). A star marks corrected p < {clear:g}. "Not clearly" does
  not mean equal: the interval says what is still possible. Bootstrap intervals are too narrow with few seeds.
- A smaller gap is no gain by itself: a worse fit makes one too. Read it beside the training and test columns.
- Training accuracy and loss are those of the labels that were trained on, with their noise, in evaluation mode;
  labels of the validation and test sets carry no label noise.
- Test loss is the mean negative log-likelihood; the calibration error is the expected one over 15 bins (Guo et al.,
  2017).
- Similarity (gamma at the median distance between units) and effective rank (of the covariance) are those of the last
  hidden layer, or of the layers that were regularised, on the validation examples.
"""
UNDER_CORRUPTION = """\
- Kinds and strengths of the corruptions are those of CIFAR-10-C (Hendrycks & Dietterich, 2019), translation excepted.
  Corrupted images are the same in every run, and were evaluated once for each method and seed. Means are over these
  kinds.
"""


def write(folder: Path, study: Study, records: Mapping[str, Record]) -> str:
    """Write `report.md`, `report.json` and the figures.

    Args:
        folder: of the study.
        study: what was to be run.
        records: finished runs by id.

    Returns:
        The Markdown page.

    Raises:
        ValueError: no final run is finished.
    """
    results = analyse(study, records)
    if not any(result.seeds for found in results.values() for result in found.values()):
        raise ValueError(f"{folder}: no final run is finished yet; python recipes/study.py status {folder}")
    figures = write_figures(folder, results, study.reference)
    page = "\n".join(_page(folder, study, records, results, figures)) + "\n"
    (folder / "report.md").write_text(page, encoding="utf-8")
    numbers = {c: {m: dataclasses.asdict(result) for m, result in found.items()} for c, found in results.items()}
    (folder / "report.json").write_text(json.dumps(plain(numbers), indent=2) + "\n", encoding="utf-8")
    return page


def _page(
    folder: Path, study: Study, records: Mapping[str, Record], results: Results, figures: Iterable[str]
) -> Iterable[str]:
    yield f"# Study {folder.resolve().name}"
    yield ""
    yield from _what_was_run(study, records)
    yield ""
    for name in figures:
        yield f"![{_caption(name, study)}]({name})"
        yield ""
    for condition, found in results.items():
        if not found:
            continue
        yield f"## {condition}"
        yield ""
        yield from _words(study, found)
        yield ""
        yield from _table(found, MEASURES, _mean_cell)
        yield ""
        others = {method: result for method, result in found.items() if result.differences}
        measures = measures_of(study, condition)
        if others:
            yield f"Difference to {study.reference}, paired by seed:"
            yield ""
            yield from _table(others, {name: MEASURES[name] for name in COMPARED}, _difference_cell)
            yield ""
        if corrupted := {name: measure for name, measure in measures.items() if name not in MEASURES}:
            severity = merge(study.arguments, study.conditions[condition]).get("corruption_severity", 3)
            yield f"On corrupted test images, severity {severity}:"
            yield ""
            yield from _table(found, corrupted, _mean_cell)
            yield ""
            if others:
                yield f"Difference to {study.reference} on corrupted test images, paired by seed:"
                yield ""
                yield from _table(others, corrupted, _difference_cell)
                yield ""
        if others:
            yield from _details(others, measures)
            yield ""
        yield "Settings: chosen on the validation set, and what the others reached there (mean over the tuning seeds)."
        yield ""
        yield from _settings(study, found)
        yield ""
    yield "## How to read this"
    comparisons = max(
        sum(name in result.differences for found in results.values() for result in found.values()) for name in COMPARED
    )
    yield READING.format(
        select_by=study.select_by,
        tuning_seeds=", ".join(map(str, study.tuning_seeds)),
        budget=study.budget,
        reference=study.reference,
        comparisons=comparisons,
        clear=CLEAR,
    ).rstrip()
    if any(len(measures_of(study, condition)) > len(MEASURES) for condition in study.conditions):
        yield UNDER_CORRUPTION.rstrip()


def _what_was_run(study: Study, records: Mapping[str, Record]) -> Iterable[str]:
    done = finished_runs(study, records)
    own = [record for record in records.values() if record["status"] == "done"]
    if done < study.size:
        yield f"**Not finished: {done} of {study.size} runs are done.** What follows is what there is so far."
        yield ""
    model, data = own[0]["model"], own[0]["data"]
    seconds = sum(record["seconds"] for record in records.values())
    yield (
        f"`{model['name']}` ({model['parameters']:,} parameters) on {data['name']}; {len(study.methods)} methods with "
        f"{study.budget} settings each, {len(study.tuning_seeds)} tuning seeds and {len(study.seeds)} final ones; "
        f"{done} runs, {readable(seconds)} of wall-clock time in all (with stops)."
    )
    for title, key in (("Versions", "versions"), ("Hardware", "hardware")):
        found = list(dict.fromkeys(_in_words(record[key]) for record in own))
        yield ""
        yield f"{title}: " + "; and ".join(found) + "."
        if len(found) > 1:
            yield f"**The runs do not share one {key.removesuffix('s')}: differences may have other causes.**"
    yield ""
    yield f"Statistics: scipy {scipy.__version__}, statsmodels {statsmodels.__version__}."


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _caption(name: str, study: Study) -> str:
    return {
        "differences.png": f"Difference of each method to {study.reference}, with 95 % intervals",
        "accuracy.png": "Training and test accuracy of each method, seed by seed",
    }[name]


def _words(study: Study, found: Mapping[str, MethodResult]) -> Iterable[str]:
    """Say what the tables show, whatever they show."""
    others = {method: result for method, result in found.items() if result.differences}
    if study.reference not in found:
        yield f"{study.reference} has no finished final run: nothing can be compared yet."
    for name, measure in _told(found).items() if others else ():
        clear = [
            (method, result.differences[name].difference.mean)
            for method, result in others.items()
            if result.adjusted_p.get(name, math.nan) < CLEAR
        ]
        better = [_named(m, d, name) for m, d in clear if d * measure.better > 0]
        worse = [_named(m, d, name) for m, d in clear if d * measure.better < 0]
        said = [f"better than {study.reference}: {', '.join(better)}"] if better else []
        said += [f"worse: {', '.join(worse)}"] if worse else []
        if not said:
            said = [f"no method is clearly better or worse than {study.reference}"]
        yield f"- {measure.title}: {'; '.join(said)}."
    for method, result in found.items():
        if result.diverged:
            seeds = ", ".join(map(str, result.diverged))
            yield f"- **{method} diverged with seed(s) {seeds}**: its means and differences leave them out."
        if len(result.seeds) + len(result.diverged) < len(study.seeds):
            yield f"- {method}: {len(result.seeds)} of {len(study.seeds)} seeds are done."
        if result.at_edge:
            yield (
                f"- {method}: the chosen {' and '.join(result.at_edge)} lies at the edge of what was tried; values "
                "beyond it may do better."
            )
    missing = [method for method in study.methods if method not in found]
    if missing:
        yield f"- Without a final run so far: {', '.join(missing)}."


def _told(found: Mapping[str, MethodResult]) -> dict[str, Measure]:
    """What is said in words."""
    told = {name: MEASURES[name] for name in COMPARED}
    if any(CORRUPTED_ACCURACY in result.differences for result in found.values()):
        told[CORRUPTED_ACCURACY] = CORRUPTED_MEASURES[CORRUPTED_ACCURACY]
    return told


def _named(method: str, difference: float, name: str) -> str:
    return f"{method} ({difference:+.{_digits(name)}f})"


def _digits(name: str) -> int:
    return {"effective_rank": 1, "seconds": 1}.get(name, 4)


def _table(
    found: Mapping[str, MethodResult], measures: Mapping[str, Measure], cell: Callable[[MethodResult, str], str]
) -> Iterable[str]:
    yield "| method | " + " | ".join(measure.title for measure in measures.values()) + " |"
    yield "|---" * (len(measures) + 1) + "|"
    for method, result in found.items():
        if result.seeds:
            yield f"| {method} | " + " | ".join(cell(result, name) for name in measures) + " |"


def _mean_cell(result: MethodResult, name: str) -> str:
    if name in MEASURES and MEASURES[name].by_median:
        return f"{statistics.median(result.values[name]):.{_digits(name)}f}"
    return _interval(result.means[name], _digits(name), "")


def _difference_cell(result: MethodResult, name: str) -> str:
    star = " *" if result.adjusted_p[name] < CLEAR else ""
    return _interval(result.differences[name].difference, _digits(name), "+") + star


def _interval(interval: Interval, digits: int, sign: str) -> str:
    ends = f" [{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]" if interval.count > 1 else ""
    return f"{interval.mean:{sign}.{digits}f}{ends}"


def _details(found: Mapping[str, MethodResult], measures: Mapping[str, Measure]) -> Iterable[str]:
    heads = ["method", "measure", "difference", "95 % t interval", "95 % BCa bootstrap", "p", "p (Holm)"]
    heads += ["higher / lower with", "seeds"]
    yield "<details><summary>p values, bootstrap intervals and signs</summary>"
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for method, result in found.items():
        for name, one in result.differences.items():
            digits = _digits(name)
            cells = [method, measures[name].title, f"{one.difference.mean:+.{digits}f}"]
            for low, high in (
                (one.difference.low, one.difference.high),
                (one.bootstrap_low, one.bootstrap_high),
            ):
                cells.append(f"[{low:+.{digits}f}, {high:+.{digits}f}]")
            cells += [f"{one.p:.4f}", f"{result.adjusted_p[name]:.4f}", f"{one.higher} / {one.lower}"]
            yield f"| {' | '.join([*cells, str(one.difference.count)])} |"
    yield ""
    yield "</details>"


def _settings(study: Study, found: Mapping[str, MethodResult]) -> Iterable[str]:
    yield f"| method | chosen | validation {study.select_by} | of the others |"
    yield "|---|---|---|---|"
    for method, result in found.items():
        own = next(score for fields, score in result.scores if fields == result.setting)
        others = [f"{_fields(fields)}: {_score(score)}" for fields, score in result.scores if fields != result.setting]
        yield f"| {method} | {_fields(result.setting)} | {_score(own)} | {'; '.join(others) or '-'} |"


def _fields(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items()) or "as it is"


def _score(score: float | None) -> str:
    return "diverged or not done" if score is None else f"{score:.4f}"
