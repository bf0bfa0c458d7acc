"""Data sets: loading, columns, and the train, validation and test examples that a run uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from common.arguments import DataArguments, LabelledDataArguments
from hf_diversity.data import noisy_labels, stratified_split, stratified_subset
from hf_diversity.data.columns import LABEL_COLUMNS, find_column, label_encoder
from hf_diversity.data.examples import Split
from hf_diversity.data.sources import load_source, select_split


@dataclass
class Splits:
    """What a run trains on, chooses with and tests on."""

    train: Split
    validation: Split
    test: Split
    label_names: list[str]
    noisy: int

    def describe(self) -> dict[str, int]:
        """Return the number of examples of each split."""
        return {name: len(getattr(self, name)) for name in ("train", "validation", "test")}


def load_splits(arguments: LabelledDataArguments) -> Splits:
    """Load a labelled data set and choose the examples; the same arguments give the same ones on every process.

    Raises:
        ValueError: the data set cannot be loaded, or lacks a split or column; the message lists what there is.
    """
    parts = _load_parts(arguments)
    column = find_column(parts["train"], arguments.label_column, LABEL_COLUMNS, "label_column: NAME")
    label_names, encode = label_encoder(parts["train"], column)
    labelled = {}
    for role, part in parts.items():
        find_column(part, column, (), "label_column: NAME")
        labelled[role] = Split(part, encode(part[column], getattr(arguments, f"{role}_split")))
    splits = _choose(labelled, arguments)
    labels, redrawn = noisy_labels(
        splits["train"].labels, arguments.label_noise, len(label_names), arguments.label_noise_seed
    )
    splits["train"] = Split(splits["train"].examples, labels)
    return Splits(**splits, label_names=label_names, noisy=len(redrawn))


def load_unlabelled_splits(arguments: DataArguments) -> Splits:
    """Load a data set without classes and choose the examples, as `load_splits` does.

    Raises:
        ValueError: the data set cannot be loaded, or lacks a split; the message lists what there is.
    """
    # One class for all: a stratified choice is then a plain random one.
    parts = {role: Split(part, np.zeros(len(part), np.int64)) for role, part in _load_parts(arguments).items()}
    return Splits(**_choose(parts, arguments), label_names=[], noisy=0)


def _load_parts(arguments: DataArguments) -> dict[str, datasets.Dataset]:
    """Load the splits by what they are for: "train", "test" and, if one was named, "validation"."""
    data = load_source(arguments.dataset, arguments.dataset_config)
    if arguments.test_dataset is not None:
        test_data = load_source(arguments.test_dataset, arguments.dataset_config)
        # A lone file is loaded as a split named "train", whatever it holds.
        only = next(iter(test_data)) if len(test_data) == 1 else arguments.test_split
        data[arguments.test_split] = test_data[arguments.test_split if arguments.test_split in test_data else only]
    names = {"train": arguments.train_split, "test": arguments.test_split}
    if arguments.validation_split is not None:
        names["validation"] = arguments.validation_split
    if len(set(names.values())) < len(names):
        raise ValueError(f"the splits are {names}: the test split must be another than those used for training")
    parts = {}
    for role, name in names.items():
        part = select_split(data, name)
        if part is None:
            hint = " or test_dataset: PATH" if role == "test" else ""
            raise ValueError(
                f"{arguments.dataset} has no {role} split {name!r}: it has {', '.join(map(repr, data))}; type "
                f"{role}_split: NAME{hint}"
            )
        if not len(part):
            raise ValueError(f"the {role} split {name!r} of {arguments.dataset} is empty; type another {role}_split")
        parts[role] = part
    return parts


def _choose(splits: dict[str, Split], arguments: DataArguments) -> dict[str, Split]:
    """Hold out a validation set if there is none, then take the subsets that were asked for."""
    seed = arguments.split_seed
    if "validation" not in splits:
        kept, held = stratified_split(splits["train"].labels, float(arguments.validation_fraction), seed)
        splits["train"], splits["validation"] = splits["train"].select(kept), splits["train"].select(held)
    for role in splits:
        size = getattr(arguments, f"max_{role}_samples")
        if size is not None and size < len(splits[role]):
            splits[role] = splits[role].select(stratified_subset(splits[role].labels, size, seed))
    return splits


def describe_data(arguments: DataArguments, splits: Splits) -> dict[str, Any]:
    """Return what the results say about the data: its name and the number of examples, no local path."""
    path = Path(arguments.dataset).expanduser()
    is_embedded = arguments.dataset == "embedded"
    is_hub = not is_embedded and not path.exists()
    described = {
        "name": "FashionMNIST (3,000 embedded images)" if is_embedded else arguments.dataset if is_hub else path.stem,
        "hub_id": arguments.dataset if is_hub else None,
        **splits.describe(),
        "seeds": {"split_seed": arguments.split_seed},
    }
    if isinstance(arguments, LabelledDataArguments):
        described |= {
            "classes": len(splits.label_names),
            "label_noise": arguments.label_noise,
            "noisy_labels": splits.noisy,
        }
        described["seeds"]["label_noise_seed"] = arguments.label_noise_seed
    return described
