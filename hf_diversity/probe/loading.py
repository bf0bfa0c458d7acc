"""Checkpoints of any origin: transformers and timm, folders and Hub ids, finished runs and runs half-way."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor
from transformers.trainer_utils import get_last_checkpoint

from ..bandwidth import MedianGamma
from ..config import CONFIG_NAME, STATE_NAME, DiversityConfig
from ..masks import is_encoder_decoder
from ..models import build_timm_model, first_line, is_timm_name, load_config, model_class, refuse_random_values
from ..paths import is_path
from ..timm_models import wrap_timm_model
from .settings import ProbeSettings


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in evaluation mode, and how its inputs are made.

    Attributes:
        name: short, for figures.
        source: as it was typed.
        model: the model.
        processor: its tokenizer or image processor.
        modality: "image" or "text".
        mode: of PIL images, "RGB" or "L".
        diversity: the configuration it was trained with, or the default; its layers and samples are measured.
        was_regularised: whether it was trained with the regulariser.
        gammas: the training gamma by layer, where it followed the median.
        notes: what the reader should know about how it was loaded.
    """

    name: str
    source: str
    model: nn.Module
    processor: Any
    modality: str
    mode: str
    diversity: DiversityConfig
    was_regularised: bool
    gammas: dict[str, float]
    notes: tuple[str, ...]


def load_model(source: str, settings: ProbeSettings) -> LoadedModel:
    """Load a checkpoint with its weights in float32.

    Args:
        source: a folder of transformers, timm or a Trainer's run (its last checkpoint if it holds no model itself), a
            Hub id, a timm name with pretrained weights, or timm's `hf-hub:ID` and `local-dir:FOLDER`.
        settings: `weights`, `processor`, `trust_remote_code`, `samples` and `device` matter.

    Raises:
        ValueError: there is no such model, it has no weights or no processor, or takes other inputs than images or
            texts; the message says what to type.
    """
    path = source.removeprefix("local-dir:").removeprefix("hf-hub:")
    if is_timm_name(source):
        model, processor = _from_timm(source, settings)
        return _loaded(source, source, model, processor, None, settings, ())
    if settings.weights is not None:
        raise ValueError(f"weights belongs to a timm name, and {source!r} is none; leave --weights out")
    folder, notes = _folder(path)
    place = path if folder is None else str(folder)
    config = load_config(place, settings.trust_remote_code)
    if folder is not None:
        _check_weights(source, folder)
    model = _from_transformers(source, place, config, settings)
    name = source if folder is None else _folder_name(folder)
    processor = _processor(source, folder, place, _modality(source, model), settings)
    return _loaded(name, source, model, processor, folder, settings, notes)


def _folder(path: str) -> tuple[Path | None, tuple[str, ...]]:
    """The folder that holds the model, where it is a local one."""
    folder = Path(path).expanduser()
    if not folder.exists():
        if is_path(path):
            raise ValueError(f"model {path}: no such folder; type a path that exists, a Hub id or a timm name")
        return None, ()
    if not folder.is_dir():
        raise ValueError(
            f"model {path} is a file: type its folder, or a timm name with --weights {path} if it holds the weights "
            "of a timm model"
        )
    if (folder / "config.json").is_file():
        return folder, ()
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"model {path} holds a PEFT adapter alone: merge it into its base model first; type "
            "model.merge_and_unload().save_pretrained(FOLDER) and probe that folder"
        )
    last = get_last_checkpoint(str(folder))
    if last is None:
        raise ValueError(
            f"model {path} has neither config.json nor checkpoint-N folders; type a folder written by save_pretrained "
            "or a Trainer, or, for a file of weights, a timm name with --weights FILE"
        )
    return _folder(last)[0], (f"The run holds no finished model: its last checkpoint, {Path(last).name}, was taken.",)


def _folder_name(folder: Path) -> str:
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("checkpoint-") else folder.name


def _check_weights(source: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    pickled = [name for name in pickled if "model" in name]
    if pickled:
        raise ValueError(
            f"model {source} has weights only as a pickle ({pickled[0]}), which can run code when it is read; load it "
            "where you trust it and type model.save_pretrained(FOLDER), which writes safetensors"
        )
    raise ValueError(
        f"model {source} has a config.json and no weights: there is no .safetensors file in it; type a folder that "
        "was written by save_pretrained or a Trainer"
    )


def _from_transformers(source: str, place: str, config: Any, settings: ProbeSettings) -> nn.Module:
    kind = model_class(config, settings.trust_remote_code) or AutoModel
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            **({"trust_remote_code": True} if settings.trust_remote_code else {}),
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, ImportError, SafetensorError) as error:
        raise ValueError(
            f"the weights of model {source!r} could not be loaded as {kind.__name__}: {first_line(error)}"
        ) from error
    refuse_random_values(*loaded, source)
    return loaded[0]


def _from_timm(name: str, settings: ProbeSettings) -> tuple[nn.Module, Any]:
    file = None if settings.weights is None else Path(settings.weights).expanduser()
    if file is not None and (file.suffix != ".safetensors" or not file.is_file()):
        raise ValueError(f"weights {settings.weights}: there must be such a file, and it must be .safetensors")
    try:
        model = build_timm_model(name, pretrained=True, weights=file)
    except Exception as error:
        raise ValueError(
            f"the pretrained weights of timm's {name!r} could not be had; type --weights FILE for a local file "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    processor = TimmWrapperImageProcessor(dict(model.pretrained_cfg), architecture=name)
    if getattr(model, "num_classes", 0):
        return wrap_timm_model(model), processor
    config = TimmWrapperConfig.from_dict({"architecture": name, "pretrained_cfg": model.pretrained_cfg}, num_labels=0)
    wrapper = TimmWrapperModel(config)
    wrapper.timm_model = model
    return wrapper, processor


def _modality(source: str, model: Any) -> str:
    config = getattr(model, "config", None)
    takes_both = hasattr(config, "text_config") and hasattr(config, "vision_config")
    main = getattr(model, "main_input_name", "pixel_values")
    only = "probe makes inputs for models of one kind of data, images or texts"
    instead = (
        "for others, type hf_diversity.diagnostics.measure_diagnostics(model, dataloader) with inputs of your own"
    )
    if takes_both and "Classification" not in type(model).__name__:
        raise ValueError(f"{source!r} ({type(model).__name__}) takes images and texts at once, and {only}; {instead}")
    if main not in ("pixel_values", "input_ids"):
        raise ValueError(f"{source!r} ({type(model).__name__}) takes {main}, and {only}; {instead}")
    if is_encoder_decoder(model) and "Classification" not in type(model).__name__:
        raise ValueError(f"{source!r} ({type(model).__name__}) needs two texts, source and target; {instead}")
    return "image" if main == "pixel_values" else "text"


def _processor(source: str, folder: Path | None, place: str, modality: str, settings: ProbeSettings) -> Any:
    kind = AutoImageProcessor if modality == "image" else AutoTokenizer
    places = [settings.processor] if settings.processor is not None else [place]
    if settings.processor is None and folder is not None and folder.name.startswith("checkpoint-"):
        places.append(str(folder.resolve().parent))  # a run keeps it beside its checkpoints
    causes = []
    for where in places:
        try:
            processor = kind.from_pretrained(where, trust_remote_code=settings.trust_remote_code)
            # transformers makes a tokenizer from the model's configuration alone, which knows no word
            if modality == "text" and len(processor) <= len(set(processor.all_special_tokens)):
                raise ValueError("its tokenizer knows special tokens alone")
            return processor
        except Exception as error:
            causes.append(f"{type(error).__name__}: {first_line(error)}")
    what = "image processor" if modality == "image" else "tokenizer"
    raise ValueError(
        f"there is no {what} for {source!r} in {' or '.join(map(str, places))}; type --processor with the folder or "
        f"Hub id of the model it was made from ({causes[0]})"
    )


def _loaded(
    name: str,
    source: str,
    model: Any,
    processor: Any,
    folder: Path | None,
    settings: ProbeSettings,
    notes: tuple[str, ...],
) -> LoadedModel:
    modality = _modality(source, model)
    if modality == "text" and processor.pad_token is None:
        if processor.eos_token is None:
            raise ValueError(f"the tokenizer of {source!r} has no padding token; type --processor with one that has")
        processor.pad_token = processor.eos_token
    elif isinstance(processor, TimmWrapperImageProcessor) and _channels(model) == 1:
        processor, more = _for_grey(processor)
        notes += more
    trained, gammas = _training(folder)
    diversity = trained or DiversityConfig()
    if settings.samples is not None:
        diversity = replace(diversity, samples=settings.samples)  # type: ignore[arg-type]  # checked by it
    # All samples count, and every measure is of the similarity matrix
    diversity = replace(diversity, max_samples=None)
    return LoadedModel(
        name, source, model.eval().to(settings.device), processor, modality, _mode(model), diversity,
        trained is not None and trained.is_active, gammas, notes,
    )  # fmt: skip


def _for_grey(processor: TimmWrapperImageProcessor) -> tuple[TimmWrapperImageProcessor, tuple[str, ...]]:
    """The processor of a timm model with in_chans=1, whose configuration may still say three channels, and a note.

    It normalises by the averages over the channels, as timm's own loader does (`timm.data.loader.adapt_to_chs`).
    """
    of_channels = {name: tuple(processor.data_config[name]) for name in ("mean", "std")}
    average = {name: sum(values) / len(values) for name, values in of_channels.items()}
    grey = {name: (value,) for name, value in average.items()}
    size = {"input_size": (1, *processor.data_config["input_size"][1:])}
    made = TimmWrapperImageProcessor({**processor.data_config, **size, **grey})
    if all(len(set(values)) == 1 for values in of_channels.values()):
        return made, ()
    return made, (
        f"The model takes 1 channel, and its pretrained_cfg has a mean and std for {len(of_channels['mean'])}: their "
        f"averages, {average['mean']:.3g} and {average['std']:.3g}, were taken, as timm does. If it was trained with "
        'others, type them in pretrained_cfg of its config.json: "mean": [...], "std": [...].',
    )


def _training(folder: Path | None) -> tuple[DiversityConfig | None, dict[str, float]]:
    """What hf_diversity left beside the model: its configuration, and the gammas that followed the median."""
    if folder is None or not (folder / CONFIG_NAME).is_file():
        return None, {}
    config = DiversityConfig.from_json_file(folder / CONFIG_NAME)
    state = folder / STATE_NAME
    averages = json.loads(state.read_text(encoding="utf-8")).get("gamma", {}) if state.is_file() else {}
    median = MedianGamma()
    median.load_state_dict(averages)
    gammas = {name: median.current(name, 0) for name in averages}
    return config, {name: float(gamma) for name, gamma in gammas.items() if gamma is not None and gamma > 0}


def check_channels(loaded: LoadedModel) -> None:
    """Refuse a processor that normalises other channels than the model takes.

    Raises:
        ValueError: says what to change.
    """
    processor, channels = loaded.processor, _channels(loaded.model)
    mean = getattr(processor, "image_mean", None) or getattr(processor, "data_config", {}).get("mean") or ()
    if getattr(processor, "do_normalize", True) and len(mean) not in (0, 1, channels):
        raise ValueError(
            f"{loaded.source!r} takes images of {channels} channel(s), and its image processor normalises "
            f"{len(mean)}; give mean and std of its pretrained_cfg in config.json (or image_mean and image_std in "
            "preprocessor_config.json) a number for each channel, those it was trained with"
        )


def _channels(model: Any) -> int:
    config = getattr(model, "config", None)
    arguments: dict[str, Any] = getattr(config, "model_args", None) or {}
    return int(arguments.get("in_chans") or getattr(config, "num_channels", None) or 3)


def _mode(model: Any) -> str:
    return "L" if _channels(model) == 1 else "RGB"
