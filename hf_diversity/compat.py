"""Every shim for other versions or faults of the libraries underneath: link, fixed in, remove when."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)

logger = logging.get_logger(__name__)


def keep_timm_names(wrapper: nn.Module) -> None:
    """Have a TimmWrapper that was not made by `from_pretrained` save timm's own tensor names.

    transformers 5 writes names as they were in the checkpoint that was loaded, and as `timm_model.*` where there was
    none (`revert_weight_conversion` drops the PrefixChange then). timm cannot load such a file. What `from_pretrained`
    of a timm checkpoint would have remembered is put in place here; transformers loads both forms.

    Link: transformers/core_model_loading.py, `revert_weight_conversion`. Fixed in: not as of 5.24. Remove when: a
    TimmWrapper built from a config saves timm's names, or this library stops promising them.
    """
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:  # before the conversion mapping, names were written without the prefix
        return
    mapping = get_checkpoint_conversion_mapping("timm_wrapper")
    if mapping:
        wrapper._weight_conversions = mapping


def restore_weights(model: nn.Module, folder: str) -> None:
    """Do whole what `Trainer` does in part to load a checkpoint into `model`: every tensor, or an error.

    transformers 5 renames tensors on save to the names of the original checkpoints, and Trainer loads the file with
    `strict=False`: a ViT kept 32 of its 40 tensors as they were, with a warning. Here every tensor is looked for under
    the name that the model's own save would give it; where a save changes more than names (fused experts, say),
    `from_pretrained` reads the folder.

    Link: transformers#48805 (PRs #48822, #49022). Fixed in: not as of 5.24. Remove when: Trainer's resume and
    `load_best_model_at_end` restore a ViT whole in the oldest transformers that pyproject.toml allows.

    Args:
        model: the unwrapped model; a PEFT model is left alone.
        folder: a checkpoint that holds its weights in one file or in shards.

    Raises:
        RuntimeError: a tensor of the model is not in the checkpoint.
    """
    saved = _saved_names(folder)
    own = model.state_dict()
    if saved is None or own.keys() <= saved.keys():
        return
    # Tied tensors are saved once, under one of their names
    stored_as = {_storage(own[name]): name for name in own if name in saved}
    names = {name: name if name in saved else stored_as.get(_storage(value)) for name, value in own.items()}
    if any(name is None for name in names.values()) and isinstance(model, PreTrainedModel):
        renamed = {_storage(value): name for name, value in _as_saved(model, own).items() if name in saved}
        names = {name: found or renamed.get(_storage(own[name])) for name, found in names.items()}
    missing = sorted(name for name, found in names.items() if found is None)
    if missing:
        missing = _load_through_from_pretrained(model, folder, missing)
    else:
        model.load_state_dict(
            _read(folder, saved, {name: found for name, found in names.items() if found is not None})
        )
    if missing:
        raise RuntimeError(
            f"{folder} does not hold {len(missing)} of the model's {len(own)} tensors ({', '.join(missing[:4])}"
            f"{' ...' if len(missing) > 4 else ''}), so going on would mix a trained model with an untrained one; "
            "name a checkpoint of this model"
        )
    logger.info(f"All {len(own)} tensors were restored from {folder}.")


def _storage(tensor: torch.Tensor) -> tuple:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _as_saved(model: PreTrainedModel, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under the names that `save_pretrained` writes; what is only renamed keeps its storage."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # older versions did not rename
        return own
    return revert_weight_conversion(model, dict(own))


def _load_through_from_pretrained(model: nn.Module, folder: str, missing: list[str]) -> list[str]:
    """Load with the whole conversion of `from_pretrained`; returns what is missing even so."""
    if not isinstance(model, PreTrainedModel):
        return missing
    try:
        with torch.random.fork_rng():
            result: Any = type(model).from_pretrained(folder, output_loading_info=True, dtype="auto")
    except (TypeError, ValueError, OSError):  # a class that is not built from its configuration alone
        return missing
    loaded, report = result
    weights = loaded.state_dict()
    if report["missing_keys"] or weights.keys() != model.state_dict().keys():
        return missing
    model.load_state_dict(weights)
    return []


def _saved_names(folder: str) -> dict[str, str] | None:
    """The file of each tensor in a checkpoint; None if its weights are in another format (PEFT, FSDP, DeepSpeed)."""
    for index in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if os.path.isfile(path := os.path.join(folder, index)):
            with open(path, encoding="utf-8") as file:
                return json.load(file)["weight_map"]
    if os.path.isfile(path := os.path.join(folder, SAFE_WEIGHTS_NAME)):
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), SAFE_WEIGHTS_NAME)
    if os.path.isfile(path := os.path.join(folder, WEIGHTS_NAME)):
        return dict.fromkeys(torch.load(path, map_location="meta", weights_only=True), WEIGHTS_NAME)
    return None


def _read(folder: str, files: dict[str, str], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors by the model's names from the checkpoint's; `names` maps the one to the other."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(set(files.values())):
        path = os.path.join(folder, file)
        if file.endswith(".safetensors"):
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        weights.update(content)
    return {name: weights[stored] for name, stored in names.items()}
