"""Arguments of the recipes: a YAML file, overridden by the command line, parsed into dataclasses."""

from __future__ import annotations

import difflib
import json
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from common.diversity_schedule import make_diversity_schedule
from common.mappings import read_mapping


@dataclass
class ModelArguments:
    """Which model is trained, and from what weights it starts."""

    model: str = field(default="", metadata={"help": "A local folder or a Hub id of a transformers model."})
    pretrained: bool = field(
        default=False, metadata={"help": "Start from the model's published weights instead of random ones."}
    )
    model_args: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further arguments of the architecture, a mapping in YAML or JSON on the command line: those of "
            'the transformers configuration or, for images, of timm.create_model, for example {"in_chans": 1}.'
        },
    )

    def __post_init__(self):
        """Read `model_args` given as JSON."""
        self.model_args = read_mapping("model_args", self.model_args, "{in_chans: 1}")


@dataclass
class DataArguments:
    """Which examples are trained on, chosen with, and tested on."""

    dataset: str = field(
        default="",
        metadata={
            "help": "A Hub id, a local folder in the Hub's layout or written by save_to_disk, a local .parquet, .csv, "
            ".json or .jsonl file, or 'embedded' (3,000 images inside hf_diversity)."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset, where it has several."}
    )
    benchmark_task: str | None = field(
        default=None,
        metadata={
            "help": "Task in the data set's eval.yaml, if it is a benchmark with a leaderboard on the Hub: the test "
            "result is then also written to .eval_results."
        },
    )
    test_dataset: str | None = field(
        default=None, metadata={"help": "Where the test split is, if not in `dataset`: the same forms."}
    )
    train_split: str = field(
        default="train",
        metadata={"help": "Name of the training split, or a slice of one, as in 'train[:80%%]' and 'train[80%%:]'."},
    )
    test_split: str = field(default="test", metadata={"help": "Name of the test split, evaluated once, at the end."})
    validation_split: str | None = field(
        default=None,
        metadata={
            "help": "Name of a validation split. Default: a stratified part of the training split, never of the test."
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Part of the training split held out for validation, if there is no such split."},
    )
    split_seed: int = field(
        default=0,
        metadata={
            "help": "Seed of the validation split and of max_*_samples. Apart from `seed`: runs share their data."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on a stratified subset of this many examples, chosen after the split."}
    )
    max_validation_samples: int | None = field(
        default=None, metadata={"help": "Validate on a stratified subset of this many examples."}
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Test on a stratified subset of this many examples (for trying things out)."}
    )
    train_eval_samples: int | None = field(
        default=None,
        metadata={
            "help": "How many training examples are evaluated with the validation set during training, for the gap "
            "curves. Default: as many as there are validation examples."
        },
    )

    def __post_init__(self):
        """Refuse numbers that cannot mean anything."""
        if self.validation_split is None and not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}: it must lie between 0 and 1; type "
                "validation_fraction: 0.1, or name a validation_split"
            )
        for name in ("max_train_samples", "max_validation_samples", "max_test_samples", "train_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1; leave it out for all examples")


@dataclass
class LabelledDataArguments(DataArguments):
    """Data arguments of the recipes that learn classes."""

    label_column: str | None = field(
        default=None,
        metadata={"help": "Column of the class. Default: the first of label, labels, fine_label, target, class."},
    )
    label_noise: float = field(
        default=0.0,
        metadata={"help": "Fraction of the training labels replaced by uniformly random ones; all others stay clean."},
    )
    label_noise_seed: int = field(default=0, metadata={"help": "Seed of the label noise."})

    def __post_init__(self):
        """Refuse a fraction that is none."""
        super().__post_init__()
        if not 0 <= self.label_noise <= 1:
            raise ValueError(
                f"label_noise is {self.label_noise}: it must be a fraction; type label_noise: 0.4 for 40 %"
            )


@dataclass
class RunArguments:
    """What a run does around the training, and what TrainingArguments has no field for."""

    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Start although output_dir holds an earlier run, whose checkpoints and results are deleted."
        },
    )
    figures: bool = field(
        default=True, metadata={"help": "Draw the curves and the similarity matrices (needs matplotlib)."}
    )
    measure_similarity: bool = field(
        default=True,
        metadata={
            "help": "Measure the similarity of the layer's units on the validation set before and after training."
        },
    )
    diagnostics: bool = field(
        default=False,
        metadata={
            "help": "Measure effective rank, correlation and dead units with the similarity (eigenvalues of a units x "
            "units matrix)."
        },
    )
    evaluate_test: bool = field(
        default=True,
        metadata={"help": "Evaluate the test set, at the end. False while settings are chosen (with keep_files)."},
    )
    keep_files: bool = field(
        default=True,
        metadata={"help": "Leave model, results, README and figures in output_dir; false: nothing is written."},
    )
    twin: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a finished run with the same data and seed, and another regulariser (both weights 0, "
            "say): its results stand beside this run's in the model card."
        },
    )
    license: str | None = field(
        default=None,
        metadata={"help": "Licence of the trained model for its card, as the Hub calls it, for example apache-2.0."},
    )
    momentum: float | None = field(default=None, metadata={"help": "Momentum of the optimiser, for optim: sgd."})
    lr_milestones: list[int] | None = field(
        default=None,
        metadata={"help": "Epochs after which the learning rate is multiplied by lr_factor; replaces a scheduler."},
    )
    lr_factor: float = field(default=0.1, metadata={"help": "What lr_milestones multiply the learning rate by."})
    diversity_schedule: dict | str | None = field(
        default=None,
        metadata={
            "help": "The regulariser's weights over the course of training, a mapping in YAML or JSON on the command "
            "line: start, warmup, hold (shares of training), decay (constant, linear, cosine, step) and final of "
            'callbacks.DiversityScheduleCallback, for example {"warmup": 0.5}. Default: constant.'
        },
    )

    def __post_init__(self):
        """Refuse steps that cannot be taken, and files that would lack what they state."""
        self.diversity_schedule = read_mapping("diversity_schedule", self.diversity_schedule, "{warmup: 0.5}")
        make_diversity_schedule(self.diversity_schedule)
        if self.keep_files and not self.evaluate_test:
            raise ValueError(
                "evaluate_test is false and keep_files true: the README of a run states its test results; type "
                "--keep_files false as well"
            )
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}: it must lie in [0, 1); type momentum: 0.9")
        if self.lr_milestones is not None and (
            self.lr_milestones != sorted(set(self.lr_milestones)) or min(self.lr_milestones, default=0) < 1
        ):
            raise ValueError(
                f"lr_milestones are {self.lr_milestones}: epochs, rising, from 1 on; type lr_milestones: [60, 120]"
            )
        if not 0 < self.lr_factor < 1:
            raise ValueError(f"lr_factor is {self.lr_factor}: it must lie between 0 and 1; type lr_factor: 0.2")


def parse_arguments(
    types: Sequence[type], arguments: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Parse `[--config FILE] [--field value ...]` into one instance of each dataclass.

    A configuration file is the same as typing its lines: values are converted and checked alike, and what is typed on
    the command line comes later and wins. `base: OTHER.yaml` in a file takes over the lines of another one beside it.

    Args:
        types: dataclasses whose fields, all different, are the keys.
        arguments: words of the command line. Default: those of this process.
        description: what `--help` says first.

    Returns:
        One instance of each of `types`, in order.

    Raises:
        SystemExit: a word or key is unknown (the message names the nearest), or a value has the wrong type.
        ValueError: a dataclass refused its values.
        RuntimeError: several processes were started that would not train together.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _make_parser(types, description)
    known = _fields(parser)
    words, nulls = _without_nulls(words, known)
    given, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(unknown_name("argument", unknown[0], known))
    if given.config is not None:
        values = read_values(given.config, parser.error)
        # `--key null` on the command line wins
        values = {key: value for key, value in values.items() if key not in nulls}
        words = _words(values, f"--config {given.config}", parser) + words
    parser.set_defaults(**dict.fromkeys(nulls))
    return _parse(parser, words)


def parse_values(types: Sequence[type], values: Mapping[str, Any], source: str) -> tuple[Any, ...]:
    """Parse a mapping as `parse_arguments` parses the lines of a file.

    Args:
        types: dataclasses whose fields, all different, are the keys.
        values: by key.
        source: where they come from, for the errors.

    Returns:
        One instance of each of `types`, in order.

    Raises:
        ValueError: a key is unknown or a value has the wrong type or is refused; names `source`.
        RuntimeError: several processes were started that would not train together.
    """
    parser = _make_parser(types)

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{source}: {message}")

    parser.error = fail  # type: ignore[method-assign]
    try:
        return _parse(parser, _words(values, source, parser))
    except (ValueError, TypeError) as error:
        if str(error).startswith(source):
            raise
        raise ValueError(f"{source}: {error}") from error


def _make_parser(types: Sequence[type], description: str | None = None) -> HfArgumentParser:
    # Abbreviations off: `--layer x` must not silently become `--layers x`.
    # The usage would list every field of TrainingArguments before each error.
    usage = "%(prog)s [--config FILE] [--field value ...] (--help lists the fields)"
    parser = HfArgumentParser(types, allow_abbrev=False, description=description, usage=usage)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of the arguments below")
    return parser


def _fields(parser: HfArgumentParser) -> list[str]:
    return sorted({action.dest for action in parser._actions} - {"help", "config"})


def _parse(parser: HfArgumentParser, words: list[str]) -> tuple[Any, ...]:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and not torch.accelerator.is_available():
        # accelerate's launcher forgets `use_cpu: true` when it starts several processes, and each would then train by
        # itself, all of them writing to one folder.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    *parsed, _ = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    for instance in parsed:
        if isinstance(instance, TrainingArguments) and instance.world_size != started:
            raise RuntimeError(
                f"{started} processes were started, but {instance.world_size} would train together: type "
                "--use_cpu true for processes without a GPU of their own"
            )
    return tuple(parsed)


def _without_nulls(words: list[str], known: list[str]) -> tuple[list[str], set[str]]:
    """Take `--key null` and `--key=null` out of the words, as no word stands for the value None; and their keys.

    What is typed last counts, as everywhere.
    """
    groups: list[list[str]] = []  # an option and what follows it
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    kept: list[tuple[str, list[str]]] = []
    nulls: set[str] = set()
    for group in groups:
        name, _, value = group[0].removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if key in known and (value == "null" or group[1:] == ["null"]):
            nulls.add(key)
            kept = [(other, earlier) for other, earlier in kept if other != key]
        else:
            nulls.discard(key)
            kept.append((key, group))
    return [word for _, group in kept for word in group], nulls


def _words(values: Mapping[str, Any], source: str, parser: HfArgumentParser) -> list[str]:
    """The values as they would be typed."""
    words, known = [], _fields(parser)
    for key, value in values.items():
        if key not in known:
            parser.error(f"{source}: " + unknown_name("key", str(key), known))
        if value is None:
            # No word stands for None.
            parser.set_defaults(**{key: None})
        elif isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        elif isinstance(value, dict):
            words += [f"--{key}", json.dumps(value)]
        else:
            # One word, so that a negative number is not taken for an option.
            words += [f"--{key}={value}"]
    return words


def read_values(
    path: Path,
    fail: Callable[[str], NoReturn],
    combine: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = operator.or_,
) -> dict[str, Any]:
    """Read the `key: value` lines of a YAML file, on top of those of its `base`, if it names one beside it.

    Args:
        path: the file.
        fail: called with a message if it is no such file.
        combine: puts a file's own values on top of those of its base.
    """
    if not path.is_file():
        fail(f"--config {path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        fail(f"--config {path}: not YAML: {error}")
    if not isinstance(values, dict):
        fail(f"--config {path}: holds {type(values).__name__}, must hold lines of `key: value`")
    base = values.pop("base", None)
    return values if base is None else combine(read_values(path.parent / base, fail, combine), values)


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """Say that there is no such argument, key and so on, and which is the nearest of those that there are."""
    if kind == "argument" and not name.startswith("--"):
        return f"unexpected word {name!r}: arguments are written --name value"
    bare = name.lstrip("-").split("=")[0].replace("-", "_")
    close = difflib.get_close_matches(bare, known, n=1)
    return f"unknown {kind} {name!r}: " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")
