"""Finished runs side by side: mean and spread over seeds, and the paired differences to the first method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from hf_diversity.diagnostics.gaps import is_cost

Read = Callable[[dict[str, Any]], float]


def over_layers(result: dict[str, Any], when: str, name: str) -> float:
    """Return what was measured on the validation examples, averaged over the regularised layers."""
    return statistics.fmean(layer[name] for layer in result["similarity"][when].values())


def mean_similarity(result: dict[str, Any], when: str) -> float:
    """Return the mean similarity of two units, gamma following the median distance between units."""
    return over_layers(result, when, "mean_similarity")


def metric(split: str, name: str) -> Read:
    """Return what reads a metric of a split from results."""
    return lambda result: result["metrics"][split][name]


def gap(other: str, name: str) -> Read:
    """Return what reads the gap between the training examples and another split from results."""
    return lambda result: result["gaps"][other][name]


def rows_of(result: dict[str, Any]) -> dict[str, Read]:
    """Return the rows that fit these results: every metric of every split, its gap, and what was measured."""
    rows: dict[str, Read] = {}
    for name in result["metrics"]["train"]:
        rows |= {f"{split} {name}": metric(split, name) for split in ("train", "validation", "test")}
        sign = "test - train" if is_cost(name) else "train - test"
        rows[f"{name} gap ({sign})"] = gap("test", name)
    if result["similarity"]:
        rows["mean similarity after training"] = lambda found: mean_similarity(found, "after")
        rows["mean squared norm after training"] = lambda found: over_layers(found, "after", "activation_norm")
    rows["seconds of training"] = lambda found: found["training"]["seconds"]
    return rows


def compare(results: Mapping[str, list[dict[str, Any]]], rows: Mapping[str, Read]) -> str:
    """Return the table, in Markdown.

    Args:
        results: method and its results, in the order of the seeds.
        rows: title of each row, and what reads its number from results.
    """
    reference, *others = results
    heads = ["", *results, *(f"{method} - {reference}, paired" for method in others)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for title, read in rows.items():
        digits = 1 if title.startswith(("seconds", "mean squared norm")) else 4
        values = {method: [read(result) for result in found] for method, found in results.items()}
        cells = [spread(numbers, digits) for numbers in values.values()]
        cells += [spread(paired(values[method], values[reference]), digits, "+") for method in others]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(values: list[float], reference: list[float]) -> list[float]:
    """Return the differences, seed by seed."""
    return [value - other for value, other in zip(values, reference, strict=True)]


def spread(values: list[float], digits: int, sign: str = "") -> str:
    """Return mean and standard deviation as text."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.{digits}f}{deviation}"
