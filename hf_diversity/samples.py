"""From a layer's activations to the (N, D) matrix of samples and units that the measures take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .capture import LayerTarget
from .config import DiversityConfig
from .frames import frame_mask
from .masks import PACKED

logger = logging.get_logger(__name__)

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def unit_axis(module: nn.Module, activations: Tensor, name: str) -> int:
    """Which axis of `activations` counts units.

    Rank 2 is (N, D). Rank 3 is (N, T, D), or (N, C, L) after one-dimensional convolutions; rank 4 and more is
    (N, C, H, W) or (N, H, W, C). A module that is a single layer decides by its kind. Inside a larger one the last
    layer whose width is the size of just one of the two axes decides, whatever its kind: a ConvNeXt block ends in a
    Linear over the last axis and then moves its units to the second.

    Raises:
        ValueError: nothing tells the two axes apart.
    """
    if activations.ndim <= 2:
        return -1
    kind = _axis_of_kind(module)
    if kind is not None:
        return kind
    second, last = activations.shape[1], activations.shape[-1]
    kinds = set()
    for leaf in reversed([m for m in module.modules() if not list(m.children())]):
        width = _width(leaf)
        if width is None or width not in (second, last):
            continue
        if second != last:
            return 1 if width == second else -1
        kinds.add(_axis_of_kind(leaf))
    if activations.ndim == 3:
        return 1 if kinds == {1} else -1
    if activations.shape[2] == activations.shape[3] != second:
        return 1
    if second == activations.shape[2] != last:
        return -1
    raise ValueError(
        f"layer {name!r} ({type(module).__name__}) gives activations of shape {tuple(activations.shape)}, and nothing "
        "says which axis counts its units; type unit_axis=1 or unit_axis=-1, or name a layer in or before it that is "
        "a convolution, a Linear or a norm"
    )


def _axis_of_kind(module: nn.Module) -> int | None:
    if isinstance(module, _CHANNELS_FIRST) or type(module).__name__ == "LayerNorm2d":
        return 1
    return -1 if isinstance(module, _CHANNELS_LAST) else None


def _width(module: nn.Module) -> int | None:
    for attribute in ("out_features", "out_channels", "num_features", "num_channels"):
        if isinstance(width := getattr(module, attribute, None), int):
            return width
    shape = getattr(module, "normalized_shape", None)
    return shape[-1] if shape else None


def to_samples(
    activations: Tensor, axis: int = -1, samples: str = "auto", mask: Tensor | None = None, name: str = "activations"
) -> Tensor:
    """Turn activations of any rank into rows.

    Args:
        activations: (N, D), (N, T, D), (N, C, H, W) or (N, H, W, C).
        axis: the axis that counts units, see `unit_axis`.
        samples: "positions", "pooled", "first" or "auto", see `DiversityConfig.samples`.
        mask: (N, T), see `masks.position_mask`: padding is left out of every form, and a packed row counts as its
            sequences. A mask of another shape belongs to another tensor and is ignored.
        name: the layer, for error messages.

    Returns:
        (number of samples, D), sharing memory where it can.

    Raises:
        ValueError: `samples="first"` for feature maps, or activations without a batch axis.
    """
    if activations.ndim < 2:
        raise ValueError(
            f"layer {name!r} gives activations of shape {tuple(activations.shape)}: they need a batch axis and a unit "
            "axis; name another layer"
        )
    if activations.ndim == 2:
        if mask is not None and mask.shape[1] > 1 and activations.shape[0] == mask.numel():
            return activations[mask.flatten().ne(0)]  # positions flattened into the first axis, as experts do
        return activations
    units_last = activations.movedim(axis, -1)
    if samples == "auto":
        samples = "positions" if activations.ndim == 3 else "pooled"
    if mask is not None and (activations.ndim != 3 or mask.shape != units_last.shape[:2]):
        if activations.ndim == 3 and samples != "first":
            logger.warning_once(
                f"layer {name!r} has {units_last.shape[1]} positions and the attention mask {tuple(mask.shape)}: the "
                "mask is not this layer's, so all its positions are samples, padding too"
            )
        mask = None
    if samples == "first":
        if activations.ndim != 3:
            raise ValueError(
                f'samples is "first" but layer {name!r} gives feature maps of shape {tuple(activations.shape)}, which '
                'have no first token; type samples="pooled" or "positions"'
            )
        if mask is None:
            return units_last[:, 0]
        if mask.dtype == PACKED:
            before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
            return units_last[mask.ne(0) & mask.ne(before)]
        first = mask.to(torch.int8).ne(0).to(torch.int8).argmax(dim=1)  # left padding moves the first token
        return units_last[torch.arange(len(first), device=first.device), first]
    if samples == "pooled":
        if mask is None:
            return units_last.flatten(1, -2).mean(dim=1)
        if mask.dtype == PACKED:
            return _mean_of_sequences(units_last, mask)
        # In float32 at least: a sum over positions loses digits in half precision, and with them the gradient's sign
        weight = mask.ne(0).to(torch.promote_types(units_last.dtype, torch.float32)).unsqueeze(-1)
        real = weight.sum(dim=1)
        return ((units_last * weight).sum(dim=1) / real.clamp(min=1))[real[:, 0] > 0]
    if mask is not None:
        return units_last[mask.ne(0)]
    return units_last.reshape(-1, units_last.shape[-1])


def subsample(rows: Tensor, max_samples: int | None, seed: int) -> Tensor:
    """Keep at most `max_samples` rows, drawn without replacement by a generator of its own.

    The global random state is left alone, so that a run with and one without the regulariser draw the same dropout
    masks and the same data order.
    """
    if max_samples is None or rows.shape[0] <= max_samples:
        return rows
    chosen = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(seed))[:max_samples]
    return rows[chosen.to(rows.device, non_blocking=True)]


def _mean_of_sequences(activations: Tensor, sequences: Tensor) -> Tensor:
    """The mean over each sequence of packed rows; (N, T, D) and (N, T) to (number of sequences, D)."""
    real = sequences.ne(0)
    rows = torch.arange(len(sequences), device=sequences.device).unsqueeze(1) * (sequences.shape[1] + 1)
    found, member = torch.unique((rows + sequences)[real], return_inverse=True)
    values = activations[real].to(torch.promote_types(activations.dtype, torch.float32))
    sums = values.new_zeros(len(found), values.shape[1]).index_add(0, member, values)
    return sums / torch.bincount(member, minlength=len(found)).unsqueeze(1)


def rows_by_layer(
    activations: Mapping[str, list[Tensor]],
    targets: Sequence[LayerTarget],
    config: DiversityConfig,
    masks: Mapping[str, Tensor | list[Tensor] | None],
    real_share: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Turn what was captured in one forward pass into rows.

    Args:
        activations: by layer, one tensor for each time it ran; all of them are samples.
        targets: the layers.
        config: its `samples` and `unit_axis`.
        masks: real tokens by layer, see `masks.position_mask`; with a list of m, each m-th part of what was captured
            in turn belongs to one.
        real_share: (k, B): only the first k of the batch's B examples are real; None for all.

    Returns:
        (N, D) rows by layer.

    Raises:
        ValueError: a layer's first axis does not hold whole examples, where only some of them are real; or its
            activations have no such axis as `unit_axis`.
    """
    rows = {}
    for target in targets:
        pieces, captured = [], activations[target.name]
        found = masks.get(target.name)
        calls: Sequence[Tensor | None] = found if isinstance(found, list) else [found]
        for index, tensor in enumerate(captured):
            keep, mask = tensor.shape[0], calls[index * len(calls) // len(captured)]
            if real_share is not None:
                real, batch = real_share
                if tensor.shape[0] % batch:
                    raise ValueError(
                        f"{target.describe()} gives activations of shape {tuple(tensor.shape)} for {batch} examples, "
                        "so the examples that were repeated to fill the last batch cannot be left out; type a "
                        "per_device_eval_batch_size that divides the evaluation set, or name another layer"
                    )
                keep = tensor.shape[0] // batch * real
            mask = _mask_of(tensor, mask, keep)
            if target.prefix_tokens and tensor.ndim == 3:
                if mask is not None and mask.shape[1] == tensor.shape[1]:
                    mask = mask[:, target.prefix_tokens :]
                tensor = tensor[:, target.prefix_tokens :]
            axis = config.unit_axis
            if axis is None:
                axis = unit_axis(target.module, tensor, target.name)
            elif not -tensor.ndim < axis < tensor.ndim or (tensor.ndim == 2 and axis not in (1, -1)):
                raise ValueError(
                    f"unit_axis is {axis}, but {target.describe()} gives activations of shape {tuple(tensor.shape)}, "
                    "whose first axis is the batch; type unit_axis=None to have it found, or another axis"
                )
            positions = tensor.movedim(axis, -1).shape[1]
            if target.frames is not None and mask is not None and tensor.ndim == 3 and mask.shape[1] != positions:
                reduced = frame_mask(mask, positions, target.frames)
                mask = mask if reduced is None else reduced
            pieces.append(to_samples(tensor[:keep], axis, config.samples, mask, target.name))
        rows[target.name] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return rows


def _mask_of(tensor: Tensor, mask: Tensor | None, keep: int) -> Tensor | None:
    """The mask of the first `keep` rows of a layer's activations; None where it cannot be this layer's."""
    if mask is not None and mask.shape[0] == tensor.shape[0]:
        return mask[:keep]
    if mask is not None and tensor.ndim == 2 and tensor.shape[0] == mask.numel() and keep == tensor.shape[0]:
        return mask
    return None
