"""The memory that diagnostics take is that of matrices of units by units, and is refused before they are made."""

from __future__ import annotations

from collections.abc import Mapping

_MATRICES = 6  # float64 and D x D for each layer: sums, averages and what is kept of them
_MOST_BYTES = 8 * 2**30


def check_memory(units: Mapping[str, int], cure: str) -> None:
    """Refuse layers whose matrices would need more than 8 GB.

    Args:
        units: D by layer.
        cure: what to type, for the message.

    Raises:
        ValueError: they would; names the widest.
    """
    needed = sum(_MATRICES * 8 * width**2 for width in units.values())
    if needed > _MOST_BYTES:
        widest = max(units, key=lambda name: units[name])
        raise ValueError(
            f"{len(units)} layers, the widest {widest!r} with {units[widest]:,} units, would need about "
            f"{needed / 2**30:.0f} GB for their similarity matrices; {cure}"
        )
