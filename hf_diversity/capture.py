"""Collecting hidden activations with hooks that cannot be left behind."""

from __future__ import annotations

import contextlib
import difflib
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class LayerTarget:
    """One layer to capture: a module's output, or its input if the module is the output head."""

    name: str
    module: nn.Module
    point: Literal["input", "output"] = "output"

    def describe(self) -> str:
        """Words for messages."""
        return f"the input of {self.name!r}" if self.point == "input" else f"layer {self.name!r}"


class _Hook:
    """A forward (pre-)hook that appends to the armed store, and does nothing otherwise.

    A copy or a pickle of the model made while it is registered gets an inert callable in its place.
    """

    def __init__(self, target: LayerTarget):
        self.target = target
        self.store: dict[str, list[Tensor]] | None = None

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
        self.store.setdefault(self.target.name, []).append(tensor)

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
    """Hooks on some layers, armed only for a forward pass.

    Args:
        targets: the layers.
        model: the model they belong to, for the names in error messages.

    Example:
        >>> with capture.attached(), capture.armed() as captured:  # doctest: +SKIP
        ...     model(**inputs)
        >>> captured["encoder.layer.3"]  # one tensor for every time the layer ran  # doctest: +SKIP
    """

    def __init__(self, targets: list[LayerTarget], model: nn.Module):
        """See the class."""
        self.targets = targets
        self._names = [name for name, _ in model.named_modules()]
        self._hooks = [_Hook(target) for target in targets]
        self._handles: list[RemovableHandle] = []

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Have the hooks registered inside; nested calls register them once, and the outermost removes them."""
        outermost = not self._handles
        try:
            if outermost:
                for hook in self._hooks:
                    module = hook.target.module
                    self._handles.append(
                        module.register_forward_pre_hook(hook, with_kwargs=True)
                        if hook.target.point == "input"
                        else module.register_forward_hook(hook, with_kwargs=True)
                    )
            yield
        finally:
            if outermost:
                for handle in self._handles:
                    handle.remove()
                self._handles = []

    @contextlib.contextmanager
    def armed(self) -> Iterator[dict[str, list[Tensor]]]:
        """Collect what the layers produce inside. The capture itself keeps no reference to it afterwards."""
        store: dict[str, list[Tensor]] = {}
        try:
            for hook in self._hooks:
                hook.store = store
            yield store
        finally:
            for hook in self._hooks:
                hook.store = None

    def check(self, captured: Mapping[str, list[Tensor]], training: bool) -> None:
        """Refuse a forward pass from which a layer is missing, or from which it would train nothing.

        Raises:
            RuntimeError: a layer did not run, or its activations carry no gradient while training.
        """
        for target in self.targets:
            if not captured.get(target.name):
                near = difflib.get_close_matches(
                    target.name, [n for n in self._names if n != target.name], n=5, cutoff=0
                )
                raise RuntimeError(
                    f"{target.describe()} did not run in this forward pass, so nothing was captured; name a layer "
                    f"that runs (nearest: {', '.join(near)}), or set both weights to 0"
                )
            if training and not all(tensor.requires_grad for tensor in captured[target.name]):
                raise RuntimeError(
                    f"the activations of {target.describe()} carry no gradient, so the regulariser would train "
                    f"nothing. {self._why_no_gradient(target)}"
                )

    def _why_no_gradient(self, target: LayerTarget) -> str:
        parameters = list(target.module.parameters())
        if target.point == "output" and any(p.requires_grad for p in parameters):
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
