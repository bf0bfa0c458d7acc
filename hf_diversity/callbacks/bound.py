"""Callbacks that work with their trainer, which transformers does not hand to them."""

from __future__ import annotations

import weakref
from collections.abc import Sized
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Session:
    """What a callback keeps for one of its trainers; a new one at each training."""

    loader: DataLoader[Any] | None = None


class TrainerBoundCallback(TrainerCallback):
    """Base of callbacks that need their trainer; one instance serves several trainers, each by itself.

    `DiversityTrainer` binds those that it is given. With another trainer type `callback.bind(trainer)` after
    `trainer.add_callback(callback)`. A subclass calls `super().__init__()`.
    """

    _session_type = Session

    def __init__(self) -> None:
        """See the class."""
        self._sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def bind(self, trainer: Any) -> None:
        """Work with this trainer, too, from now on.

        Raises:
            ValueError: the trainer does not have this callback, and so would never call it.
        """
        if self not in trainer.callback_handler.callbacks:
            name = type(self).__name__
            raise ValueError(
                f"this {name} is not among the callbacks of the {type(trainer).__name__}; type "
                "trainer.add_callback(callback) before callback.bind(trainer)"
            )
        # At the end: `trainer` is the one that was bound last
        self._sessions[trainer] = self._sessions.pop(trainer, None) or self._session_type()

    @property
    def trainer(self) -> Any:
        """The trainer; of several, the one that was bound last.

        Raises:
            RuntimeError: there is none.
        """
        trainers = list(self._sessions)
        if not trainers:
            raise self._unknown()
        return trainers[-1]

    def _trainer_of(self, state: Any) -> Any:
        """The trainer whose event this is: transformers hands its state to callbacks, and that belongs to it alone."""
        for trainer in list(self._sessions):
            if getattr(trainer, "state", None) is state:  # one in the middle of its __init__ has none
                return trainer
        raise self._unknown()

    def _unknown(self) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__} does not know its trainer: DiversityTrainer(callbacks=[...]) tells it; with "
            "another trainer type callback.bind(trainer) before train()"
        )

    def _loader_of(self, trainer: Any) -> DataLoader[Any]:
        """The trainer's batches of the examples, the same loader at each evaluation.

        Not by `get_eval_dataloader`: with persistent workers it gives that of the evaluation set for any examples.
        """
        session = self._sessions[trainer]
        loader: DataLoader[Any] | None = session.loader
        if loader is None:
            loader = session.loader = trainer.get_test_dataloader(self._examples_of(trainer))
        return loader

    def _examples_of(self, trainer: Any) -> Any:
        raise NotImplementedError  # of callbacks that have a loader

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start anew, and fail now rather than at the first evaluation."""
        self._sessions[self._trainer_of(state)] = self._session_type()


def evaluation_prefix(metrics: dict[str, float]) -> str | None:
    """With what the names of an evaluation's metrics begin, say "eval"; None if they are no evaluation's."""
    found = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")]
    # A metric of the user's may end so as well: the whole evaluation's has a speed, and is the shortest
    return min((name for name in found if f"{name}_samples_per_second" in metrics), key=len, default=None)


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
    if isinstance(data, datasets.Dataset):
        return data.select(chosen)
    dataset: Any = data  # Trainer takes anything with __len__ and __getitem__
    return Subset(dataset, chosen)
