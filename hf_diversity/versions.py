"""The versions that a result depends on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata


def installed_versions(packages: Iterable[str], absent: str = "unknown") -> dict[str, str]:
    """Return the versions of Python and of these distributions; `absent` where one is not installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = absent
    return found
