"""A raw timm model in the trainer: wrapped so that it takes labels, and so that its checkpoints reload."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .compat import keep_timm_names

if TYPE_CHECKING:
    from transformers import TimmWrapperForImageClassification


def is_raw_timm_model(model: object) -> bool:
    """Whether `model` came from `timm.create_model` and is not wrapped by transformers."""
    return (
        isinstance(model, nn.Module)
        and isinstance(getattr(model, "pretrained_cfg", None), dict)
        and callable(getattr(model, "get_classifier", None))
        and callable(getattr(model, "forward_features", None))
    )


def wrap_timm_model(model: Any, model_args: dict[str, Any] | None = None) -> TimmWrapperForImageClassification:
    """Put a timm model into transformers' `TimmWrapperForImageClassification`, sharing its parameters.

    A plain timm model takes no labels and returns no loss, so Trainer can neither train nor evaluate it. The wrapper
    can, and what it saves is loaded by `AutoModelForImageClassification.from_pretrained(folder)` as well as by
    `timm.create_model("local-dir:folder", pretrained=True)`.

    Args:
        model: from `timm.create_model(...)`; trained in place.
        model_args: what `create_model` was given beside the name and `num_classes`. Found out if None, where it is
            `in_chans` or `img_size`.

    Returns:
        The wrapper; `wrapper.timm_model is model`.

    Raises:
        ValueError: the model has no classifier, or could not be rebuilt from its name and arguments.
    """
    # Imports timm, a third of a second that no other model needs
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    name = model.pretrained_cfg.get("architecture") or model.pretrained_cfg.get("tag")
    classes = getattr(model, "num_classes", 0)
    if not classes:
        raise ValueError(
            f"the timm model {name!r} has no classifier (num_classes=0): type timm.create_model({name!r}, "
            "num_classes=...)"
        )
    model_args = _guess_model_args(model) if model_args is None else model_args
    pretrained_cfg = {k: v for k, v in copy.deepcopy(model.pretrained_cfg).items() if v is not None}
    config = TimmWrapperConfig.from_dict(
        {"architecture": name, "pretrained_cfg": pretrained_cfg, "model_args": model_args}, num_labels=classes
    )
    # Building the wrapper draws random numbers for weights that are thrown away: the caller's state stays as it was
    with torch.random.fork_rng():
        wrapper = TimmWrapperForImageClassification(config)
        difference = _difference(wrapper.timm_model, model)
    if difference:
        raise ValueError(
            f"a checkpoint of this {name!r} would reload as another model: timm.create_model({name!r}, "
            f"num_classes={classes}, **{model_args}) differs in {difference}. Type "
            "hf_diversity.timm_models.wrap_timm_model(model, model_args={...}) with the arguments it was created "
            "with, and pass the result to the trainer"
        )
    wrapper.timm_model = model
    keep_timm_names(wrapper)
    return wrapper


def _difference(rebuilt: Any, model: Any) -> str | None:
    """How the model that a checkpoint would bring back differs from the given one, in words; None if it does not."""
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (rebuilt, model)]
    if shapes[0] != shapes[1]:
        keys = sorted(key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key))
        return f"its weights ({', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''})"
    lines = [str(m).splitlines() for m in (rebuilt, model)]
    if lines[0] != lines[1]:  # dropout rates, kinds of pooling, activations
        pairs = ((a.strip(), b.strip()) for a, b in zip(*lines, strict=False) if a != b)
        rebuilt_line, given_line = next(pairs, ("fewer", "more"))
        return f"its modules ({rebuilt_line} against {given_line})"
    for attribute in ("global_pool", "drop_rate", "num_prefix_tokens", "no_embed_class"):
        values = [getattr(m, attribute, None) for m in (rebuilt, model)]
        if isinstance(values[1], str | int | float) and values[0] != values[1]:
            return f"{attribute} ({values[0]!r} against {values[1]!r})"
    return None


def _guess_model_args(model: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    first = model.pretrained_cfg.get("first_conv")
    first = first[0] if isinstance(first, list | tuple) and first else first
    if isinstance(first, str) and first:
        convolution = model.get_submodule(first)
        default = (model.pretrained_cfg.get("input_size") or (3,))[0]
        if getattr(convolution, "in_channels", default) != default:
            arguments["in_chans"] = convolution.in_channels
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None and tuple(size) != tuple(model.pretrained_cfg.get("input_size", ())[1:]):
        arguments["img_size"] = list(size)
    return arguments
