"""What `DiversityMixin` writes as a model card: from what the trainer knows."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from huggingface_hub import ModelCard
from transformers import Trainer
from transformers.modelcard import TrainingSummary
from transformers.utils import logging

from .. import plots
from ..compat import taking_what_takes
from ..config import DiversityConfig
from ..plots.saving import save_figures
from ..publishing.commit import HERE
from ..trainer_metrics import bare_metrics
from ..versions import installed_versions
from .card import NAME, TAGS, Card, Dataset, is_hub_id, render_regulariser, save
from .log_table import training_log_rows
from .repeat import environment_sentence, typed_command
from .settings import changed_fields
from .usage import is_timm, usage_code

logger = logging.get_logger(__name__)

# What the regulariser adds to an evaluation is in the table of the log, and says nothing of the model's quality
_OURS = ("diversity", "activation_norm", "gamma")
_NO_LINK = re.compile(r"\[(?:None)?\]\(https://huggingface\.co/(?:None)?\)")
_NO_DATASETS = {*_PACKAGED_DATASETS_MODULES, "generator"}
FIGURE = "training.png"
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
            path = Path(str(self.args.output_dir)) / NAME
            if self.is_world_process_zero() and path.is_file():
                if self.diversity.is_active:
                    _add_section(path, self._card(None))
                _mend(path)
            return
        if not self.is_world_process_zero():
            return
        path = Path(str(self.args.output_dir)) / NAME
        is_peft = path.exists() and ModelCard.load(path).data.get("library_name") == "peft"
        names = ("language", "license", "tags", "model_name", "finetuned_from", "tasks", "dataset_tags", "dataset",
                 "dataset_args")  # fmt: skip
        summary = TrainingSummary.from_trainer(self, **dict(zip(names, args, strict=False)), **kwargs)
        save(self._card(summary, _draw_training(self.state.log_history, path.parent)), path.parent)
        if is_peft:
            self.accelerator.unwrap_model(self.model).create_or_update_model_card(str(path.parent))
            _add_tags(path)  # PEFT writes tags of its own in their place
            _mend(path)

    def _card(self, summary: TrainingSummary | None, figures: Sequence[str] = ()) -> Card:
        model: Any = self.accelerator.unwrap_model(self.model)
        common: dict[str, Any] = {"diversity": self.diversity, "layers": regularised_layers(self)}
        if summary is None:
            return Card("", **common)
        history = self.state.log_history
        metrics, gaps = _last_evaluations(history, self.eval_dataset)
        tasks = _as_list(summary.tasks)
        repo = getattr(self, "hub_model_id", None) or self.args.hub_model_id
        return Card(
            name=summary.model_name,
            task=tasks[0] if tasks else None,
            library="timm" if is_timm(model) else "transformers",
            base_model=summary.finetuned_from or None,
            start="fine-tuned" if summary.finetuned_from else "",
            parameters=sum(p.numel() for p in model.parameters()),
            datasets=_datasets(_as_list(summary.dataset), _as_list(summary.dataset_tags)),
            metrics=metrics,
            gaps=gaps,
            log=training_log_rows(history),
            figures=figures,
            usage=usage_code(model, self.processing_class, repr(repo) if repo else HERE),
            command=_command(self.args.world_size),
            settings=changed_fields(self.args),
            environment=_environment(self.args),
            languages=_as_list(summary.language),
            license=summary.license,
            tags=_as_list(summary.tags),
            **common,
        )


def regularised_layers(trainer: Any) -> list[str]:
    """The layers of a `DiversityTrainer` in words, as errors and cards name them.

    Before a training they are those that its configuration names.
    """
    capture = getattr(trainer, "_capture", None)
    if capture is not None:
        return [target.describe() for target in capture.targets]
    return list(trainer.diversity.layers or [])


def _add_tags(path: Path) -> None:
    found = ModelCard.load(path)
    found.data.tags = list(dict.fromkeys([*(found.data.tags or []), *TAGS]))
    found.save(path)


def _mend(path: Path) -> None:
    """Take out links to no model, and base models that are none on the Hub: others write them for models made here.

    A card without them stays as it is, bit for bit.
    """
    found = ModelCard.load(path)
    text = _NO_LINK.sub("a model that was made from its configuration", found.text)
    base = found.data.get("base_model")
    is_none = isinstance(base, str) and not is_hub_id(base)
    if is_none:
        del found.data.base_model
        found.data.tags = [tag for tag in found.data.tags or [] if not tag.startswith("base_model:")]
    if is_none or text != found.text:
        found.text = text
        found.save(path)


def _add_section(path: Path, card: Card) -> None:
    _add_tags(path)
    found = ModelCard.load(path)
    found.text = f"{found.text.rstrip()}\n\n{render_regulariser(card)}"
    found.save(path)


def _draw_training(history: list[dict[str, float]], folder: Path) -> list[str]:
    """Draw what was logged; no figure without matplotlib, which is optional."""
    if sum("loss" in record for record in history) < 2:
        return []
    try:
        figure = plots.training_curves(history)
    except ImportError as error:
        logger.info(f"the card has no figure: {error}")
        return []
    return save_figures({FIGURE: figure}, folder)


def _last_evaluations(
    history: Sequence[Mapping[str, float]], sets: Any
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Metrics and gaps by evaluation set ("eval" where it is one), of the last evaluation of each.

    Without the prefix, and without what is no quality of the model.
    """
    suffixes = {name: f"_{name}" for name in sets} if isinstance(sets, Mapping) else {"eval": ""}
    metrics = {name: _last(history, f"eval{suffix}") for name, suffix in suffixes.items()}
    gaps = {name: _last(history, f"gap{suffix}") for name, suffix in suffixes.items() if metrics[name]}
    return {name: found for name, found in metrics.items() if found}, {n: found for n, found in gaps.items() if found}


def _last(history: Sequence[Mapping[str, float]], prefix: str) -> dict[str, float]:
    record = next((r for r in reversed(history) if f"{prefix}_loss" in r), {})
    values = bare_metrics(record, prefix).items()
    return {name: value for name, value in values if not name.startswith(_OURS) and math.isfinite(value)}


def _command(processes: int = 1) -> str:
    """What was typed, without secrets; nothing where it was no script (a notebook, a test)."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = module.name.removesuffix(".__main__") if module else ""
    if not sys.argv or "ipykernel" in sys.argv[0] or not (name or sys.argv[0].endswith(".py")):
        return ""
    launcher = ["python"] if processes == 1 else ["accelerate", "launch", "--num_processes", str(processes)]
    script = ["-m", name] if name else [Path(sys.argv[0]).name]
    return typed_command(launcher, [*script, *sys.argv[1:]])


def _environment(args: Any) -> list[str]:
    device = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    return [environment_sentence(f"Seed {args.seed}", installed_versions(_PACKAGES), args.world_size, device)]


def _datasets(names: Sequence[str], ids: Sequence[str]) -> list[Dataset]:
    """Data sets by name; Trainer takes a loader of local files ("imagefolder") for a name on the Hub."""
    pairs = itertools.zip_longest(names, ids)
    return [
        Dataset(str(name or hub_id), None if hub_id in _NO_DATASETS else hub_id)
        for name, hub_id in pairs
        if name not in _NO_DATASETS
    ]


def _as_list(value: Any) -> list[str]:
    """Trainer gives None for what it does not know, also within a list."""
    return [] if value is None else [value] if isinstance(value, str) else [item for item in value if item is not None]
