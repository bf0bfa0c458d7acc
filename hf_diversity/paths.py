"""Names that may be of a path or of a repository of the Hub."""

from __future__ import annotations

from pathlib import Path


def is_path(name: str) -> bool:
    """Whether it can only be a path: an id of the Hub is NAME or OWNER/NAME."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
