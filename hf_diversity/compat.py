"""Every shim for other versions or faults of the libraries underneath: link, fixed in, remove when."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from safetensors import safe_open
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
    `strict=False`: a ViT kept 32 of its 40 tensors as they were, with a warning. Where the names in the file are not
    the model's own, the model's `from_pretrained`, which knows the renaming, reads it instead.

    Link: transformers#48805 (PRs #48822, #49022). Fixed in: not as of 5.24. Remove when: Trainer's resume and
    `load_best_model_at_end` restore a ViT whole in the oldest transformers that pyproject.toml allows.

    Args:
        model: the unwrapped model; a PEFT model is left alone.
        folder: a checkpoint that holds its weights in one file or in shards.

    Raises:
        RuntimeError: a tensor of the model is not in the checkpoint.
    """
    saved = _saved_names(folder)
    own = set(model.state_dict())
    if saved is None or own <= saved:
        return
    missing = own - saved
    if isinstance(model, PreTrainedModel):
        with torch.random.fork_rng():
            result: Any = type(model).from_pretrained(folder, output_loading_info=True, dtype="auto")
        loaded, report = result
        missing = set(report["missing_keys"])
        if not missing:
            model.load_state_dict(loaded.state_dict())
            logger.info(f"All {len(own)} tensors of {folder} were restored under the names they were saved with.")
            return
    raise RuntimeError(
        f"{folder} does not hold {len(missing)} of the model's {len(own)} tensors ({', '.join(sorted(missing)[:4])}"
        f"{' ...' if len(missing) > 4 else ''}): it was saved by another model, and going on would mix the two; name "
        "a checkpoint of this model"
    )


def _saved_names(folder: str) -> set[str] | None:
    """Names of the tensors in a checkpoint; None if its weights are in another format (PEFT, FSDP, DeepSpeed)."""
    for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if os.path.isfile(path := os.path.join(folder, name)):
            with open(path, encoding="utf-8") as file:
                return set(json.load(file)["weight_map"])
    if os.path.isfile(path := os.path.join(folder, SAFE_WEIGHTS_NAME)):
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    if os.path.isfile(path := os.path.join(folder, WEIGHTS_NAME)):
        return set(torch.load(path, map_location="meta", weights_only=True))
    return None
