"""Which layers to regularise: the last hidden one by default, or the modules that names and patterns select."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import nn

from .capture import LayerTarget
from .module_names import plain_names
from .output_head import find_last_hidden_layers


def find_layers(model: nn.Module, patterns: Sequence[str] | None) -> list[LayerTarget]:
    """Resolve `DiversityConfig.layers`.

    Args:
        model: the model, wrapped or not.
        patterns: None for the last hidden layer (the input of the output head), or module names and patterns in which
            `*` and `?` stay within one dotted part and `**` crosses dots, as in file globs:
            "encoder.layer.*" selects the blocks, not what is inside them.

    Returns:
        The layers, in the model's order, each once.

    Raises:
        ValueError: a pattern matches nothing, or the output head cannot be told; with names to type instead.
    """
    if patterns is None:
        return find_last_hidden_layers(model)
    modules = dict(plain_names(model))
    chosen: set[str] = set()
    for pattern in patterns:
        expression = _glob_to_regex(pattern)
        matches = [name for name in modules if expression.fullmatch(name)]
        if not matches:
            near = difflib.get_close_matches(pattern, modules, n=5, cutoff=0)
            raise ValueError(
                f"layers: {pattern!r} matches no module of {type(model).__name__}; nearest names: {', '.join(near)}"
            )
        chosen.update(matches)
    targets: dict[nn.Module, LayerTarget] = {}
    for name, module in modules.items():
        if name in chosen:
            targets.setdefault(module, LayerTarget(name, module))  # a shared module once, whatever its names
    return list(targets.values())


def _glob_to_regex(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))
