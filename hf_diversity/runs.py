"""`load_run`: a finished run from a folder or the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoProcessor, PreTrainedModel

from .config import CONFIG_NAME, DiversityConfig
from .paths import is_path
from .publishing.cleaning import TOKENIZERS

RESULTS_NAME = "results.json"
_OF_PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
)
_WANTED = ("*.json", "*.safetensors", "*.txt", *TOKENIZERS, "additional_chat_templates/*")


@dataclass
class Run:
    """A finished run.

    Attributes:
        model: in evaluation mode.
        processor: its tokenizer, image processor or feature extractor; None if there is none.
        diversity: how it was regularised; None if the folder does not say.
        results: what the recipe found, `results.json`; None if there is none.
        folder: where its files are.
    """

    model: PreTrainedModel
    processor: Any
    diversity: DiversityConfig | None
    results: dict[str, Any] | None
    folder: Path


def load_run(source: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Run:
    """Load what a training left, from its folder or from a repository of the Hub.

    Weights are read from safetensors only, and no code of the repository is run unless asked.

    Args:
        source: a folder, or a Hub id such as "user/model".
        revision: branch, tag or commit of the repository.
        trust_remote_code: run the Python code of a model that brings its own.

    Raises:
        FileNotFoundError: the folder is not there or holds no model.
        OSError: the repository cannot be reached, or its weights are no safetensors, or cut off.
        ValueError: it is an adapter of PEFT, the model brings code of its own, its config.json cannot be used, its
            class is not known, its weights lack a tensor, or its results are no JSON.
    """
    from .models import (  # imports timm, a third of a second that few need
        load_config,
        model_class,
        refuse_random_values,
    )

    folder = Path(source).expanduser()
    if not str(source):
        raise FileNotFoundError("source is empty: name the folder of a finished run, or a Hub id such as user/model")
    if not folder.is_dir():
        if is_path(str(source)):
            raise FileNotFoundError(f"{source} is no folder: name a finished run, or a Hub id such as user/model")
        # Subfolders are checkpoints
        wanted = [*_WANTED, *(["*.py"] if trust_remote_code else [])]
        folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted,
                                        ignore_patterns=["checkpoint-*/*", "last-checkpoint/*"]))  # fmt: skip
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{source} holds an adapter of PEFT and not the model below it: type "
            f"peft.AutoPeftModel.from_pretrained({str(source)!r}), or merge it (model.merge_and_unload()) and save "
            'the result; PEFT comes with pip install "hf_diversity[peft]"'
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{source} holds no config.json: it is no model of transformers; name a finished run")
    config = load_config(folder, trust_remote_code)
    kind = model_class(config, trust_remote_code)
    if kind is None:
        raise ValueError(
            f"config.json names the architecture {', '.join(config.architectures or ())}, which transformers "
            f"{transformers.__version__} does not have: load it with its own class"
        )
    try:
        model, report = kind.from_pretrained(
            folder, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    except SafetensorError as error:
        raise OSError(f"the weights of {source} are cut off or no safetensors ({error}): copy them again") from error
    refuse_random_values(model, report, source)
    settings, results = folder / CONFIG_NAME, folder / RESULTS_NAME
    return Run(
        model.eval(),
        _processor(folder, trust_remote_code),
        DiversityConfig.from_json_file(settings) if settings.is_file() else None,
        _read_json(results) if results.is_file() else None,
        folder,
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): it was cut off, or is another file; delete it") from error


def _processor(folder: Path, trust_remote_code: bool) -> Any:
    """Only what was saved: from a configuration alone, transformers makes a tokenizer that knows no word."""
    if any((folder / name).is_file() for name in _OF_PROCESSORS):
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    try:  # timm's is in the model's configuration
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return None
