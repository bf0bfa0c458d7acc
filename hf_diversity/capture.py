"""Collecting hidden activations with hooks that cannot be left behind."""

from __future__ import annotations

import contextlib
import difflib
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class LayerTarget:
    """One layer to capture: a module's output, or its input if the module is the output head.

    `prefix_tokens` of its positions (a ViT's class and register tokens) are not taken as samples.
    """

    name: str
    module: nn.Module
    point: Literal["input", "output"] = "output"
    prefix_tokens: int = 0

    def describe(self) -> str:
        """Words for messages."""
        return f"the input of {self.name!r}" if self.point == "input" else f"layer {self.name!r}"


class _Captured(NamedTuple):
    tensor: Tensor
    version: int | None
    grad_enabled: bool


class _Hook:
    """A forward (pre-)hook that appends to the armed store, and does nothing otherwise.

    A copy or a pickle of the model made while it is registered gets an inert callable in its place.
    """

    def __init__(self, target: LayerTarget):
        self.target = target
        self.store: dict[str, list[_Captured]] | None = None

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any = None) -> None:
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
        captured = _Captured(tensor, tensor._version if has_version else None, torch.is_grad_enabled())
        self.store.setdefault(self.target.name, []).append(captured)

    def __deepcopy__(self, memo: dict) -> Any:
        return _INERT

    def __reduce__(self) -> Any:
        return functools.partial, (sys.audit, "hf_diversity.copied_hook")


# Stands where a copied or pickled hook would be. Made of the standard library alone, so that a model pickled while it
# was hooked loads where hf_diversity is not installed: an audit event takes any arguments and returns None.
_INERT = functools.partial(sys.audit, "hf_diversity.copied_hook")


def first_tensor(value: Any) -> Tensor | None:
    """The activations in a module's output: a tensor, or the first one in a tuple, list, dict or ModelOutput."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = [value["last_hidden_state"]] if "last_hidden_state" in value else list(value.values())
    if isinstance(value, tuple | list):
        return next((t for item in value if (t := first_tensor(item)) is not None), None)
    return None


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
        self._hooks = [_Hook(target) for target in targets]

    @contextlib.contextmanager
    def armed(self) -> Iterator[dict[str, list[_Captured]]]:
        """Collect what the layers produce inside; the hooks are gone afterwards, and nothing else refers to the store.

        A torch.compile that happens inside traces the hooks and keeps them in its graph, whose guards ignore that they
        are taken off between calls; the hook objects are the same at every call, so nothing is compiled again.
        """
        store: dict[str, list[_Captured]] = {}
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

    def take(self, store: Mapping[str, list[_Captured]], training: bool) -> dict[str, list[Tensor]]:
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
            captured = store.get(target.name, [])
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
                    f"nothing. {self._why_no_gradient(target)}"
                )
            if any(c.version is not None and c.version != c.tensor._version for c in captured):
                raise RuntimeError(
                    f"the activations of {target.describe()} were overwritten after it by an in-place operation (an "
                    "activation with inplace=True, or a residual sum), so its own output is gone; name the layer that "
                    "overwrites it, or make that operation not in-place"
                )
            activations[target.name] = [c.tensor for c in captured]
        return activations

    def _why_no_gradient(self, target: LayerTarget) -> str:
        if target.point == "output" and any(p.requires_grad for p in target.module.parameters()):
            return (
                "The layer itself is trainable, so it ran inside reentrant gradient checkpointing, which hides the "
                'graph: type gradient_checkpointing_kwargs={"use_reentrant": False}, or name a layer outside the '
                "checkpointed block"
            )
        return (
            "Everything before it is frozen, or it ran inside reentrant gradient checkpointing: unfreeze the layers "
            'before it, type gradient_checkpointing_kwargs={"use_reentrant": False}, name a trainable layer in '
            "DiversityConfig(layers=[...]), or set both weights to 0"
        )
