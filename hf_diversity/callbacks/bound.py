"""Callbacks that work with their trainer, which transformers does not hand to them."""

from __future__ import annotations

import contextlib
import random
import weakref
from collections.abc import Iterator, Sized
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import TrainerCallback


class TrainerBoundCallback(TrainerCallback):
    """Base of callbacks that need their trainer.

    `DiversityTrainer` binds those that it is given. With another trainer type `callback.bind(trainer)` after
    `trainer.add_callback(callback)`.
    """

    _trainer: weakref.ref[Any] | None = None
    _loader: DataLoader | None = None

    def bind(self, trainer: Any) -> None:
        """Work with this trainer from now on."""
        if self._trainer is None or self._trainer() is not trainer:
            self._loader = None
        self._trainer = weakref.ref(trainer)

    def _loader_of(self, examples: Any) -> DataLoader:
        """The trainer's batches of the examples, the same loader at each evaluation.

        Not by `get_eval_dataloader`: with persistent workers it gives that of the evaluation set for any examples.
        """
        if self._loader is None:
            self._loader = self.trainer.get_test_dataloader(examples)
        return self._loader

    @property
    def trainer(self) -> Any:
        """The trainer.

        Raises:
            RuntimeError: there is none.
        """
        trainer = None if self._trainer is None else self._trainer()
        if trainer is None:
            name = type(self).__name__
            raise RuntimeError(
                f"{name} does not know its trainer: DiversityTrainer(callbacks=[...]) tells it; with another trainer "
                "type callback.bind(trainer) before train()"
            )
        return trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Fail now rather than at the first evaluation."""
        self.trainer  # noqa: B018
        self._loader = None


def bind_callbacks(trainer: Any) -> None:
    """Bind the trainer's callbacks that need it."""
    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, TrainerBoundCallback):
            callback.bind(trainer)


def some_examples(data: Any, size: int | None, seed: int, name: str) -> Any:
    """At most `size` examples of a data set, drawn by `seed`, in their order.

    Raises:
        ValueError: the data set has no length.
    """
    if not isinstance(data, Sized) or isinstance(data, torch.utils.data.IterableDataset):
        raise ValueError(
            f"{name} is a {type(data).__name__} without length, of which no fixed part can be drawn; pass a data set "
            "of a few examples"
        )
    if size is None or size >= len(data):
        return data
    chosen = np.sort(np.random.default_rng(seed).choice(len(data), size, replace=False)).tolist()
    return data.select(chosen) if isinstance(data, datasets.Dataset) else Subset(_as_dataset(data), chosen)


def _as_dataset(data: Any) -> Dataset:
    return data  # Trainer takes anything with __len__ and __getitem__


@contextlib.contextmanager
def untouched_random_state() -> Iterator[None]:
    """Training draws the same numbers afterwards as if nothing had happened: data loaders draw a seed each."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
