"""The names of a model's modules, as they are without what wrappers put around it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

# What wrappers put between a user's names: torch.compile, FSDP1 and activation checkpointing under names of their own,
# the data-parallel ones under the ordinary name `module`
_WRAPPED_AS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine"}


def plain_names(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module below `model` by the base model's names, without what wrappers add; shared modules by each name."""
    if prefix == "" and (inner := _inside_peft(model)) is not None:
        yield from plain_names(inner)
        return
    for name, child in model._modules.items():  # named_children would leave out a shared module's second name
        if child is None:
            continue
        if _wraps(model, name):
            yield from plain_names(child, prefix)
        else:
            yield prefix + name, child
            yield from plain_names(child, f"{prefix}{name}.")


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside any wrappers: the one whose modules `plain_names` names."""
    inner = _inside_peft(model)
    if inner is None:
        inner = next((c for name, c in model._modules.items() if c is not None and _wraps(model, name)), None)
    return model if inner is None else bare_model(inner)


def _wraps(model: nn.Module, name: str) -> bool:
    return name in _WRAPPED_AS or (name == "module" and type(model).__name__ in _PARALLEL)


def _inside_peft(model: nn.Module) -> nn.Module | None:
    inner = getattr(getattr(model, "base_model", None), "model", None) if hasattr(model, "peft_config") else None
    return inner if isinstance(inner, nn.Module) else None
