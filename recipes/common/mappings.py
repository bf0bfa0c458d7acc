"""Arguments whose value is a mapping: YAML in a file, JSON or YAML on the command line."""

from __future__ import annotations

from typing import Any

import yaml


def read_mapping(name: str, value: dict[str, Any] | str | None, example: str) -> dict[str, Any]:
    """Return the mapping that an argument's value stands for; empty for None.

    Args:
        name: of the argument, for the errors.
        value: a mapping, or the text of one.
        example: of such a text, for the errors.

    Raises:
        ValueError: it is none.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)  # JSON as well, which is YAML
        except yaml.YAMLError as error:
            raise ValueError(f"{name} is {value!r}: not YAML ({error}); type --{name} '{example}'") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r}: it must be a mapping; type --{name} '{example}'")
    return value
