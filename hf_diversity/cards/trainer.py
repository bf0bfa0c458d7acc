"""What `DiversityMixin` writes as a model card: from what the trainer knows."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import ModelCard
from transformers import PreTrainedModel, Trainer
from transformers.modelcard import TrainingSummary

from ..compat import taking_what_takes
from ..config import DiversityConfig
from ..versions import installed_versions
from .card import NAME, TAGS, Card, Dataset, render_regulariser, save
from .training_log import TECHNICAL, training_log_rows

# What the regulariser adds to an evaluation is in the table of the log, and says nothing of the model's quality
_OURS = ("diversity", "activation_norm", "gamma")
_SECRET_OPTION = re.compile(r"token|secret|passw|key", re.IGNORECASE)
_PACKAGES = ("hf-diversity", "torch", "transformers", "accelerate", "timm")

if TYPE_CHECKING:
    _TrainerBase = Trainer
else:
    _TrainerBase = object  # any subclass of Trainer comes after the mixin


class CardMixin(_TrainerBase):
    """Writes the card of hf_diversity where Trainer writes its own; with both weights 0 it is Trainer's.

    A base class with a card of its own (TRL, sentence-transformers) keeps it, with a section about the regulariser.
    """

    diversity: DiversityConfig

    @taking_what_takes(Trainer.create_model_card)
    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write `README.md` into `output_dir`; the arguments are the base class's."""
        base: Any = super().create_model_card
        if not self.diversity.is_active or base.__func__ is not Trainer.create_model_card:
            base(*args, **kwargs)
            if self.diversity.is_active and self.is_world_process_zero():
                _add_section(Path(str(self.args.output_dir)) / NAME, self._card(None))
            return
        if not self.is_world_process_zero():
            return
        path = Path(str(self.args.output_dir)) / NAME
        is_peft = path.exists() and ModelCard.load(path).data.get("library_name") == "peft"
        names = ("language", "license", "tags", "model_name", "finetuned_from", "tasks", "dataset_tags", "dataset",
                 "dataset_args")  # fmt: skip
        summary = TrainingSummary.from_trainer(self, **dict(zip(names, args, strict=False)), **kwargs)
        save(self._card(summary), path.parent)
        if is_peft:
            self.accelerator.unwrap_model(self.model).create_or_update_model_card(str(path.parent))
            _add_tags(path)  # PEFT writes tags of its own in their place

    def _card(self, summary: TrainingSummary | None) -> Card:
        model: Any = self.accelerator.unwrap_model(self.model)
        common: dict[str, Any] = {"diversity": self.diversity, "layers": self._layer_names()}
        if summary is None:
            return Card("", **common)
        history = self.state.log_history
        metrics = _last_evaluation(history)
        tasks = _as_list(summary.tasks)
        settings = {name: str(value) for name, value in (summary.hyperparameters or {}).items()}
        ids, names = _as_list(summary.dataset_tags), _as_list(summary.dataset)
        return Card(
            name=summary.model_name,
            task=tasks[0] if tasks else None,
            base_model=summary.finetuned_from or None,
            start="fine-tuned" if summary.finetuned_from else "",
            parameters=sum(p.numel() for p in model.parameters()),
            datasets=[Dataset(n, ids[i] if i < len(ids) else None) for i, n in enumerate(names or ids)],
            metrics={"eval": metrics} if metrics else {},
            gaps=_last_gaps(history) if metrics else {},
            log=training_log_rows(history),
            usage=_usage(model, getattr(self, "hub_model_id", None) or self.args.hub_model_id or "."),
            command=_command(),
            settings=settings,
            environment=_environment(self.args),
            languages=_as_list(summary.language),
            license=summary.license,
            tags=_as_list(summary.tags),
            **common,
        )

    def _layer_names(self) -> list[str]:
        capture = getattr(self, "_capture", None)
        return (
            [target.describe() for target in capture.targets]
            if capture is not None
            else list(self.diversity.layers or [])
        )


def _add_tags(path: Path) -> None:
    found = ModelCard.load(path)
    found.data.tags = list(dict.fromkeys([*(found.data.tags or []), *TAGS]))
    found.save(path)


def _add_section(path: Path, card: Card) -> None:
    _add_tags(path)
    found = ModelCard.load(path)
    found.text = f"{found.text.rstrip()}\n\n{render_regulariser(card)}"
    found.save(path)


def _last_evaluation(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of the last evaluation, without the prefix and without what is no quality of the model."""
    record = next((r for r in reversed(history) if "eval_loss" in r), {})
    values = {key.removeprefix("eval_"): value for key, value in record.items() if key.startswith("eval_")}
    return {
        key: float(value)
        for key, value in values.items()
        if not key.startswith((*_OURS, *TECHNICAL)) and isinstance(value, int | float) and math.isfinite(value)
    }


def _last_gaps(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    record = next((r for r in reversed(history) if "gap_loss" in r), {})
    gaps = {key.removeprefix("gap_"): float(value) for key, value in record.items() if key.startswith("gap_")}
    return {"eval": gaps} if gaps else {}


def _usage(model: torch.nn.Module, source: str) -> str:
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel) or not hasattr(transformers, kind):
        return ""
    return f"from transformers import {kind}\n\nmodel = {kind}.from_pretrained({source!r})"


def _command() -> str:
    """What was typed, with the values of options that are secrets left out; nothing where it was no script."""
    if not sys.argv or not sys.argv[0].endswith(".py"):
        return ""
    words: list[str] = []
    for word in [Path(sys.argv[0]).name, *sys.argv[1:]]:
        option, equals, _ = word.partition("=")
        if option.startswith("-") and equals and _SECRET_OPTION.search(option):
            words.append(f"{option}=...")
        elif words and words[-1].startswith("-") and "=" not in words[-1] and _SECRET_OPTION.search(words[-1]):
            words.append("...")
        else:
            words.append(word)
    return shlex.join(["python", *words])


def _environment(args: Any) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions(_PACKAGES).items())
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    return [f"Seed {args.seed}; {versions}; {args.world_size} process(es) on {device}."]


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
