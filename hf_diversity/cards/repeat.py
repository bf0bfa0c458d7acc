"""How a run can be repeated, in the words of a card: what was typed, and with which seeds, versions and hardware."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ..publishing.secrets import mask_arguments
from .settings import without_paths


def typed_command(launcher: Sequence[str], words: Sequence[str]) -> str:
    """A command without secrets, local paths and names.

    Args:
        launcher: what starts the script, "python" or "accelerate launch", a word each.
        words: the script and its arguments.
    """
    return shlex.join([*launcher, *map(without_paths, mask_arguments(words))])


def environment_sentence(seeds: str, versions: Mapping[str, str], processes: int, device: str) -> str:
    """Seeds, versions of libraries and hardware.

    Args:
        seeds: "seed 0".
        versions: by library.
        processes: that trained together.
        device: what each of them ran on, and what else is to be said of it.
    """
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{seeds}; {software}; {processes} process(es) on {device}."
