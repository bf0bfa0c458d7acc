"""`diversity_schedule`: the regulariser's weights over the course of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_diversity.callbacks import DiversityScheduleCallback


def make_diversity_schedule(settings: Mapping[str, Any]) -> DiversityScheduleCallback | None:
    """Return the callback with these arguments, or None if there are none.

    Raises:
        ValueError: the callback has no such argument, or refuses a value.
    """
    if not settings:
        return None
    try:
        return DiversityScheduleCallback(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"diversity_schedule {dict(settings)}: {error}") from error
