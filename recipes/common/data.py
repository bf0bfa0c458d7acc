"""Data sets: loading, columns, and the train, validation and test examples that a run uses."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from common.arguments import DataArguments, LabelledDataArguments
from hf_diversity.data import load_embedded, noisy_labels, stratified_split, stratified_subset

LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")
FILE_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
SLICE = re.compile(r"(?P<name>.+)\[(?P<start>\d*%?):(?P<stop>\d*%?)\]")


@dataclass
class Split:
    """Examples of one split.

    Attributes:
        examples: the rows.
        labels: their class indices, which label noise may have changed; all 0 without classes.
        made: inputs that were made of them, by what made them: several runs over one split make them once.
    """

    examples: datasets.Dataset
    labels: np.ndarray
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def select(self, positions: np.ndarray) -> Split:
        """Return the examples at these positions."""
        return Split(self.examples.select(positions), self.labels[positions])


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
    column = find_column(parts["train"], arguments.label_column, LABEL_COLUMNS, "label_column")
    label_names, encode = _label_encoder(parts["train"], column)
    labelled = {}
    for role, part in parts.items():
        find_column(part, column, (), "label_column")
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
    data = _load(arguments.dataset, arguments.dataset_config)
    if arguments.test_dataset is not None:
        test_data = _load(arguments.test_dataset, arguments.dataset_config)
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
        part = _part(data, name)
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


def _part(data: dict[str, datasets.Dataset], name: str) -> datasets.Dataset | None:
    """Return a split, or a slice of one written as datasets writes it: train[:40000], train[80%:]."""
    if name in data:
        return data[name]
    found = SLICE.fullmatch(name)
    if found is None or found["name"] not in data:
        return None
    whole = data[found["name"]]

    def position(text: str, default: int) -> int:
        if not text:
            return default
        return min(len(whole), len(whole) * int(text[:-1]) // 100 if text.endswith("%") else int(text))

    chosen = range(position(found["start"], 0), position(found["stop"], len(whole)))
    return whole.select(chosen if len(chosen) else [])


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


def find_column(dataset: datasets.Dataset, wanted: str | None, candidates: tuple[str, ...], argument: str) -> str:
    """Return the column to use: the one that was named, else the first candidate that is there.

    Raises:
        ValueError: there is no such column; the message lists the columns and names the argument to set.
    """
    if wanted is not None and wanted not in dataset.column_names:
        close = difflib.get_close_matches(wanted, dataset.column_names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"type {argument}: NAME"
        raise ValueError(f"there is no column {wanted!r} among {', '.join(map(repr, dataset.column_names))}: {hint}")
    for name in (wanted,) if wanted is not None else candidates:
        if name in dataset.column_names:
            return name
    raise ValueError(
        f"none of the columns {', '.join(map(repr, dataset.column_names))} is called {' or '.join(candidates)}: type "
        f"{argument}: NAME"
    )


def _load(name: str, config: str | None) -> dict[str, datasets.Dataset]:
    if not name:
        raise ValueError("dataset is missing: type dataset: NAME, a path or a Hub id")
    if name == "embedded":
        return dict(load_embedded())
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"dataset {name}: unknown kind of file; known: {', '.join(FILE_FORMATS)}")
        return dict(datasets.load_dataset(FILE_FORMATS[path.suffix], data_files=str(path)))
    if (path / "dataset_dict.json").is_file():
        return dict(datasets.load_from_disk(path))
    if not path.is_dir() and (name.startswith(("/", ".", "~")) or name.count("/") > 1 or path.suffix in FILE_FORMATS):
        raise ValueError(f"dataset {name}: no such folder or file; type a path that exists, a Hub id or `embedded`")
    try:
        return dict(datasets.load_dataset(str(path) if path.is_dir() else name, config))
    except Exception as error:
        # A dozen exception types, with and without a network: the user's question is the same.
        raise ValueError(
            f"dataset {name}: it can be loaded neither as a local path nor from the Hub; type a path that exists, "
            f"a Hub id or `embedded` ({type(error).__name__}: {error})"
        ) from error


def _label_encoder(dataset: datasets.Dataset, column: str):
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel):
        names, values = feature.names, {index: index for index in range(feature.num_classes)}
    else:
        # Without named classes, the classes are the values that the training split holds.
        found = sorted(dataset.unique(column))
        if not found or not all(isinstance(value, int | str) for value in found):
            raise ValueError(f"label_column {column!r} holds {feature}: it must hold class indices or class names")
        names, values = [str(value) for value in found], {value: index for index, value in enumerate(found)}
    if len(names) < 2:
        raise ValueError(
            f"label_column {column!r} has {len(names)} class: nothing can be learned; type another column"
        )

    def encode(labels, split: str) -> np.ndarray:
        unknown = sorted({label for label in labels if label not in values}, key=str)
        if unknown:
            raise ValueError(
                f"split {split!r}: labels {unknown[:5]} are not among the {len(names)} training classes (hidden test "
                "labels are often -1); type another test_split"
            )
        return np.array([values[label] for label in labels], dtype=np.int64)

    return names, encode


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
