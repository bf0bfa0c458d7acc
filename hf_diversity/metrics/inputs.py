"""What users give to `compute` of the measurements, checked before `evaluate` stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def checked_columns(names: Sequence[str], given: Mapping[str, Any], stored: int) -> dict[str, Any]:
    """The columns of `given`; a single number is a column of one.

    Args:
        names: of the columns that a measurement takes.
        given: what `compute` was called with; other keys, and values that are None, are left out.
        stored: how many rows `add` and `add_batch` have stored.

    Returns:
        All columns, or none if there are rows already and none was given.

    Raises:
        ValueError: a column is missing or has no row, or there is nothing to measure.
    """
    columns = {name: given[name] for name in names if given.get(name) is not None}
    call = ", ".join(f"{name}=[...]" for name in names)
    if not columns and stored:
        return {}
    if not columns:
        raise ValueError(f"there is nothing to measure: type compute({call}), or add_batch({call}) before compute()")
    for name in names:
        if name not in columns:
            raise ValueError(f"{name} is missing, beside {', '.join(columns)}: type compute({call})")
        columns[name] = _column(columns[name])
        if len(columns[name]) == 0:
            raise ValueError(f"{name} has no row: there is nothing to measure; type compute({call})")
    return columns


def _column(value: Any) -> Any:
    is_number = isinstance(value, int | float) or getattr(value, "ndim", None) == 0
    return [value] if is_number else value
