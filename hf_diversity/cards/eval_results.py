"""`.eval_results`: the test result in the form that the Hub shows on the leaderboard of a benchmark."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from ..publishing.files import EVAL_RESULTS
from .markdown import as_float

if TYPE_CHECKING:
    from .card import Card


def save_eval_results(card: Card, folder: Path) -> Path | None:
    """Write the first metric of the test set that is no loss, for the benchmark that the card's data set is.

    Returns:
        The file, `.eval_results/<data set>.yaml`; None where no data set names a task of a benchmark, or nothing was
        tested.
    """
    data = next((data for data in card.datasets if data.hub_id and data.benchmark_task), None)
    tested = {
        name: found
        for name, value in card.metrics.get("test", {}).items()
        if not name.endswith("loss") and (found := as_float(value)) is not None
    }
    if data is None or not tested:
        return None
    name, value = next(iter(tested.items()))
    entry = EvalResultEntry(
        dataset_id=str(data.hub_id), task_id=str(data.benchmark_task), value=value, notes=f"{name}, trained with "
        f"hf_diversity, measure {card.diversity.measure}" if card.diversity.is_active else name,
    )  # fmt: skip
    path = folder / EVAL_RESULTS / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', str(data.hub_id).rpartition('/')[2])}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path
