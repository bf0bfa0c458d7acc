"""`results.json`: everything a later reader needs to compare and to repeat a run, as plain numbers and text."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_diversity.publishing.secrets import mask_arguments
from hf_diversity.versions import installed_versions

# Where things go, what follows from other settings, and what recipes set themselves.
NOT_SETTINGS = (
    "output_dir",
    "logging_dir",
    "run_name",
    "overwrite_output_dir",
    "twin",
    "resume_from_checkpoint",
    "do_eval",
)
NOT_SETTINGS += (
    "accelerator_config",
    "disable_tqdm",
    "remove_unused_columns",
    "dataloader_pin_memory",
    "use_cpu",
    "report_to",
)
PACKAGES = ("hf-diversity", "torch", "transformers", "accelerate", "datasets", "timm", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result depends on."""
    return installed_versions(PACKAGES)


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """Return what the run was computed on; no host or user name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    return {"device": device.type, "name": name, "cpus": os.cpu_count(), "threads": threads, "processes": processes}


def without_paths(text: str) -> str:
    """Replace every absolute path by its last part: results are published, a machine's folders are not."""
    return re.sub(r"(?<![\w.:/~-])~?(?:/[^/\s'\",=:]+)+/?", lambda match: Path(match.group()).name, text)


def command(words: Sequence[str] | None = None) -> str:
    """Return what was typed, without machine paths and secrets."""
    words = list(sys.argv if words is None else words)
    if words and Path(words[0]).is_absolute():
        # accelerate passes the script's full path on; people type it from the repository's root.
        words[0] = "/".join(Path(words[0]).parts[-2:])
    launcher = "accelerate launch" if "ACCELERATE_MIXED_PRECISION" in os.environ else "python"
    return " ".join([launcher, *(shlex.quote(without_paths(word)) for word in mask_arguments(words))])


def changed_fields(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, as plain values without machine paths.

    Every field of `TrainingArguments` would be some 150 lines of which 140 say nothing.
    """
    changed = {}
    for item in dataclasses.fields(instance):
        if not item.init or "token" in item.name or item.name in NOT_SETTINGS:
            continue
        value = getattr(instance, item.name)
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
        # TrainingArguments turns None into False, [] or {}. (A second instance to compare with would reset the state
        # of all processes.)
        if value != default and (value or default):
            changed[item.name] = plain(value)
    return changed


def plain(value: Any) -> Any:
    """Return `value` as what JSON can hold: numpy numbers become floats, enums their value, paths names."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
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
    return without_paths(str(value))


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write `results.json`, whole or not at all."""
    partial = folder / "results.json.part"
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "results.json")
