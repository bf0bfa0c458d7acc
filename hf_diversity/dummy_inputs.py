"""Inputs that a model's forward pass accepts, made from its configuration alone."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from .masks import is_encoder_decoder

# Where a configuration keeps what it knows of one modality
_TEXT, _VISION = "text_config", "vision_config"


def dummy_inputs(
    model: nn.Module,
    batch_size: int = 2,
    sequence_length: int | None = None,
    image_size: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Inputs for one forward pass of a timm or transformers model, the same at every call.

    Args:
        model: unwrapped (no DDP, FSDP, compile or PEFT around it); its parameters may be on the meta device.
        batch_size: examples.
        sequence_length: tokens of a text, samples or frames of a sound; None for a length that the model takes.
        image_size: height and width of images; None for the configuration's.
        device: None for that of the model's parameters.

    Returns:
        Keyword arguments of `model.forward`.

    Raises:
        ValueError: neither a timm model nor a transformers one with a known main input.
    """
    weights = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    inputs = _inputs(model, batch_size, sequence_length, image_size, device if device is not None else weights.device)
    return {name: value.to(weights.dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def _inputs(
    model: nn.Module, batch_size: int, sequence_length: int | None, image_size: int | None, device: Any
) -> dict[str, Tensor]:
    parameters = inspect.signature(model.forward).parameters
    timm_model: Any = getattr(model, "timm_model", model)
    if isinstance(getattr(timm_model, "pretrained_cfg", None), dict):
        channels, height, width = _timm_input_size(timm_model)
        if image_size is not None:
            height = width = image_size
        name = "pixel_values" if "pixel_values" in parameters else next(iter(parameters))
        return {name: torch.zeros(batch_size, channels, height, width, device=device)}
    config: Any = getattr(model, "config", None)
    main = str(getattr(model, "main_input_name", None))
    if config is None or main not in parameters:
        raise ValueError(
            f"no inputs can be made up for {type(model).__name__}: it is neither a timm model nor a "
            "transformers one with a known main input; type inputs={...} with what its forward takes"
        )
    if main == "pixel_values" and "input_ids" in parameters and hasattr(config, _TEXT):
        main = "input_ids"  # CLIP-like models need both
    if main == "input_ids":
        inputs = _token_ids(config, batch_size, sequence_length or 8, device)
        if "pixel_values" in parameters and hasattr(config, _VISION) and hasattr(config, _TEXT):
            inputs["pixel_values"] = _pixels(getattr(config, _VISION), batch_size, image_size, device)
    elif main == "pixel_values":
        inputs = {main: _pixels(config, batch_size, image_size, device)}
    else:
        inputs = {main: _sound(config, main, batch_size, sequence_length, device)}
    if is_encoder_decoder(model) and "decoder_input_ids" in parameters:
        inputs["decoder_input_ids"] = _token_ids(config, batch_size, sequence_length or 8, device)["input_ids"]
    return inputs


def _timm_input_size(model: Any) -> tuple[int, int, int]:
    """(C, H, W) of a timm model, with the arguments that `create_model` was given."""
    channels, height, width = model.pretrained_cfg.get("input_size") or (3, 224, 224)
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is not None and convolution.groups == 1 and convolution.in_channels < channels:
        channels = convolution.in_channels  # in_chans=1
    return channels, height, width


def _token_ids(config: Any, batch_size: int, length: int, device: Any) -> dict[str, Tensor]:
    text = getattr(config, _TEXT, None) or config
    vocabulary = int(getattr(text, "vocab_size", None) or 32)
    ids = torch.arange(batch_size * length, device=device).view(batch_size, length) % max(vocabulary - 4, 1) + 3
    ids = ids % vocabulary
    last = getattr(text, "eos_token_id", None)
    if isinstance(last, int) and 0 <= last < vocabulary:
        ids[:, -1] = last  # some models classify at the end-of-text token
    return {"input_ids": ids}  # no mask: on the meta device nobody can look whether all of it is ones


def _pixels(config: Any, batch_size: int, image_size: int | None, device: Any) -> Tensor:
    config = config if hasattr(config, "image_size") else getattr(config, _VISION, config)
    size = image_size or getattr(config, "image_size", None) or getattr(config, "img_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    channels = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    frames = getattr(config, "num_frames", None)
    shape = (channels, height, width) if not isinstance(frames, int) else (frames, channels, height, width)
    return torch.zeros(batch_size, *shape, device=device)


def _sound(config: Any, main: str, batch_size: int, length: int | None, device: Any) -> Tensor:
    bins = getattr(config, "num_mel_bins", None)
    if main == "input_values" and bins is None:
        return torch.zeros(batch_size, length or 16_000, device=device)  # a second of raw sound
    positions = getattr(config, "max_source_positions", None)
    if bins and positions:
        return torch.zeros(batch_size, bins, 2 * positions, device=device)  # Whisper's length is fixed
    bins = bins or getattr(config, "feature_projection_input_dim", None) or 80
    return torch.zeros(batch_size, getattr(config, "max_length", None) or length or 128, bins, device=device)
