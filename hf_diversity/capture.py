"""Collecting hidden activations with hooks that cannot be left behind."""

from __future__ import annotations

import contextlib
import difflib
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .frames import FrameCounter
from .replicas import merge_replicas


@dataclass(frozen=True)
class LayerTarget:
    """One layer to capture: a module's output, or its input if the module is the output head.

    `stand_in` is a module whose output is that input. It is taken where the head did not run: kernels that fuse a
    language model's head with its loss (TRL, Liger) read the head's weight and never call it.
    `prefix_tokens` of its positions (a ViT's class and register tokens) are not taken as samples. `frames` tells how
    many positions a speech model makes of so many samples of sound, to which its attention mask belongs.
    """

    name: str
    module: nn.Module
    point: Literal["input", "output"] = "output"
    stand_in: nn.Module | None = None
    prefix_tokens: int = 0
    frames: FrameCounter | None = field(default=None, compare=False)

    def describe(self) -> str:
        """Words for messages."""
        return f"the input of {self.name!r}" if self.point == "input" else f"layer {self.name!r}"


class Captured(NamedTuple):
    """What a hook saw of one run of a layer."""

    tensor: Tensor
    version: int | None
    grad_enabled: bool


class TemporaryHook:
    """A hook in whose place a copy or a pickle of the model, made while it is registered, gets an inert callable."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """For copy.deepcopy."""
        return _INERT

    def __reduce__(self) -> Any:
        """For pickle."""
        return functools.partial, (sys.audit, "hf_diversity.copied_hook")


class _Hook(TemporaryHook):
    """A forward (pre-)hook that appends to the armed store, and does nothing otherwise."""

    def __init__(self, target: LayerTarget, key: str):
        self.target = target
        self.key = key
        self.store: dict[str, list[Captured]] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if self.store is None:
            return
        source = output if self.target.point == "output" else (args if args else tuple(kwargs.values()))
        tensor = first_tensor(source)
        if tensor is None:
            raise TypeError(
                f"{self.target.describe()} ({type(module).__name__}) gives {type(source).__name__}, in which there is "
                "no tensor; name another layer"
            )
        # A compiler makes in-place operations functional, and an inference tensor has no version to look at
        has_version = not torch.compiler.is_compiling() and not tensor.is_inference()
        captured = Captured(tensor, tensor._version if has_version else None, torch.is_grad_enabled())
        self.store.setdefault(self.key, []).append(captured)


# Stands where a copied or pickled hook would be. Made of the standard library alone, so that a model pickled while it
# was hooked loads where hf_diversity is not installed: an audit event takes any arguments and returns None.
_INERT = functools.partial(sys.audit, "hf_diversity.copied_hook")


def first_tensor(value: Any) -> Tensor | None:
    """The activations in a module's output: a tensor, or the first one in a tuple, list, dict or ModelOutput.

    A module of sentence-transformers hands on its inputs too, and names what it made.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        made = next((k for k in ("last_hidden_state", "sentence_embedding", "token_embeddings") if k in value), None)
        value = list(value.values()) if made is None else [value[made]]
    if isinstance(value, tuple | list):
        return next((t for item in value if (t := first_tensor(item)) is not None), None)
    return None


def _stand_in_key(target: LayerTarget) -> str:
    return f"stand-in of {target.name}"


class ActivationCapture:
    """Hooks on some layers, registered and armed only for a forward pass.

    Args:
        targets: the layers.
        model: the model they belong to, for the names in error messages.

    Example:
        >>> with capture.armed() as store:  # doctest: +SKIP
        ...     model(**inputs)
        >>> capture.take(store, training=False)["encoder.layer.3"]  # a tensor for each time it ran  # doctest: +SKIP
    """

    def __init__(self, targets: list[LayerTarget], model: nn.Module):
        """See the class."""
        self.targets = targets
        self._names = [name for name, _ in model.named_modules() if name]
        self._hooks = [_Hook(target, target.name) for target in targets]
        self._hooks += [
            _Hook(LayerTarget(target.name, target.stand_in), _stand_in_key(target))
            for target in targets
            if target.stand_in is not None
        ]

    @contextlib.contextmanager
    def armed(self) -> Iterator[dict[str, list[Captured]]]:
        """Collect what the layers produce inside; the hooks are gone afterwards, and nothing else refers to the store.

        A torch.compile that happens inside traces the hooks and keeps them in its graph, whose guards ignore that they
        are taken off between calls; the hook objects are the same at every call, so nothing is compiled again.
        """
        store: dict[str, list[Captured]] = {}
        handles: list[RemovableHandle] = []
        try:
            for hook in self._hooks:
                hook.store = store
                module = hook.target.module
                handles.append(
                    module.register_forward_pre_hook(hook, with_kwargs=True)
                    if hook.target.point == "input"
                    else module.register_forward_hook(hook, with_kwargs=True)
                )
            yield store
        finally:
            for handle in handles:
                handle.remove()
            for hook in self._hooks:
                hook.store = None

    def take(self, store: Mapping[str, list[Captured]], training: bool) -> dict[str, list[Tensor]]:
        """The activations by layer, one tensor for each time the layer ran.

        Args:
            store: from `armed`, after the forward pass.
            training: leave out passes that ran without gradient beside others that ran with it (a frozen teacher,
                say), and refuse a layer that would train nothing.

        Raises:
            RuntimeError: a layer did not run, its activations carry no gradient while training, or they were
                overwritten in place after it.
        """
        activations = {}
        for target in self.targets:
            captured = store.get(target.name) or store.get(_stand_in_key(target), [])
            if not captured:
                near = difflib.get_close_matches(
                    target.name, [n for n in self._names if n != target.name], n=5, cutoff=0
                )
                raise RuntimeError(
                    f"{target.describe()} did not run in this forward pass, so nothing was captured; name a layer "
                    f"that runs (nearest: {', '.join(near)}), or set both weights to 0"
                )
            if training and any(c.grad_enabled for c in captured):
                captured = [c for c in captured if c.grad_enabled]
            if training and not all(c.tensor.requires_grad for c in captured):
                raise RuntimeError(
                    f"the activations of {target.describe()} carry no gradient, so the regulariser would train "
                    f"nothing. {self._why_no_gradient(target, captured)}"
                )
            if any(c.version is not None and c.version != c.tensor._version for c in captured):
                raise RuntimeError(
                    f"the activations of {target.describe()} were overwritten after it by an in-place operation (an "
                    "activation with inplace=True, or a residual sum), so its own output is gone; name the layer that "
                    "overwrites it, or make that operation not in-place"
                )
            activations[target.name] = merge_replicas([c.tensor for c in captured])
        return activations

    def _why_no_gradient(self, target: LayerTarget, captured: list[Captured]) -> str:
        hidden = not any(c.grad_enabled for c in captured)
        cached = (
            " If the loss caches gradients and runs the model a second time in the backward pass (the Cached... "
            "losses of sentence-transformers), type the loss without the cache."
        )
        if target.point == "output" and any(p.requires_grad for p in target.module.parameters()):
            return (
                "The layer itself is trainable, so it ran inside reentrant gradient checkpointing, which hides the "
                'graph: type gradient_checkpointing_kwargs={"use_reentrant": False}, or name a layer outside the '
                f"checkpointed block.{cached}"
            )
        if hidden:
            return (
                "It ran inside reentrant gradient checkpointing, or otherwise without gradient: type "
                'gradient_checkpointing_kwargs={"use_reentrant": False}, name a layer outside the checkpointed block '
                f"in DiversityConfig(layers=[...]), or set both weights to 0.{cached}"
            )
        return (
            "Everything before it is frozen: unfreeze the layers before it, name a trainable layer in "
            "DiversityConfig(layers=[...]), or set both weights to 0"
        )
