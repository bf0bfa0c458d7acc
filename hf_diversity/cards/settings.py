"""What of a run's arguments differs from the defaults, as plain values."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from pathlib import Path
from typing import Any

from ..publishing.local_names import LocalNames
from ..publishing.secrets import HIDDEN, is_secret_name, mask_text

# Where things go, what follows from other settings, and what recipes set themselves
NOT_SETTINGS = (
    "output_dir", "logging_dir", "run_name", "overwrite_output_dir", "twin", "resume_from_checkpoint", "do_eval",
    "accelerator_config", "disable_tqdm", "remove_unused_columns", "dataloader_pin_memory", "use_cpu", "report_to",
    "push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision",
)  # fmt: skip


def changed_fields(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, as plain values without machine paths.

    Every field of `TrainingArguments` would be some 150 lines of which 140 say nothing.
    """
    shown = [name for name in changed_names(instance) if not is_secret_name(name) and name not in NOT_SETTINGS]
    return {name: plain(getattr(instance, name)) for name in shown}


def changed_names(instance: Any) -> list[str]:
    """Return the names of the fields of a dataclass that differ from their defaults."""
    changed = []
    for item in dataclasses.fields(instance):
        if not item.init:
            continue
        value = getattr(instance, item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        # TrainingArguments turns None into False, [] or {}. (A second instance to compare with would reset the state
        # of all processes.)
        if value != default and (value or default or (value == 0 and value is not False)):
            changed.append(item.name)
    return changed


def plain(value: Any) -> Any:
    """Return `value` as what JSON can hold: numbers of numpy as floats, paths as names, secrets as dots."""
    if isinstance(value, dict):
        return {
            str(key): HIDDEN if item is not None and is_secret_name(str(key)) else plain(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if hasattr(value, "value") and not hasattr(value, "item"):
        return plain(value.value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if isinstance(value, bool | int | float) or value is None:
        return value
    return without_paths(mask_text(str(value)))


def without_paths(text: str) -> str:
    """Take local paths and names out of a text: results are published, a machine's folders are not."""
    name, equals, value = text.partition("=")
    if equals and re.fullmatch(r"[\w.+-]+", name):
        return f"{name}={without_paths(value)}"
    cleaned = str(_local_names().remove_from_value(text)[0])
    # An argument is a path, whatever its root
    return Path(cleaned).name if re.fullmatch(r"~?/[^/\n]+/[^\n]*", text) else cleaned


@functools.cache
def _local_names() -> LocalNames:
    return LocalNames()
