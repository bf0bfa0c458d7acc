"""The constants of the bounds, measured from a network and its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import ActivationCapture, LayerTarget
from ..functional import average_distance
from ..layers import find_layers
from ..modes import modes_put_back
from ..module_names import plain_names
from .checks import check_constant
from .inputs import BoundInputs

Activation = Callable[[Tensor], Tensor]

# Largest slope of phi. GELU's is at sqrt 2, where it is 1.128904..., SiLU's at 2.399..., 1.099839...; both rounded up
_LIPSCHITZ: dict[type, float] = {
    nn.ReLU: 1.0, nn.Sigmoid: 0.25, nn.Tanh: 1.0, nn.Softplus: 1.0, nn.Identity: 1.0, nn.GELU: 1.13, nn.SiLU: 1.1,
}  # fmt: skip


def measure_inputs(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    hidden: str | nn.Linear | Sequence[str | nn.Linear],
    output: str | nn.Linear,
    activation: Activation,
    lipschitz: float | None = None,
    quantile: float = 0.0,
) -> BoundInputs:
    """Measure the constants of a fully connected network on the inputs that a data loader gives, in evaluation mode.

    f(x) = output(phi(hidden_P(... phi(hidden_1(x))))). That the network is of this form is checked on every batch.
    With several outputs the bounds hold for each by itself. The constants are those of these samples, in float64: the
    distribution they come from may hold larger inputs and less diversity.

    Args:
        model: holds the layers; left in the mode it was in.
        dataloader: gives batches of inputs: a tensor, a tuple whose first element is one, or a dict of the model's
            arguments. N is the number of samples that come, so it should be the training set, each sample once.
        hidden: the hidden `nn.Linear`, or the list of them from the input on, as modules or names.
        output: the output `nn.Linear`.
        activation: phi, for instance `nn.ReLU()`.
        lipschitz: L; None for that of ReLU, Sigmoid, Tanh, Softplus, GELU, SiLU or Identity modules.
        quantile: d^2 is the D(x) that at most this share of the samples is below, and Q the share of those that are
            not below it. 0 takes the smallest D(x), with Q = 1.

    Returns:
        The constants; `c5_measured` is the largest |activation| seen. D and C5 are those of |activation|, which makes
        the bounds hold for activations of either sign.

    Raises:
        TypeError: a layer is no `nn.Linear`, or a batch holds no tensor.
        ValueError: a layer is not found, the network is not of this form, phi's Lipschitz constant is not known, the
            quantile is not in [0, 1), the inputs are not (N, features), or no sample came.
    """
    if not 0 <= check_constant("quantile", quantile, "the share of samples with a smaller D(x)") < 1:
        raise ValueError(f"quantile is {quantile}: it must be in [0, 1); type quantile=0.05")
    layers = [hidden] if isinstance(hidden, str | nn.Module) else list(hidden)
    if not layers:
        raise ValueError("hidden is empty: name the hidden layers from the input on; type hidden=['fc1']")
    targets = [_linear(model, layer, "hidden") for layer in layers]
    head = _linear(model, output, "output")
    slope = _lipschitz(activation) if lipschitz is None else check_constant("lipschitz", lipschitz, "L")
    weights = [_Weights(target.module) for target in targets]
    seen = _Extremes()
    for received in _layer_inputs(model, dataloader, [*targets, head]):
        seen.update(received[0].double(), _last_hidden(activation, weights, targets, received))
    d, probability = seen.distance(quantile)
    last = _Weights(head.module)
    return BoundInputs(
        num_units=last.matrix.shape[1],
        num_samples=seen.num_samples,
        c1=seen.input_norm,
        c3=tuple(w.row_norm(2 if depth == 0 else 1) for depth, w in enumerate(weights)),
        c4=float(last.matrix.abs().max()),
        d_min=d,
        probability=probability,
        lipschitz=slope,
        phi_zero=float(_apply(activation, last.matrix.new_zeros(1)).abs()),
        hidden_bias=tuple(w.largest_bias() for w in weights),
        output_bias=last.largest_bias(),
        c5_measured=seen.activation,
    )


class _Weights:
    """A layer's parameters in float64."""

    def __init__(self, layer: nn.Module):
        assert isinstance(layer, nn.Linear)  # for mypy: `_linear` refused all else
        self.matrix = layer.weight.detach().double()
        self.bias = None if layer.bias is None else layer.bias.detach().double()

    def row_norm(self, order: int) -> float:
        return float(self.matrix.norm(p=order, dim=1).max())

    def largest_bias(self) -> float:
        return 0.0 if self.bias is None else float(self.bias.abs().max())


@dataclass
class _Extremes:
    """What is largest over the batches, and every D(x)."""

    num_samples: int = 0
    input_norm: float = 0.0
    activation: float = 0.0
    distances: list[Tensor] = field(default_factory=list)

    def update(self, inputs: Tensor, activations: Tensor) -> None:
        """Add a batch: (N, features) inputs and (N, M) activations of the last hidden layer."""
        sizes = activations.abs()
        self.distances.append(average_distance(sizes).cpu())
        self.num_samples += len(inputs)
        self.input_norm = max(self.input_norm, float(inputs.norm(dim=1).max()))
        self.activation = max(self.activation, float(sizes.max()))

    def distance(self, quantile: float) -> tuple[float, float]:
        """The d whose square at most a share `quantile` of all D(x) is below, and the share that is not."""
        if not self.distances:
            raise ValueError("the data loader gave no batch: nothing was measured; check the data set")
        values = torch.cat(self.distances).sort().values
        chosen = values[math.floor(quantile * len(values))]
        return math.sqrt(float(chosen)), float((values >= chosen).double().mean())


def _last_hidden(
    activation: Activation, weights: list[_Weights], targets: list[LayerTarget], received: list[Tensor]
) -> Tensor:
    """The (N, M) activations of the last hidden layer in float64, after a look whether the network computes the same.

    Args:
        activation: phi.
        weights: of the hidden layers.
        targets: the hidden layers.
        received: what each of them, and then the output layer, was given by the network.
    """
    values = received[0].double()
    for layer, target, got in zip(weights, targets, received[1:], strict=True):
        values = _apply(activation, nn.functional.linear(values, layer.matrix, layer.bias))
        rounding = math.sqrt(torch.finfo(got.dtype).eps)  # the network computes in its own precision
        if values.shape != got.shape or (values - got).abs().max() > rounding * values.abs().max():
            raise ValueError(
                f"what follows hidden layer {target.name!r} is not activation({target.name}(x)) with the activation "
                "that you gave: the bounds are for layers with only an activation function in between; give the "
                "network's activation, and all its hidden layers in order"
            )
    return values


def _layer_inputs(model: nn.Module, dataloader: Iterable[Any], targets: list[LayerTarget]) -> Iterator[list[Tensor]]:
    """What each layer receives, batch by batch."""
    capture = ActivationCapture(targets, model)
    device = next(model.parameters()).device
    with modes_put_back(model), torch.no_grad():
        model.eval()
        for batch in dataloader:
            with capture.armed() as store:
                _call(model, batch, device)
            taken = capture.take(store, training=False)
            yield [_rows(taken[target.name], target.name) for target in targets]


def _call(model: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, Mapping):
        model(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        return
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(first, Tensor):
        raise TypeError(
            f"a batch is a {type(batch).__name__} without a tensor to pass to the model; the data loader must give "
            "tensors of inputs, tuples (inputs, ...), or dicts of the model's arguments"
        )
    model(first.to(device))


def _rows(tensors: list[Tensor], name: str) -> Tensor:
    """The one (N, features) tensor that a layer received."""
    if any(len(t) == 0 for t in tensors):
        raise ValueError(f"layer {name!r} received no sample: a batch is empty; check the data loader")
    if len(tensors) != 1 or tensors[0].ndim != 2:
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(
            f"layer {name!r} received {shapes}: the bounds are for independent samples, one row each, (N, features), "
            "and for layers that run once; flatten or pool the inputs before the first layer"
        )
    return tensors[0]


def _linear(model: nn.Module, layer: Any, argument: str) -> LayerTarget:
    """The layer, of which the input is looked at."""
    if isinstance(layer, str):
        found = [(target.name, target.module) for target in find_layers(model, [layer])]
    else:
        found = [(name, module) for name, module in plain_names(model) if module is layer]
    if len(found) != 1:
        raise ValueError(
            f"{argument}: {layer!r} matches {len(found)} modules of {type(model).__name__}; name just one"
        )
    name, module = found[0]
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{argument}: {name!r} is {type(module).__name__}, and the bounds are for nn.Linear; name one")
    return LayerTarget(name, module, "input")


def _lipschitz(activation: Activation) -> float:
    known = _LIPSCHITZ.get(type(activation))
    if known is None:
        raise ValueError(
            f"the Lipschitz constant of the activation {activation!r} is not known; type lipschitz=1.0 if its slope "
            "is at most 1, or its largest slope"
        )
    return known


def _apply(activation: Activation, values: Tensor) -> Tensor:
    with torch.no_grad():
        return activation(values)
