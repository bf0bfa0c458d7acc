"""A look at a model's layers before training: what each would give the regulariser, and about what it would cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .capture import LayerTarget, first_tensor
from .config import DiversityConfig
from .dummy_inputs import dummy_inputs
from .kernels.dispatch import estimated_cost
from .layers import glob_to_regex
from .masks import is_encoder_decoder, position_mask
from .modes import modes_put_back
from .module_names import bare_model, plain_names
from .output_head import find_last_hidden_layers
from .samples import rows_by_layer

# They give what they receive
NO_ACTIVATIONS_OF_THEIR_OWN = {"Identity", "Dropout", "DropPath", "StochasticDepth"}


@dataclass(frozen=True)
class LayerRow:
    """One module that `DiversityConfig(layers=[...])` can name, or the input of an output head (`layers=None`).

    Attributes:
        name: as in `model.named_modules()`, without what wrappers add.
        kind: class of the module.
        shape: of its activations, with the batch first; None where it gives no tensor.
        units: D of the regulariser; None where the module cannot be regularised, and `problem` says why.
        samples: N of the regulariser for one batch.
        milliseconds: estimated cost of Direct with its gradient for one batch on one CPU thread, see
            `kernels.dispatch.estimated_cost`.
        default: whether `layers=None` takes it.
        point: "input" if the activations are what the module, an output head, receives.
        problem: why it cannot be named, or "".
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    units: int | None
    samples: int | None
    milliseconds: float | None
    default: bool = False
    point: Literal["input", "output"] = "output"
    problem: str = ""


@dataclass(frozen=True)
class Inspection:
    """What `inspect_layers` found.

    Attributes:
        rows: the modules in the order in which they first ran; the inputs of output heads last.
        forward_flops: operations of one forward pass of the batch.
        no_default: why `layers=None` finds no layer, or "".
    """

    rows: list[LayerRow]
    forward_flops: int
    no_default: str = ""

    def __str__(self) -> str:
        """The table that `hf-diversity layers` prints."""
        return table("the model", self)


def inspect_layers(
    model: nn.Module,
    inputs: Mapping[str, Any] | None = None,
    diversity: DiversityConfig | None = None,
    *,
    batch_size: int = 32,
    sequence_length: int | None = None,
    image_size: int | None = None,
) -> Inspection:
    """Run one forward pass in evaluation mode, and tell what every module would give the regulariser.

    Args:
        model: any model; on the meta device nothing is computed but shapes.
        inputs: what its forward takes; None to have them made up for a timm or transformers model.
        diversity: its `samples`, `unit_axis` and `max_samples` matter. Default: `DiversityConfig()`.
        batch_size: of inputs that are made up.
        sequence_length: of inputs that are made up; None for a length that the model takes.
        image_size: of inputs that are made up; None for the configuration's.

    Returns:
        The rows and the operations of the forward pass.

    Raises:
        ValueError: `inputs` is None and none can be made up.
    """
    diversity = diversity or DiversityConfig()
    bare = bare_model(model)
    if inputs is None:
        inputs = dummy_inputs(bare, batch_size, sequence_length, image_size)
    try:
        heads, no_default = find_last_hidden_layers(model), ""
    except ValueError as error:
        heads, no_default = [], str(error)
    found, counter = _run(bare, inputs, heads)
    two_streams = is_encoder_decoder(bare)
    rows = []
    for target, tensor, version in found:
        row = LayerRow(
            target.name, type(target.module).__name__, None, None, None, None, target in heads, target.point
        )
        mask = position_mask(inputs, target, two_streams)
        rows.append(_measured(row, target, tensor, version, mask if isinstance(mask, Tensor) else None, diversity))
    return Inspection(rows, counter.get_total_flops(), no_default)


_Found = tuple[LayerTarget, Tensor | None, int]


def _run(
    model: nn.Module, inputs: Mapping[str, Any], heads: list[LayerTarget]
) -> tuple[list[_Found], FlopCounterMode]:
    """What each module gave when it first ran, and then what each head received."""
    outputs: dict[str, _Found] = {}
    received: dict[str, _Found] = {}
    handles = []

    def keep(target: LayerTarget) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
            found = received if target in heads else outputs
            source = output if target.point == "output" else (args or tuple(kwargs.values()))
            tensor = first_tensor(source)
            found.setdefault(target.name, (target, tensor, 0 if tensor is None else tensor._version))

        return hook

    targets = {target.name: target for name, m in plain_names(model) for target in [LayerTarget(name, m)]}
    own = [head for head in heads if head.point == "output"]  # a model without classes: its own output
    for target in [*targets.values(), *own]:
        handles.append(target.module.register_forward_hook(keep(target), with_kwargs=True))
    for head in heads:
        if head.point == "input":
            handles.append(head.module.register_forward_pre_hook(keep(head), with_kwargs=True))
    try:
        with modes_put_back(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [*outputs.values(), *received.values()], counter


def _measured(
    row: LayerRow,
    target: LayerTarget,
    activations: Tensor | None,
    version: int,
    mask: Tensor | None,
    diversity: DiversityConfig,
) -> LayerRow:
    """The row with what the activations tell."""
    if activations is None:
        return replace(row, problem="gives no tensor")
    row = replace(row, shape=tuple(activations.shape))
    if activations._version != version:
        return replace(row, problem="its output is overwritten in place; name the module that does so")
    if activations.device.type == "meta":
        mask = None  # what is padding cannot be seen there
    try:
        rows = rows_by_layer({target.name: [activations]}, [target], diversity, {target.name: mask})[target.name]
    except ValueError as error:
        return replace(row, problem=str(error))
    samples, units = rows.shape
    if not activations.is_floating_point() or units < 2 or samples < 2:
        return replace(row, problem=f"{units} units and {samples} samples of {activations.dtype}")
    samples = min(samples, diversity.max_samples or samples)
    return replace(row, units=units, samples=samples, milliseconds=estimated_cost(samples, units) / 1e6)


def table(name: str, inspection: Inspection, match: str | None = None) -> str:
    """The rows as text of at most 100 columns, or more where names are long: they are there to be copied.

    Raises:
        ValueError: `match` matches no module.
    """
    rows = [row for row in inspection.rows if row.units is not None and row.kind not in NO_ACTIVATIONS_OF_THEIR_OWN]
    defaults = [row for row in inspection.rows if row.default and row.units is not None]
    hidden = len(inspection.rows) - len(rows)
    if match is not None:
        expression = glob_to_regex(match)
        rows = [row for row in rows if expression.fullmatch(row.name)]
        if not rows:
            raise ValueError(f"--match {match!r} matches no module of {name}; type ** to cross dots")
    head = ("layer", "module", "output, batch first", "units", "samples", "ms")
    cells = [head] + [
        (_short(row), _cut(row.kind, 20), " x ".join(map(str, row.shape or ())), f"{row.units}", f"{row.samples}",
         f"{row.milliseconds:.2g}" if (row.milliseconds or 0) < 10 else f"{row.milliseconds:.0f}")
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ["  ".join(_align(c, w, i) for i, (c, w) in enumerate(zip(line, widths, strict=True))) for line in cells]
    notes = [
        f"{len(rows)} modules; a forward pass of the batch is {inspection.forward_flops / 1e9:.3g} GFLOP.",
        "ms: an estimate of direct with its gradient for one batch, on one CPU thread (within about 30 %).",
    ]
    if hidden:
        notes.append(f"{hidden} more modules have no activations of their own, or cannot be regularised.")
    if defaults:
        notes.append(f"* layers=None takes {', '.join(f'the {row.point} of {row.name!r}' for row in defaults)}.")
    elif inspection.no_default:
        notes.append("layers=None finds no output head here: name layers.")
    return "\n".join([*(line.rstrip() for line in lines), "", *notes])


def _short(row: LayerRow) -> str:
    return f"* {row.name} ({row.point})" if row.default else row.name


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 3 else cell.rjust(width)


def _cut(text: str, width: int) -> str:
    """The end of a long class name, which tells modules apart."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
