"""Running one scenario with Trainer and with another trainer, and what of it can be compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import Mlp, Rows, arguments, weights
from transformers import TrainerCallback

from hf_diversity.cards.card_mixin import FIGURE
from hf_diversity.config import CONFIG_NAME, STATE_NAME

TIMES = ("_runtime", "_per_second", "_time")
OURS = {"task_loss", "diversity", "activation_norm", "gamma"}


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not any(part in key for part in TIMES)}


def is_ours(key: str) -> bool:
    """Whether a log or a metric is one of those that DiversityTrainer documents."""
    return key in OURS or any(key.endswith(f"_{name}") for name in OURS - {"task_loss"})


class Recorder(TrainerCallback):
    """Writes down every event: its name, step, control flags, what was passed, and the names that were logged."""

    def __init__(self):
        self.events: list[tuple] = []

    def __getattribute__(self, name):
        if name.startswith("on_") and hasattr(TrainerCallback, name):
            return functools.partial(self._record, name)
        return super().__getattribute__(name)

    def _record(self, event, args, state, control, **kwargs):
        named = {key: [k for k in kwargs[key] if not is_ours(k)] for key in ("logs", "metrics") if kwargs.get(key)}
        given = sorted(key for key, value in kwargs.items() if value is not None)
        self.events.append((event, state.global_step, state.epoch, str(control), given, named))


@dataclass
class Observed:
    """What a scenario left."""

    weights: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    events: list[tuple]
    returned: Any
    files: list[str]


Scenario = Callable[[type, Callable[..., Any]], Any]


def observe(scenario: Scenario, base: type, folder: Path, **diversity: Any) -> Observed:
    """Run `scenario(base, build)`; what it returns is compared, with what `build` made."""
    torch.manual_seed(0)
    recorder, made = Recorder(), []

    def build(cls=base, args=None, callbacks=(), **kwargs):
        defaults = {"model": Mlp(), "train_dataset": Rows(), "eval_dataset": Rows(8, seed=5), **kwargs}
        made.append(
            cls(args=arguments(folder, **(args or {})), callbacks=[recorder, *callbacks], **defaults, **diversity)
        )
        return made[-1]

    returned = comparable(scenario(base, build))
    trainer = made[-1]
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    history = [without_times(record) for record in trainer.state.log_history]
    final = {} if trainer.model is None else weights(trainer.model)  # a search leaves none
    return Observed(final, history, recorder.events, returned, files)


def comparable(value: Any) -> Any:
    """Arrays as lists, dicts without times, errors as text; all with == by value."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in without_times(value).items()}
    if hasattr(value, "_asdict"):
        return comparable(value._asdict())
    if isinstance(value, tuple | list):
        return [comparable(item) for item in value]
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return value.tolist() if hasattr(value, "tolist") else value


def without_ours(value: Any) -> Any:
    """Without the logs and metrics that DiversityTrainer adds, and with a word in the place of every number."""
    if isinstance(value, dict):
        return {key: without_ours(item) for key, item in value.items() if not is_ours(key)}
    if isinstance(value, list):
        return [without_ours(item) for item in value]
    return "number" if isinstance(value, float) else value


def without_our_files(files: list[str]) -> list[str]:
    return [file for file in files if Path(file).name not in (CONFIG_NAME, STATE_NAME, FIGURE)]
