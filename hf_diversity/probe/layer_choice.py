"""Which layers of a model are measured, decided by one forward pass of a real batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config import DiversityConfig
from ..diagnostics.memory import check_memory
from ..inspection import NO_ACTIVATIONS_OF_THEIR_OWN, LayerRow, inspect_layers
from ..layers import find_layers
from .loading import LoadedModel

# Units beyond which a pattern leaves a layer out: logits over a vocabulary, say. A matrix of 4,096 units has 134 MB
_MOST_UNITS = 4096


def choose_layers(
    loaded: LoadedModel, patterns: Sequence[str], batch: Mapping[str, Any]
) -> tuple[DiversityConfig, list[LayerRow], dict[str, str]]:
    """Resolve the layers that were asked for.

    Args:
        loaded: the model.
        patterns: names and patterns; empty for those of the training, or else the last hidden layer.
        batch: inputs on the model's device.

    Returns:
        What to measure with, a row for each layer, and those that patterns left out with why.

    Raises:
        ValueError: a name cannot be measured, nothing is left, or the matrices would not fit into memory.
    """
    diversity = loaded.diversity
    if patterns:
        diversity = replace(diversity, layers=list(patterns))
    found = inspect_layers(loaded.model, batch, diversity)
    if diversity.layers is None:
        rows = [row for row in found.rows if row.default]
        if not rows:
            raise ValueError(f"{found.no_default} Type --layers NAME, or --layers '**' for all")
        _check_memory(rows)
        return diversity, rows, {}
    outputs = {row.name: row for row in found.rows if not row.default}
    heads = {row.name for row in found.rows if row.default and row.point == "input"}
    rows, left_out = [], {}
    for pattern in diversity.layers:
        is_pattern = "*" in pattern or "?" in pattern
        for target in find_layers(loaded.model, [pattern]):
            if not target.name:  # the whole model, whose output is no hidden layer
                continue
            row = outputs.get(target.name)
            problem = _problem(row, is_pattern, target.name in heads)
            if row is not None and not problem:
                if row not in rows:
                    rows.append(row)
            elif is_pattern:
                left_out[target.name] = problem
            else:
                raise ValueError(f"layer {target.name!r} cannot be measured: {problem}; type --layers with another")
    if not rows:
        causes = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        raise ValueError(f"--layers {' '.join(diversity.layers)} matches no layer that can be measured ({causes})")
    _check_memory(rows)
    names = [row.name for row in rows]
    # As a name, so that the pattern does not bring back what was left out
    return replace(diversity, layers=names), rows, {n: why for n, why in left_out.items() if n and n not in names}


def _problem(row: LayerRow | None, is_pattern: bool, is_head: bool) -> str:
    if row is None:
        return "it does not run in a forward pass"
    if row.units is None:
        return row.problem
    if is_pattern and is_head:
        return "it is the output head, whose units are what the model says; name it to measure it all the same"
    if is_pattern and row.kind in NO_ACTIVATIONS_OF_THEIR_OWN:
        return "it gives what it receives"
    if is_pattern and row.units > _MOST_UNITS:
        return f"it has {row.units:,} units, more than {_MOST_UNITS:,}; name it to measure it all the same"
    return ""


def _check_memory(rows: Sequence[LayerRow]) -> None:
    check_memory({row.name: row.units or 0 for row in rows}, "type --layers with fewer or narrower ones")
