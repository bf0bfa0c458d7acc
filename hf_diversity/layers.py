"""Which layers to regularise: the last hidden one by default, or the modules that names and patterns select."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from .capture import LayerTarget
from .frames import frame_counter
from .module_names import bare_model, plain_names
from .output_head import find_last_hidden_layers

# Where transformers' TimmWrapper has the timm model, whose own names may be typed as well
_TIMM = "timm_model"
# Parameters of the embeddings in transformers; CLIP's class_embedding is a vector
_PREFIX_TOKENS = ("cls_token", "class_embedding", "distillation_token", "register_tokens")


def find_layers(
    model: nn.Module, patterns: Sequence[str] | None, drop_prefix_tokens: bool = False
) -> list[LayerTarget]:
    """Resolve `DiversityConfig.layers`.

    Args:
        model: the model, wrapped or not.
        patterns: None for the last hidden layer (the input of the output head), or module names and patterns in which
            `*` and `?` stay within one dotted part and `**` crosses dots, as in file globs:
            "encoder.layer.*" selects the blocks, not what is inside them.
        drop_prefix_tokens: see `DiversityConfig`.

    Returns:
        The layers, in the model's order, each once.

    Raises:
        ValueError: a pattern matches nothing, or the output head cannot be told; with names to type instead. Or the
            number of prefix tokens cannot be told.
    """
    targets = _named(model, patterns) if patterns is not None else find_last_hidden_layers(model)
    if drop_prefix_tokens:
        prefix = count_prefix_tokens(model)
        targets = [replace(target, prefix_tokens=prefix) for target in targets]
    frames = frame_counter(model)
    return targets if frames is None else [replace(target, frames=frames) for target in targets]


def _named(model: nn.Module, patterns: Sequence[str]) -> list[LayerTarget]:
    """The modules that names and patterns select."""
    modules = dict(plain_names(model))
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matching(pattern, modules) or _matching(f"{_TIMM}.{pattern}", modules)
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


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    expression = glob_to_regex(pattern)
    return [name for name in names if expression.fullmatch(name)]


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """The expression of a pattern in which `*` and `?` stay within a dotted part and `**` crosses dots."""
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))


def count_prefix_tokens(model: nn.Module) -> int:
    """How many tokens of a vision transformer come before its patches: class, distillation and register tokens.

    timm models say so (`num_prefix_tokens`); in transformers the embeddings hold the tokens as parameters.

    Raises:
        ValueError: neither is there, or there are several such modules.
    """
    bare = bare_model(model)
    number = getattr(getattr(bare, "timm_model", bare), "num_prefix_tokens", None)
    if isinstance(number, int):
        found = [number]
    else:
        found = [
            sum(t.shape[-2] if t.ndim > 1 else 1 for t in tokens)
            for module in bare.modules()
            if (tokens := [p for name in _PREFIX_TOKENS if (p := module._parameters.get(name)) is not None])
        ]
    if len(found) != 1 or found[0] == 0:
        raise ValueError(
            f"drop_prefix_tokens is True, but {type(bare).__name__} "
            f"{'has several sets of' if len(found) > 1 else 'shows no'} class or register tokens, so the number to "
            "drop cannot be told; type drop_prefix_tokens=False"
        )
    return found[0]
