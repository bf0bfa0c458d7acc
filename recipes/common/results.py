"""`results.json`: everything a later reader needs to compare and to repeat a run, as plain numbers and text."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_diversity.cards.repeat import typed_command
from hf_diversity.versions import installed_versions

PACKAGES = ("hf-diversity", "torch", "transformers", "accelerate", "datasets", "timm", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a result depends on."""
    return installed_versions(PACKAGES)


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """Return what the run was computed on; no host or user name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    return {"device": device.type, "name": name, "cpus": os.cpu_count(), "threads": threads, "processes": processes}


def command(words: Sequence[str] | None = None) -> str:
    """Return what was typed, without machine paths and secrets."""
    words = list(sys.argv if words is None else words)
    if words and Path(words[0]).is_absolute():
        # accelerate passes the script's full path on; people type it from the repository's root.
        words[0] = "/".join(Path(words[0]).parts[-2:])
    launcher = ["accelerate", "launch"] if "ACCELERATE_MIXED_PRECISION" in os.environ else ["python"]
    return typed_command(launcher, words)


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write `results.json`, whole or not at all."""
    partial = folder / "results.json.part"
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "results.json")
