"""Which layers to regularise: the last hidden one by default, or the modules that names and patterns select."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from .capture import LayerTarget

# What torch.compile, FSDP1, DDP and PEFT put into module names; users write the base model's names
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
_PEFT_PREFIX = "base_model.model."
_HEADS = (nn.Linear, nn.modules.conv._ConvNd)


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
        return [find_last_hidden_layer(model)]
    modules = {plain_name(name): module for name, module in model.named_modules() if plain_name(name)}
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
    return [LayerTarget(name, module) for name, module in modules.items() if name in chosen]


def plain_name(name: str) -> str:
    """A module's name without what wrappers added to it."""
    return _WRAPPERS.sub("", name).removeprefix(_PEFT_PREFIX)


def _glob_to_regex(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))


def find_last_hidden_layer(model: nn.Module) -> LayerTarget:
    """The last hidden layer: what the last weighted layer of the output head receives.

    timm models name their head (`get_classifier`). In a transformers model the head is what stands beside the base
    model (`base_model_prefix`); a head with a hidden layer of its own ends in the layer that makes the logits.

    Raises:
        ValueError: no head or more than one; lists candidates for `DiversityConfig(layers=[...])`.
    """
    names = {module: plain_name(name) for name, module in model.named_modules()}
    timm_model: Any = next((m for m in model.modules() if callable(getattr(m, "get_classifier", None))), None)
    if timm_model is not None:
        head = timm_model.get_classifier()
        heads = _output_layers(head) if isinstance(head, nn.Module) else []
        if isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList | nn.ModuleDict):
            heads = heads[-1:]
    else:
        heads = _transformers_heads(model)
    if len(heads) == 1:
        return LayerTarget(names[heads[0]], heads[0], point="input")
    found = ", ".join(names[h] for h in heads) if heads else "none"
    candidates = [name for module, name in names.items() if isinstance(module, _HEADS)][-8:]
    raise ValueError(
        f"cannot tell the output head of {type(model).__name__} (found: {found}), and so not its last hidden layer; "
        f"type DiversityConfig(layers=[...]) with the layers whose outputs to regularise, for example from: "
        f"{', '.join(candidates) or 'model.named_modules()'}"
    )


def _transformers_heads(model: nn.Module) -> list[nn.Module]:
    """The layers that make the outputs of a transformers model, outside its base model."""
    owner = next((m for m in model.modules() if getattr(m, "base_model_prefix", "")), model)
    base = getattr(owner, getattr(owner, "base_model_prefix", "") or "-", None)
    labels = getattr(getattr(owner, "config", None), "num_labels", None)
    beside = [child for child in owner.children() if child is not base] if base is not None else [owner]
    ends = [layers[-1] for child in beside if (layers := _output_layers(child))]
    if len(ends) > 1:
        # DistilBERT has a hidden `pre_classifier` beside its `classifier`: only an end as wide as the labels is an
        # output
        ends = [e for e in ends if getattr(e, "out_features", getattr(e, "out_channels", None)) == labels] or ends
    return ends


def _output_layers(head: nn.Module) -> list[nn.Module]:
    return [module for module in head.modules() if isinstance(module, _HEADS)]
