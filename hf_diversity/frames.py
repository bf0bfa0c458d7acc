"""Padding of sound: the mask counts what the model receives, a layer gives the fewer frames of its convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .module_names import bare_model

# How transformers' speech models tell the number of frames: lengths in, lengths out
_METHOD = "_get_feat_extract_output_lengths"
FrameCounter = Callable[[Tensor], list[Tensor]]


def frame_counter(model: nn.Module) -> FrameCounter | None:
    """How many frames a speech model makes of so many samples of sound.

    Args:
        model: wrapped or not.

    Returns:
        A function from lengths (N,) to what they may become: with an adapter behind its encoder, a model gives frames
        of two lengths. None for a model that has no such rule.
    """
    bare = bare_model(model)
    owner = next((m for m in (bare, *bare.modules()) if callable(getattr(m, _METHOD, None))), None)
    if owner is None:
        return None
    rule: Any = getattr(owner, _METHOD)

    def count(lengths: Tensor) -> list[Tensor]:
        adapters: list[dict[str, Any]] = [{}]
        if getattr(getattr(owner, "config", None), "add_adapter", False):
            adapters = [{"add_adapter": False}, {"add_adapter": True}]
        found = []
        for settings in adapters:
            frames = rule(lengths, **settings)
            found += [f for f in (frames if isinstance(frames, tuple) else (frames,)) if isinstance(f, Tensor)]
        return found

    return count


def frame_mask(mask: Tensor, positions: int, count: FrameCounter) -> Tensor | None:
    """The mask of a layer's frames, as the model itself makes it: the first frames of each example are real.

    Args:
        mask: (N, T), of what the model received.
        positions: frames of the layer.
        count: see `frame_counter`.

    Returns:
        (N, positions) bool; None where T does not become `positions`: the layer has frames of another length.
    """
    whole = count(torch.tensor([mask.shape[1]], device="cpu"))  # read on the host: nothing waits for a device
    for all_frames, lengths in zip(whole, count(mask.ne(0).sum(dim=1)), strict=True):
        if int(all_frames) == positions:
            return torch.arange(positions, device=mask.device) < lengths[:, None]
    return None
