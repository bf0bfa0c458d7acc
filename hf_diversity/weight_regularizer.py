"""`WeightRegularizer`: orthogonality of weights, in the place that `DiversityRegularizer` has for activations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from .citations import BY_MEASURE
from .config import DiversityConfig
from .functional import orthogonality, srip
from .layers import find_layers
from .module_names import plain_names
from .output_head import find_last_hidden_layers
from .regularizer import LayerParts, RegularizerOutput

logger = logging.get_logger(__name__)

# Layers whose weight has a row of its own for each unit; GPT-2's Conv1D has a column
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)


class WeightRegularizer:
    """SO or SRIP of the weights of one or more layers; it keeps no state.

    A step of several micro-batches or processes has it once: every one of them computes the same J, of which the
    optimiser sees the mean.

    Args:
        config: what to compute; `measure` is "orthogonality" or "srip".

    References:
        Bansal et al., "Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?" (NeurIPS 2018).
    """

    measure = None
    median_gamma = None

    def __init__(self, config: DiversityConfig):
        """See the class."""
        self.config = config
        # What the weight is multiplied by, see `callbacks.DiversityScheduleCallback`; None where nobody sets it
        self.scale: float | None = None

    @property
    def citation(self) -> str:
        """BibTeX of the measure's source."""
        return BY_MEASURE[self.config.measure]

    def __call__(self, model: nn.Module, step: int) -> RegularizerOutput:
        """Compute the regulariser of the model's weights as they are.

        Args:
            model: wrapped or not.
            step: optimiser steps done so far; SRIP's power iteration begins at another vector in each.

        Raises:
            ValueError: a layer has no weight of whole rows, or none that is trained.
        """
        layers = find_weighted_layers(model, self.config.layers)
        weight = self.config.diversity_weight * (1.0 if self.scale is None else self.scale)
        # At weight 0 it is logged, and must not cost a gradient: one of 0 would let weight decay act
        with contextlib.nullcontext() if weight else torch.no_grad():
            values = {name: self._value(whole_weight(name, layer), step) for name, layer in layers.items()}
        first, *others = values.values()
        penalty = weight * sum((value.to(first.device) for value in others), first)
        return RegularizerOutput(penalty, {name: LayerParts(None, None, v.detach()) for name, v in values.items()})

    def shown(self, model: nn.Module) -> list[Tensor]:
        """A number of each weight, with history, for DDP's search for unused parameters."""
        layers = find_weighted_layers(model, self.config.layers)
        return [whole_weight(name, layer).reshape(-1)[:1] for name, layer in layers.items()]

    def _value(self, weight: Tensor, step: int) -> Tensor:
        return orthogonality(weight) if self.config.measure == "orthogonality" else srip(weight, seed=step)

    def discard_step(self) -> None:
        """Nothing is known of a step."""

    def current_gamma(self, name: str, step: int) -> None:
        """There is none."""
        return None

    def state_dict(self, step: int) -> dict[str, Any]:
        """Nothing has to be saved."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Nothing is to be continued."""


def find_weighted_layers(model: nn.Module, patterns: list[str] | None) -> dict[str, nn.Module]:
    """The layers whose weights are regularised.

    Args:
        model: wrapped or not.
        patterns: None for every linear layer and convolution with a weight that is trained, except the output head;
            or names and patterns as in `find_layers`.

    Raises:
        ValueError: a named layer is of another kind or frozen, or there is none at all.
    """
    layers: dict[str, nn.Module]
    if patterns is None:
        heads = _heads(model)
        trained = {
            module: name  # a shared module once
            for name, module in plain_names(model)
            if isinstance(module, _KINDS) and module not in heads and module.weight.requires_grad
        }
        layers = {name: module for module, name in trained.items()}
        if not layers:
            raise ValueError(
                f"{type(model).__name__} has no linear layer or convolution that is trained, beside the output head; "
                "type layers=[...] with names of model.named_modules()"
            )
        return layers
    layers = {target.name: target.module for target in find_layers(model, patterns)}
    for name, layer in layers.items():
        if not isinstance(layer, _KINDS):
            raise ValueError(
                f"layers: {name!r} is a {type(layer).__name__}, and orthogonality is that of the rows of a linear "
                f"layer's or a convolution's weight; nearest: {', '.join(_near(model, name)) or 'none'}"
            )
        if not layer.weight.requires_grad:
            raise ValueError(f"layers: the weight of {name!r} is frozen: nothing would be trained; name another layer")
    return layers


def announce_weights(trainer: Any) -> None:
    """Name the layers whose weights a trainer regularises, once it is made.

    Raises:
        ValueError: as for `find_weighted_layers`, or the trainer shards weights.
    """
    config: DiversityConfig = trainer.diversity
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            f"measure is {config.measure!r}: FSDP and DeepSpeed may shard weights, whose orthogonality needs all of "
            'them; train with DDP, or type measure="correlation", which looks at activations'
        )
    layers = find_weighted_layers(trainer.model, config.layers)
    logger.warning(f"{config.measure} of the weights of {', '.join(map(repr, layers))}")


def whole_weight(name: str, layer: nn.Module) -> Tensor:
    """The weight with a row for each unit; it may come from a parametrisation.

    Raises:
        ValueError: this process holds a shard of it.
    """
    weight: Any = layer.weight
    if isinstance(weight, DTensor) or weight.ndim < 2:
        raise ValueError(
            f"the weight of {name!r} is sharded over processes, and its orthogonality needs all of it; train with "
            'DDP, or type measure="correlation", which looks at activations'
        )
    rows: Tensor = weight.T if isinstance(layer, Conv1D) else weight
    return rows


def _heads(model: nn.Module) -> set[nn.Module]:
    try:
        return {part for target in find_last_hidden_layers(model) for part in target.module.modules()}
    except ValueError:  # a model without an output head
        return set()


def _near(model: nn.Module, name: str) -> Iterator[str]:
    """Names of a few layers that have a weight, those within `name` first."""
    known = [other for other, module in plain_names(model) if isinstance(module, _KINDS)]
    yield from sorted(known, key=lambda other: not other.startswith(f"{name}."))[:4]
