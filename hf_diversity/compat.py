"""Every shim for other versions or faults of the libraries underneath: link, fixed in, remove when."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import DynamoBackend, is_compiled_module
from huggingface_hub import HfApi
from huggingface_hub.hf_api import api as default_client
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, Trainer, trainer_utils
from transformers import trainer as trainer_module
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)

logger = logging.get_logger(__name__)

Shape = tuple[int, ...]


class _Saved(NamedTuple):
    """A tensor in a checkpoint."""

    file: str
    shape: Shape


def keep_timm_names(wrapper: nn.Module) -> None:
    """Have a TimmWrapper that was not made by `from_pretrained` save timm's own tensor names.

    transformers 5 writes names as they were in the checkpoint that was loaded, and as `timm_model.*` where there was
    none (`revert_weight_conversion` drops the PrefixChange then). timm cannot load such a file. What `from_pretrained`
    of a timm checkpoint would have remembered is put in place here; transformers loads both forms.

    Link: transformers/core_model_loading.py, `revert_weight_conversion`. Fixed in: not as of 5.24. Remove when: a
    TimmWrapper built from a config saves timm's names, or this library stops promising them.
    """
    mapping = get_checkpoint_conversion_mapping("timm_wrapper")
    if mapping:
        wrapper._weight_conversions = mapping


def told_that_loss_is_scaled(trainer: Trainer) -> bool | None:
    """The switch by which a trainer says that its loss is normalised over the accumulation window; None if unsaid.

    Link: transformers/trainer.py, `loss_is_scaled_for_ga` in `training_step`. Fixed in: a release between 5.0, which
    has no such attribute, and 5.24. Remove when: pyproject.toml allows no release without it.
    """
    return getattr(trainer, "loss_is_scaled_for_ga", None)


def rotate_checkpoints(trainer: Trainer, folder: str) -> None:
    """Delete checkpoints in `folder` beyond `save_total_limit`, by Trainer's own rule.

    Link: transformers/trainer_utils.py, `rotate_checkpoints`, until 5.0 the method `Trainer._rotate_checkpoints`.
    Fixed in: a function as of a release between 5.0 and 5.24. Remove when: pyproject.toml allows no release with the
    method.
    """
    if hasattr(trainer, "_rotate_checkpoints"):
        trainer._rotate_checkpoints(use_mtime=True, output_dir=folder)
        return
    trainer_utils.rotate_checkpoints(
        output_dir=folder,
        save_total_limit=trainer.args.save_total_limit,
        best_model_checkpoint=trainer.state.best_model_checkpoint,
        use_mtime=True,
    )


class _WithUpload:
    """The Hub's client with another `upload_folder`."""

    def __init__(self, client: HfApi, upload: Callable[..., Any]):
        self._client, self.upload_folder = client, upload

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@contextlib.contextmanager
def uploads_taken_over(upload: Callable[..., Any]) -> Iterator[None]:
    """Have Trainer's own pushes call `upload(client, ...)` in place of `client.upload_folder(...)`.

    Trainer uploads its whole output folder, pickled arguments included, and has no hook for what leaves. Copies of its
    two methods would lose what each version and subclass does in them. The client must be Trainer's: it carries out
    one push in the background after the other.

    Link: transformers/trainer.py, `push_to_hub` and `_push_from_checkpoint`; until 5.0 they call a function
    `upload_folder`. Remove when: Trainer lets a subclass choose the files.
    """
    has_client = hasattr(trainer_module, "hf_api")
    name = "hf_api" if has_client else "upload_folder"
    original = getattr(trainer_module, name)
    client = original() if has_client else default_client
    taken_over = functools.partial(upload, client)
    with_upload = _WithUpload(client, taken_over)
    setattr(trainer_module, name, (lambda: with_upload) if has_client else taken_over)
    try:
        yield
    finally:
        setattr(trainer_module, name, original)


def restore_weights(model: nn.Module, folder: str) -> None:
    """Do whole what `Trainer` does in part to load a checkpoint into `model`: every tensor, or an error.

    transformers 5 renames tensors on save to the names of the original checkpoints, and Trainer loads the file with
    `strict=False`: a ViT kept 32 of its 40 tensors as they were, with a warning. Here every tensor is looked for under
    the name that the model's own save would give it; where a save changes more than names (fused experts, say),
    `from_pretrained` reads the folder. Of PEFT models Trainer ignores what `load_adapter` reports as missing, and
    looks for the best adapter under the name "default" alone: here all adapters are restored.

    Link: transformers#48805 (PRs #48822, #49022). Fixed in: not as of 5.24. Remove when: Trainer's resume and
    `load_best_model_at_end` restore a ViT whole, and raise where a tensor is missing, in the oldest transformers that
    pyproject.toml allows.

    Args:
        model: the unwrapped model.
        folder: a checkpoint that holds its weights in one file or in shards, or its adapters.

    Raises:
        RuntimeError: the checkpoint lacks a tensor, holds one that the model has not, or one of another shape.
    """
    if is_peft_model(model):
        _restore_adapters(model, folder)
        return
    saved = _saved_tensors(folder)
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    # Tied tensors are saved once, under one of their names
    stored_as = {_storage(own[name]): name for name in own if name in saved}
    names = {name: name if name in saved else stored_as.get(_storage(value)) for name, value in own.items()}
    known = set(own)
    unsaved = _patterns(model, "_keys_to_ignore_on_save")  # constants, which a save leaves out
    if any(name is None for name in names.values()) and isinstance(model, PreTrainedModel):
        as_saved = _as_saved(model, own)
        known |= as_saved.keys()
        renamed = {_storage(value): name for name, value in as_saved.items() if name in saved}
        names = {name: found or renamed.get(_storage(own[name])) for name, found in names.items()}
    found = {name: stored for name, stored in names.items() if stored is not None}
    missing = sorted(name for name in own if name not in found and name not in unsaved)
    if missing and _load_through_from_pretrained(model, folder):
        return
    foreign = [name for name in saved if name not in known]
    unexpected = _patterns(model, "_keys_to_ignore_on_load_unexpected")  # say buffers of older versions
    extra = sorted(name for name in foreign if not any(re.search(pattern, name) for pattern in unexpected))
    shapes = {name: (saved[stored].shape, tuple(own[name].shape)) for name, stored in found.items()}
    _check_fit(folder, len(own), missing, extra, shapes)
    if any(name != stored for name, stored in found.items()):
        model.load_state_dict(_read(folder, saved, found), strict=False)
    logger.info(f"All {len(own)} tensors are restored from {folder}.")


def _check_fit(
    folder: str, count: int, missing: Sequence[str], extra: Sequence[str], shapes: Mapping[str, tuple[Shape, Shape]]
) -> None:
    """Raise if a checkpoint is not one of this model; `shapes` has what it holds, and what the model has."""
    other = [f"{name}: {there}, not {here}" for name, (there, here) in sorted(shapes.items()) if there != here]
    parts = [
        text.format(len(names), f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")
        for names, text in (
            (missing, f"does not hold {{}} of the model's {count} tensors ({{}})"),
            (extra, "holds {} that the model does not have ({})"),
            (other, "holds {} in another shape ({})"),
        )
        if names
    ]
    if parts:
        raise RuntimeError(
            f"{folder} {'; it '.join(parts)}, so going on would mix a trained model with an untrained one; "
            "name a checkpoint of this model"
        )


def is_peft_model(model: nn.Module) -> bool:
    """Whether `model` is wrapped by PEFT, without importing it for those who do not use it."""
    return hasattr(model, "peft_config") and type(model).__module__.partition(".")[0] == "peft"


def _restore_adapters(model: Any, folder: str) -> None:
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    for adapter in model.peft_config:
        path = folder if adapter == "default" else os.path.join(folder, adapter)
        needed = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
        has_weights = any(os.path.isfile(os.path.join(path, f"adapter_model.{end}")) for end in ("safetensors", "bin"))
        saved = load_peft_weights(path, device="cpu") if has_weights else {}
        # A save adds the embedding where it was resized or is trained
        own = get_peft_model_state_dict(
            model, adapter_name=adapter, save_embedding_layers=not saved.keys() <= needed.keys()
        )
        shapes = {name: (tuple(saved[name].shape), tuple(own[name].shape)) for name in own if name in saved}
        missing = sorted(needed.keys() - saved.keys())
        _check_fit(path, len(needed), missing, sorted(saved.keys() - own.keys()), shapes)
        set_peft_model_state_dict(model, saved, adapter_name=adapter)


def _patterns(model: nn.Module, attribute: str) -> Collection[str]:
    return getattr(model, attribute, None) or ()


def _storage(tensor: torch.Tensor) -> tuple[int, Shape, Shape]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _as_saved(model: PreTrainedModel, own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict under the names that `save_pretrained` writes; what is only renamed keeps its storage."""
    as_saved: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(own))
    return as_saved


def _load_through_from_pretrained(model: nn.Module, folder: str) -> bool:
    """Load with the whole conversion of `from_pretrained`; False, and nothing loaded, if that does not fit either."""
    if not isinstance(model, PreTrainedModel):
        return False
    try:
        with torch.random.fork_rng():
            result: Any = type(model).from_pretrained(folder, output_loading_info=True, dtype="auto")
    except (TypeError, ValueError, OSError, RuntimeError):  # a class that is not built from its configuration alone
        return False
    loaded, report = result
    weights = loaded.state_dict()
    faults = report["missing_keys"] or report["unexpected_keys"] or report["mismatched_keys"]
    if faults or weights.keys() != model.state_dict().keys():
        return False
    model.load_state_dict(weights)
    return True


def _saved_tensors(folder: str) -> dict[str, _Saved]:
    """Where each tensor of a checkpoint stands, and its shape; reads no weights of safetensors.

    Raises:
        RuntimeError: there are no weights in the folder.
    """
    files = [name for name in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME) if os.path.isfile(os.path.join(folder, name))][:1]
    for index in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME):
        if not files and os.path.isfile(path := os.path.join(folder, index)):
            with open(path, encoding="utf-8") as file:
                files = sorted(set(json.load(file)["weight_map"].values()))
    if not files:
        raise RuntimeError(
            f"{folder} holds no weights ({SAFE_WEIGHTS_NAME}, {WEIGHTS_NAME} or an index of shards), so the model "
            "would stay as it is; name a checkpoint of this model, or type save_on_each_node=True where every node "
            "has a disk of its own"
        )
    saved: dict[str, _Saved] = {}
    for name in files:
        path = os.path.join(folder, name)
        if name.endswith(".safetensors"):
            with safe_open(path, framework="pt") as content:
                saved |= {key: _Saved(name, tuple(content.get_slice(key).get_shape())) for key in content.keys()}
        else:
            tensors = torch.load(path, map_location="meta", weights_only=True)
            saved |= {key: _Saved(name, tuple(value.shape)) for key, value in tensors.items()}
    return saved


def _read(folder: str, saved: Mapping[str, _Saved], names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors by the model's names from the checkpoint's; `names` maps the one to the other."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted({saved[stored].file for stored in names.values()}):
        path = os.path.join(folder, file)
        if file.endswith(".safetensors"):
            weights.update(load_file(path))
        else:
            weights.update(torch.load(path, map_location="cpu", weights_only=True))
    return {name: weights[stored] for name, stored in names.items()}


def taking_what_takes(method: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Show the signature of Trainer's method, which differs between versions of transformers."""
    return functools.wraps(method, assigned=(), updated=())


def compiles(trainer: Trainer) -> bool:
    """Whether training compiles the model: by its arguments, by accelerate's launcher, or as it was given."""
    plugin = getattr(trainer.accelerator.state, "dynamo_plugin", None)
    by_launcher = plugin is not None and plugin.backend != DynamoBackend.NO
    return by_launcher or trainer.args.torch_compile or is_compiled_module(trainer.model)
