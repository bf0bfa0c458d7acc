"""The table of a training in its card, from Trainer's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..trainer_metrics import TECHNICAL
from .markdown import as_float

MOST_ROWS = 20
_LEFT_OUT = (*TECHNICAL, "activation_norm", "gamma")


def training_log_rows(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """A row for each step with an evaluation, or with a record where there is none.

    Args:
        history: `trainer.state.log_history`.

    Returns:
        At most 20 rows, evenly chosen, the last one among them: epoch, step, the last training loss, the metrics of
        all evaluation sets, the gap and J.
    """
    rows: list[dict[str, float]] = []
    loss: float | None = None
    evaluates = any(_is_evaluation(record) for record in history)
    for record in history:
        loss = record.get("loss", loss)
        step = float(record.get("step", 0))
        is_new = not rows or rows[-1]["step"] != step
        if is_new and (_is_evaluation(record) if evaluates else "loss" in record):
            row = {"epoch": float(record.get("epoch", 0)), "step": step}
            rows.append(row if loss is None else {**row, "loss": float(loss)})
        if rows and rows[-1]["step"] == step:  # other sets, and the gap, have records of their own
            found = {key: as_float(value) for key, value in record.items() if _belongs(key)}
            rows[-1] |= {key: value for key, value in found.items() if value is not None}
    stride = -(-len(rows) // MOST_ROWS) or 1
    return rows[::-1][::stride][::-1]


def _is_evaluation(record: Mapping[str, float]) -> bool:
    return any(key.startswith("eval_") and key.endswith("loss") for key in record)


def _belongs(key: str) -> bool:
    ours = key.startswith(("eval_", "gap_", "diversity", "task_"))
    return ours and not key.endswith(_LEFT_OUT) and "/" not in key
