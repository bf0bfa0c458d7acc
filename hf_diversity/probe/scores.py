"""How well the model does on the examples whose layers are measured: loss and accuracy, where labels fit its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .loading import LoadedModel


class Scores:
    """Sums over batches, which come in the order of the labels.

    Args:
        labels: what the head should say, for each example; None to score the next token of texts.
    """

    def __init__(self, labels: np.ndarray | None):
        """See the class."""
        self._labels = None if labels is None else torch.from_numpy(labels)
        self._position = 0
        self._loss = 0.0
        self._correct = 0
        self.count = 0

    def add(self, batch: Mapping[str, Any], outputs: Any) -> None:
        """Add what the model gave for a batch."""
        logits = outputs["logits"].double()
        if self._labels is None:
            real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))[:, 1:].bool()
            logits, targets = logits[:, :-1][real], batch["input_ids"][:, 1:][real]
        else:
            targets = self._labels[self._position : self._position + len(logits)].to(logits.device)
            self._position += len(logits)
        self._loss += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
        self._correct += int((logits.argmax(-1) == targets).sum())
        self.count += len(targets)

    def compute(self) -> dict[str, float]:
        """Mean cross-entropy and accuracy over examples, or tokens."""
        return {"accuracy": self._correct / self.count, "loss": self._loss / self.count}


def why_no_scores(loaded: LoadedModel, label_names: Sequence[str], why_no_labels: str) -> str:
    """Why loss and accuracy cannot be told, or ""."""
    model: Any = loaded.model
    kind = type(model).__name__
    if predicts_next_token(model):
        return ""
    if not kind.endswith(("ForImageClassification", "ForSequenceClassification")):
        return f"{kind} has no head that classifies an example."
    if why_no_labels:
        return f"The data have no classes: {why_no_labels}"
    if getattr(model.config, "problem_type", None) in ("regression", "multi_label_classification"):
        return f"The head was trained for {model.config.problem_type.replace('_', ' ')}, not for one class of many."
    if head_classes(model, label_names) is None:
        own = head_names(model)
        return (
            f"The labels of the data do not fit the head: the data have {len(label_names)} classes "
            f"({_some(label_names)}), the head {len(own)} ({_some(own)})."
        )
    return ""


def predicts_next_token(model: nn.Module) -> bool:
    """Whether it is a causal language model."""
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def head_names(model: Any) -> list[str]:
    """What the outputs of a classifier are called."""
    return [str(model.config.id2label.get(index, f"LABEL_{index}")) for index in range(model.config.num_labels)]


def head_classes(model: nn.Module, label_names: Sequence[str]) -> np.ndarray | None:
    """The head's output for each class of the data, by name, or by position where either has no names; else None."""
    own = head_names(model)
    places = {name.casefold(): index for index, name in enumerate(own)}
    if len(own) >= 2 and all(name.casefold() in places for name in label_names):
        return np.array([places[name.casefold()] for name in label_names])
    nameless = all(name == f"LABEL_{index}" for index, name in enumerate(own)) or all(
        name == str(index) for index, name in enumerate(label_names)
    )
    return np.arange(len(own)) if nameless and len(own) == len(label_names) else None


def make_scores(loaded: LoadedModel, labels: np.ndarray, label_names: Sequence[str]) -> Scores:
    """What scores a model of which `why_no_scores` says nothing, on examples with these class indices."""
    classes = None if predicts_next_token(loaded.model) else head_classes(loaded.model, label_names)
    return Scores(None if classes is None else classes[labels])


def accuracy_error(accuracy: float, count: int) -> Tensor:
    """Standard error of an accuracy over so many examples."""
    return torch.tensor(accuracy * (1 - accuracy) / count).sqrt()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
