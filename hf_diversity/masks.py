"""Which positions of a batch are real: padding masks of every form, and sequences packed into one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .capture import LayerTarget
from .module_names import bare_model

Mask = Tensor | list[Tensor] | None

# A mask of this type numbers the sequences of a row from 1; 0 is padding. Other masks are bool.
PACKED = torch.int64

_BOUNDARIES = ("cu_seq_lens_q", "cu_seqlens", "cu_seqlens_q")


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model, bare or wrapped, has two streams of tokens."""
    return bool(getattr(getattr(bare_model(model), "config", None), "is_encoder_decoder", False))


def position_masks(inputs: Mapping[str, Any], targets: Iterable[LayerTarget], model: nn.Module) -> dict[str, Mask]:
    """The mask of each layer of `model` by its name, see `position_mask`."""
    two_streams = is_encoder_decoder(model)
    return {target.name: position_mask(inputs, target, two_streams) for target in targets}


def position_mask(inputs: Mapping[str, Any], target: LayerTarget, two_streams: bool) -> Mask:
    """The mask of real tokens that belongs to a layer, from the model's inputs.

    An encoder-decoder model has two: everything outside its encoder works on the decoder's tokens, whose padding is in
    `decoder_attention_mask` or shows as the label -100.

    Args:
        inputs: what the model gets. Understood are attention masks of (N, T), non-zero where real; of (N, Q, K) and
            (N, H, Q, K), bool or whole numbers where attended, or added to the scores; and without any mask packed
            rows, by the boundaries `cu_seq_lens_q` of one row, `seq_idx`, or `position_ids` that start anew.
        target: the layer.
        two_streams: whether the model has an encoder and a decoder, see `is_encoder_decoder`.

    Returns:
        (N, T): bool, or of type `PACKED` with the number of each position's sequence; None where all is real. A list
        of them for sentence-transformers, whose losses call the model once for each column of texts, in their order.
    """
    if two_streams and "encoder" not in target.name.split("."):
        if (mask := _from_attention(inputs.get("decoder_attention_mask"))) is not None:
            return mask
        labels = inputs.get("labels")
        return labels.ne(-100) if isinstance(labels, Tensor) and labels.ndim == 2 else None
    columns = [value.ne(0) for name, value in inputs.items() if name.endswith("_attention_mask")]
    if "attention_mask" not in inputs and columns and not two_streams:
        return columns
    given: Any = inputs.get("attention_mask")
    mask = _from_attention(given)
    if mask is not None and given.ndim == 2:
        return mask
    packed = _from_packing(inputs)
    if mask is None or packed is None:
        return packed if mask is None else mask
    return packed * mask


def _from_attention(mask: Any) -> Tensor | None:
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3, 4):
        return None
    if mask.ndim == 2:
        return mask.ne(0)
    # Pairs of positions: a real position may attend to itself, and padding to nothing
    if mask.shape[-1] != mask.shape[-2]:
        return None
    itself = mask.diagonal(dim1=-2, dim2=-1)
    attends = itself >= 0 if mask.is_floating_point() else itself.ne(0)  # what is added to the scores is 0 or very low
    return attends.any(dim=1) if mask.ndim == 4 else attends


def _from_packing(inputs: Mapping[str, Any]) -> Tensor | None:
    tokens = next((t for k in ("input_ids", "inputs_embeds") if isinstance(t := inputs.get(k), Tensor)), None)
    if tokens is None or tokens.ndim < 2:
        return None
    shape = tokens.shape[:2]
    boundaries = next((b for k in _BOUNDARIES if isinstance(b := inputs.get(k), Tensor)), None)
    if boundaries is not None and shape[0] == 1:
        at = torch.arange(shape[1], device=boundaries.device)
        number = torch.bucketize(at, boundaries[1:].to(at.dtype), right=True) + 1
        return (number * (at < boundaries[-1])).to(PACKED).unsqueeze(0)
    index = inputs.get("seq_idx")
    if isinstance(index, Tensor) and index.shape == shape:
        return index.to(PACKED) + 1  # padding is numbered -1
    positions = inputs.get("position_ids")
    if not isinstance(positions, Tensor) or positions.shape != shape:
        return None
    start = positions.eq(0)
    start[:, 0] = True
    # Padding at the end of a packed row has position 0: the sequences of one token that nothing comes after
    after = start.flip(1).cumprod(dim=1).flip(1).bool()
    after[:, 0] = False
    return (start.cumsum(dim=1) * ~after).to(PACKED)
