"""Image classifiers by name: timm architectures, local folders and Hub ids, from scratch or pretrained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from common.data import Split
from common.images import ImageArguments, ImageModelArguments, channel_statistics
from common.transformers_models import apply_model_args, label_settings
from hf_diversity.models import build_timm_model, is_timm_name, load_config
from hf_diversity.timm_models import wrap_timm_model


@dataclass
class ImageModel:
    """A classifier, the processor that makes its inputs, and the PIL mode that it expects."""

    model: PreTrainedModel
    processor: Any
    mode: str


def build_image_model(
    arguments: ImageModelArguments, data: ImageArguments, label_names: list[str], train: Split, column: str
) -> ImageModel:
    """Build the model that `arguments` name, with one output for each label.

    Args:
        arguments: name, start weights and arguments of the model.
        data: size and normalisation of its images.
        label_names: names of the classes, kept in the model's configuration.
        train: training examples, from which the size and normalisation of a model from scratch are taken.
        column: the column that holds the images.

    Raises:
        ValueError: there is no such model, or it cannot be built with these arguments.
    """
    name = arguments.model
    if is_timm_name(name):
        return _from_timm(name, arguments, data, label_names, train, column)
    if arguments.weights is not None:
        raise ValueError("weights belongs to timm architectures: for a folder or Hub id, type pretrained: true")
    config = load_config(name, settings=label_settings(label_names))
    if config.model_type == "timm_wrapper" and not arguments.pretrained:
        # transformers would draw other initial weights than timm does (std 0.02 in every convolution).
        arguments = ImageModelArguments(
            model=config.architecture, model_args={**(config.model_args or {}), **arguments.model_args}
        )
        return _from_timm(config.architecture, arguments, data, label_names, train, column)
    return _from_transformers(name, config, arguments, data, label_names)


def _from_timm(
    name: str, arguments: ImageModelArguments, data: ImageArguments, label_names: list[str], train: Split, column: str
) -> ImageModel:
    model_args = dict(arguments.model_args)
    channels = model_args.get("in_chans", 3)
    if channels not in (1, 3):
        raise ValueError(f"model_args in_chans is {channels}: images have 1 (grey) or 3 (colour) channels")
    mode = "L" if channels == 1 else "RGB"
    published = timm.get_pretrained_cfg(name)
    starts_pretrained = arguments.pretrained or arguments.weights is not None
    size = data.image_size or _side(model_args.get("img_size"))
    if size is None:
        size = published.input_size[-1] if starts_pretrained else train.examples[0][column].height
    if getattr(published, "fixed_input_size", False):
        model_args.setdefault("img_size", size)
    overlay = {"input_size": (channels, size, size)}
    if data.image_mean is not None:
        overlay |= {"mean": tuple(data.image_mean), "std": tuple(data.image_std)}
    elif not starts_pretrained:
        mean, deviation = channel_statistics(train, column, mode)
        overlay |= {"mean": mean, "std": deviation}
    if not starts_pretrained:
        # The whole image: cutting off its border is a habit of ImageNet evaluation.
        overlay |= {"crop_pct": 1.0}
    file = None if arguments.weights is None else Path(arguments.weights).expanduser()
    if file is not None and not file.is_file():
        raise ValueError(f"weights {arguments.weights}: no such file")
    try:
        model = build_timm_model(name, starts_pretrained, file, {"num_classes": len(label_names), **model_args})
    except (TypeError, RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"timm.create_model({name!r}) failed with model_args {model_args}: {error}") from error
    model = wrap_timm_model(model, model_args)
    for key, value in label_settings(label_names).items():
        setattr(model.config, key, value)
    # What AutoImageProcessor reads when the checkpoint is reloaded
    pretrained_cfg = {**model.config.pretrained_cfg, **overlay}
    model.config.pretrained_cfg = pretrained_cfg
    return ImageModel(model, TimmWrapperImageProcessor(dict(pretrained_cfg), architecture=name), mode)


def _from_transformers(
    name: str, config: Any, arguments: ImageModelArguments, data: ImageArguments, label_names: list[str]
) -> ImageModel:
    apply_model_args(config, arguments.model_args)
    changes: dict[str, Any] = {}
    if data.image_size is not None:
        changes["size"] = {"height": data.image_size, "width": data.image_size}
    if data.image_mean is not None:
        changes |= {"image_mean": data.image_mean, "image_std": data.image_std}
    try:
        processor = AutoImageProcessor.from_pretrained(name, **changes)
    except OSError as error:
        raise ValueError(f"model {name!r} has no image processor (preprocessor_config.json): {error}") from error
    if arguments.pretrained:
        model = AutoModelForImageClassification.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    else:
        model = AutoModelForImageClassification.from_config(config)
    channels = (config.model_args or {}).get("in_chans", 3) if config.model_type == "timm_wrapper" else None
    channels = channels or getattr(config, "num_channels", 3)
    return ImageModel(model, processor, "L" if channels == 1 else "RGB")


def _side(size: Any) -> int | None:
    return size[0] if isinstance(size, list | tuple) else size
