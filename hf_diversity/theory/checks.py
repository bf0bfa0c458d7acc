"""Checks of the constants that every bound takes."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Real


def check_constant(name: str, value: float, meaning: str) -> float:
    """Refuse what is no finite number >= 0.

    Args:
        name: of the argument.
        value: what came.
        meaning: the constant in words, for the message.

    Raises:
        TypeError: it is no real number.
        ValueError: it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}): {meaning} is a number; type {name}=1.0")
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} is {value}: {meaning} must be finite and >= 0; type {name}=1.0")
    return number


def check_whole(name: str, value: int, least: int, meaning: str) -> int:
    """Refuse what is no whole number of at least `least`.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}): {meaning} is a whole number; type {name}={least}"
        )
    if value < least:
        raise ValueError(f"{name} is {value}: {meaning} must be at least {least}; type {name}={least} or more")
    return value


def check_option(name: str, value: str, options: Collection[str]) -> None:
    """Refuse an unknown option.

    Raises:
        ValueError: it is none of `options`.
    """
    if value not in options:
        raise ValueError(f"{name} is {value!r}: unknown; type {' or '.join(f'{name}={o!r}' for o in options)}")
