"""How far a study is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from studies.plan import Study, choose, open_runs


def time_left(study: Study, records: Mapping[str, Mapping[str, Any]], launches: int = 1) -> float | None:
    """Estimate the seconds until the study is done.

    Args:
        study: what is to be run.
        records: finished runs by id.
        launches: how many processes work on it.

    Returns:
        From the mean time of the finished runs of each kind; None as long as there are none.
    """
    left, seconds = 0.0, [record["seconds"] for record in records.values()]
    if not seconds:
        return None
    for is_final, total in ((False, study.budget * len(study.tuning_seeds)), (True, len(study.seeds))):
        for condition in study.conditions:
            own = _done(study, condition, records, is_final)
            taken = [s for found in own.values() for s in found] or seconds
            left += (total * len(study.methods) - sum(map(len, own.values()))) * statistics.fmean(taken)
    return left / max(1, launches)


def _done(study: Study, condition: str, records: Mapping[str, Mapping[str, Any]], is_final: bool) -> dict[str, list]:
    """Seconds of the finished runs, by method."""
    runs = (study.final_runs if is_final else study.tuning_runs)(condition, choose(study, condition, records))
    found: dict[str, list[float]] = {method: [] for method in study.methods}
    for run in runs:
        if run.id in records:
            found[run.method].append(records[run.id]["seconds"])
    return found


def finished_runs(study: Study, records: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how many of the study's runs are done."""
    return sum(
        len(found)
        for condition in study.conditions
        for is_final in (False, True)
        for found in _done(study, condition, records, is_final).values()
    )


def status(study: Study, records: Mapping[str, Mapping[str, Any]], running: Mapping[str, float]) -> str:
    """Return the progress as text: done, running, left, and how long it will take.

    Args:
        study: what is to be run.
        records: finished runs by id.
        running: ids of the runs under way and for how many seconds they have been.
    """
    done = finished_runs(study, records)
    names = {run.id: str(run) for run in open_runs(study, records)}
    under_way = {names[run_id]: seconds for run_id, seconds in running.items() if run_id in names}
    left = study.size - done - len(under_way)
    lines = [
        f"{done} of {study.size} runs done, {len(under_way)} running, {left} left"
        + _duration(study, records, under_way)
    ]
    own = sum(1 for record in records.values() if record["status"] == "diverged")
    if own:
        lines.append(f"{own} diverged")
    width = max(len(method) for method in study.methods)
    for condition in study.conditions:
        lines.append(f"\n{condition}")
        tuned, final = (_done(study, condition, records, is_final) for is_final in (False, True))
        for method in study.methods:
            lines.append(
                f"  {method:<{width}}  tuning {len(tuned[method])}/{study.budget * len(study.tuning_seeds)}"
                f"  final {len(final[method])}/{len(study.seeds)}"
            )
    lines += ["", *(f"running for {seconds:.0f} s: {name}" for name, seconds in under_way.items())]
    return "\n".join(lines).rstrip()


def _duration(study: Study, records: Mapping[str, Mapping[str, Any]], under_way: Mapping[str, float]) -> str:
    seconds = time_left(study, records, len(under_way))
    if seconds is None or not seconds:
        return ""
    return f", about {readable(seconds)} at this rate" + ("" if under_way else " once it is started again")


def readable(seconds: float) -> str:
    """Return a time as text."""
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 1.5 else f"{seconds:.0f} s"
