"""Which examples are measured, and batches of them as a model's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.columns import LABEL_COLUMNS, find_column, find_image_column, find_text_columns, label_encoder
from ..data.examples import ImageDataset, Split, TextDataset
from ..data.sources import load_source, select_split
from ..data.splits import stratified_subset
from .loading import LoadedModel, check_channels
from .settings import ProbeSettings

# The names of a held-out split, the first that is there
_HELD_OUT = ("test", "validation", "valid", "dev", "eval")


@dataclass(frozen=True)
class Examples:
    """The examples of both splits, the same for every model.

    Attributes:
        splits: by role, "train" and "test"; labels are class indices, all 0 without classes.
        split_names: the splits' names by role.
        totals: examples that each split holds, by role.
        columns: of the image, or of the text or texts.
        label_column: of the classes; None without.
        label_names: of the classes; empty without.
        why_no_labels: why there are none, or "".
    """

    splits: dict[str, Split]
    split_names: dict[str, str]
    totals: dict[str, int]
    columns: tuple[str, ...]
    label_column: str | None
    label_names: list[str]
    why_no_labels: str


def load_parts(settings: ProbeSettings) -> dict[str, tuple[str, datasets.Dataset]]:
    """Load both splits, by role with their names.

    Raises:
        ValueError: the data set cannot be loaded or lacks a split; the message lists what there is.
    """
    data = load_source(settings.dataset, settings.dataset_config)
    test = settings.test_split or next((name for name in _HELD_OUT if name in data), _HELD_OUT[0])
    parts = {}
    for role, name in (("train", settings.train_split), ("test", test)):
        part = select_split(data, name)
        if part is None:
            only = next(iter(data))
            hint = (
                f"type --train-split '{only}[:80%]' --test-split '{only}[80%:]' to cut it in two"
                if len(data) == 1 and role == "test"
                else f"type --{role}-split NAME"
            )
            raise ValueError(
                f"{settings.dataset} has no {role} split {name!r}: it has {', '.join(map(repr, data))}; {hint}"
            )
        if len(part) < 2:
            raise ValueError(f"the {role} split {name!r} of {settings.dataset} has {len(part)} example: at least 2")
        parts[role] = (name, part)
    return parts


def choose_examples(
    parts: Mapping[str, tuple[str, datasets.Dataset]], modality: str, settings: ProbeSettings
) -> Examples:
    """Find the columns and draw the examples.

    Args:
        parts: from `load_parts`.
        modality: of the model, "image" or "text".
        settings: columns, `max_examples` and `seed` matter.

    Raises:
        ValueError: there are no columns of this modality, or a column that was named is not there.
    """
    train = parts["train"][1]
    try:
        columns = _input_columns(train, modality, settings)
        for _, part in parts.values():
            for column in columns:
                find_column(part, column, (), "another split")
    except ValueError as error:
        raise ValueError(f"the model takes {modality}s, and of {settings.dataset}: {error}") from error
    label_column, names, labels, why = _labels(parts, settings)
    splits, totals = {}, {}
    for role, (_, part) in parts.items():
        generator = np.random.default_rng(settings.seed)
        size = min(settings.max_examples, len(part))
        chosen = stratified_subset(labels[role], size, settings.seed)
        # In random order, for the first batch sets the scale of gamma, and data are often sorted by class
        splits[role] = Split(part, labels[role]).select(generator.permutation(chosen))
        totals[role] = len(part)
    split_names = {role: name for role, (name, _) in parts.items()}
    return Examples(splits, split_names, totals, columns, label_column, names, why)


def make_loader(model: LoadedModel, examples: Examples, role: str, settings: ProbeSettings) -> DataLoader[Any]:
    """Batches of a split as the model's inputs, without labels, in the split's order."""
    split = examples.splits[role]
    dataset: Any
    if model.modality == "image":
        check_channels(model)
        dataset = ImageDataset(split, examples.columns[0], model.mode, model.processor)
    else:
        longest = min(settings.max_length, model.processor.model_max_length)
        dataset = TextDataset(split, examples.columns, model.processor, longest)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        inputs = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
        if model.modality == "image":
            return {"pixel_values": torch.stack([row["pixel_values"] for row in inputs])}
        return dict(model.processor.pad(inputs, return_tensors="pt"))

    return DataLoader(dataset, batch_size=settings.batch_size, collate_fn=collate)


def describe_dataset(name: str) -> str:
    """The name as the report shows it: no path of this machine."""
    if name == "embedded":
        return "FashionMNIST (3,000 images inside hf_diversity)"
    return Path(name).expanduser().name if Path(name).expanduser().exists() else name


def _input_columns(train: datasets.Dataset, modality: str, settings: ProbeSettings) -> tuple[str, ...]:
    if modality == "image":
        return (find_image_column(train, settings.image_column, "--image-column NAME", by_kind=True),)
    how = "--text-columns NAME [NAME]"
    return find_text_columns(train, settings.text_columns, (how, how), by_kind=True)


def _labels(
    parts: Mapping[str, tuple[str, datasets.Dataset]], settings: ProbeSettings
) -> tuple[str | None, list[str], dict[str, np.ndarray], str]:
    """Column, class names and indices by role, all 0 where there are no classes, and then why."""
    none = {role: np.zeros(len(part), np.int64) for role, (_, part) in parts.items()}
    wanted = settings.label_column
    try:
        column = find_column(parts["train"][1], wanted, LABEL_COLUMNS, "--label-column NAME", _is_class)
        names, encode = label_encoder(parts["train"][1], column)
        for _, part in parts.values():
            find_column(part, column, (), "--label-column NAME")
        return column, names, {role: encode(part[column], name) for role, (name, part) in parts.items()}, ""
    except ValueError as error:
        if wanted is not None:
            raise
        return None, [], none, str(error)


def _is_class(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel)
