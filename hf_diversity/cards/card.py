"""`Card`: all that a model card says, and its Markdown with metadata that the Hub's client validates."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..citations import WLD_REG_BIBTEX
from ..config import DiversityConfig
from ..publishing.local_names import LocalNames
from ..registry import citation_of
from . import markdown
from .eval_results import save_eval_results
from .regulariser import told

TAGS = ("hf_diversity", "within-layer-diversity")
NAME = "README.md"
# Where a published loss or accuracy comes from, in this order; the others are told in the table
MEASURED_ON = ("test", "validation", "eval")
CAPTIONS = {
    "training": "Loss, redundancy J, mean squared norm and gamma over the steps of the training",
    "gap": "Metrics on training and validation examples during the training, and their gap",
    "similarity": "Similarity of every two units, 0 (dark) to 1 (bright), similar units side by side",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: how the card calls it.
        hub_id: None for what is not on the Hub.
        benchmark_task: the task in its `eval.yaml`, if the data set is a benchmark with a leaderboard on the Hub: then
            the test result is also written as `.eval_results`.
    """

    name: str
    hub_id: str | None = None
    benchmark_task: str | None = None


@dataclass(frozen=True)
class Twin:
    """The same run with another regulariser, say with both weights 0: its name, and metrics and gaps by split."""

    name: str
    metrics: Mapping[str, Mapping[str, float]]
    gaps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What a card says. Every text may be a stranger's.

    Attributes:
        name: of the model.
        diversity: the regulariser.
        task: as the Hub calls it, "image-classification"; None if it is not known.
        library: "transformers" or "timm".
        base_model: Hub id of the model that it was fine-tuned from.
        start: in a few words, where its weights come from.
        parameters: how many it has.
        datasets: it was trained on.
        layers: that were regularised.
        metrics: by split ("train", "validation", "test"; or "eval"), loss first; None for what was not measured.
        gaps: by split, how much worse than in training; positive means worse.
        twins: the same run with other regularisers.
        notes: sentences about data and evaluation.
        similarity: rows (layer, when, mean similarity, gamma, mean squared norm).
        log: records of the training, a row each.
        figures: names of files in the card's folder.
        usage: Python code that loads the model and predicts.
        command: that repeats the run.
        settings: what differs from the defaults.
        environment: seeds, versions, hardware, in a sentence each.
        languages: of the data, as codes.
        license: as the Hub calls it.
        tags: further ones.
    """

    name: str
    diversity: DiversityConfig
    task: str | None = None
    library: str = "transformers"
    base_model: str | None = None
    start: str = ""
    parameters: int | None = None
    datasets: Sequence[Dataset] = ()
    layers: Sequence[str] = ()
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    gaps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    twins: Sequence[Twin] = ()
    notes: Sequence[str] = ()
    similarity: Sequence[Sequence[Any]] = ()
    log: Sequence[Mapping[str, float]] = ()
    figures: Sequence[str] = ()
    usage: str = ""
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Sequence[str] = ()
    languages: Sequence[str] = ()
    license: str | None = None
    tags: Sequence[str] = ()

    @property
    def metric_names(self) -> list[str]:
        """Of all splits, in the order in which they come."""
        return list(dict.fromkeys(name for values in self.metrics.values() for name in values))

    @property
    def log_columns(self) -> list[str]:
        """Of all records, in the order in which they come."""
        return list(dict.fromkeys(name for record in self.log for name in record))

    @property
    def bibtex(self) -> list[str]:
        """Of the paper that the library is about and, where it is another one, of the measure's."""
        own = citation_of(self.diversity.measure) if self.diversity.is_active else None
        return [WLD_REG_BIBTEX] if own is None or own == WLD_REG_BIBTEX else [WLD_REG_BIBTEX, own]


def metadata(card: Card) -> ModelCardData:
    """The metadata of a card, as the Hub's client validates it.

    Metrics are those of the test set, else of the validation or evaluation set, as Python floats; those that are not
    finite are left out, since YAML has no agreed form of them.
    """
    split = next((name for name in MEASURED_ON if card.metrics.get(name)), None)
    found = card.metrics[split] if split else {}
    values = {name: value for name in found if (value := markdown.as_float(found[name])) is not None}
    results = None
    if card.task and card.datasets and values and split:
        data = card.datasets[0]
        results = [
            EvalResult(
                task_type=card.task,
                dataset_type=data.hub_id or "-".join(re.findall(r"\w+", data.name)) or "unknown",
                dataset_name=markdown.one_line(data.name) or "unknown",
                dataset_split=None if split == "eval" else split,
                metric_type=name,
                metric_name=name,
                metric_value=value,
            )
            for name, value in values.items()
        ]
    own_tags = TAGS if card.diversity.is_active else TAGS[:1]
    return ModelCardData(
        language=list(card.languages) or None,
        license=card.license,
        library_name=card.library,
        pipeline_tag=card.task,
        tags=list(dict.fromkeys([*own_tags, *map(markdown.one_line, card.tags)])),
        base_model=card.base_model,
        datasets=[data.hub_id for data in card.datasets if data.hub_id] or None,
        metrics=[name for name in values if name != "loss"] or None,
        model_name=(markdown.one_line(card.name) or "model") if results else None,
        eval_results=results,
    )


def render(card: Card) -> str:
    """The card as Markdown, without the paths and names of this machine."""
    card = _without_local_names(card)
    header = metadata(card).to_yaml(line_break="\n")
    return f"---\n{header}\n---\n\n{_fill('card.md.j2', card)}\n"


def render_regulariser(card: Card) -> str:
    """The section about the regulariser alone, to be added to a card of another kind."""
    return _fill("regulariser.md.j2", _without_local_names(card)) + "\n"


def _without_local_names(card: Card) -> Card:
    """The card with clean texts: escaped, a path would not be known as one any more."""
    names = LocalNames()

    def clean(value: Any) -> Any:
        if isinstance(value, str):  # a lone surrogate is no text that a file could hold
            return names.remove(value.encode("utf-8", errors="replace").decode())[0]
        if isinstance(value, Mapping):
            return {key if key is None else clean(str(key)): clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [clean(item) for item in value]
        if isinstance(value, Dataset | Twin):
            return dataclasses.replace(
                value, **{f.name: clean(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        if hasattr(value, "tolist"):  # of numpy or torch
            return clean(value.tolist())
        return value if value is None or isinstance(value, bool | int | float | DiversityConfig) else clean(str(value))

    values = {f.name: clean(getattr(card, f.name)) for f in dataclasses.fields(card)}
    # A folder is no model that others could find
    if values["base_model"] and not is_hub_id(card.base_model):
        values["start"] = f"{values['start']} from {values['base_model']}".strip()
        values["base_model"] = None
    values["datasets"] = [
        data if data.hub_id is None or is_hub_id(own.hub_id) else dataclasses.replace(data, hub_id=None)
        for data, own in zip(values["datasets"], card.datasets, strict=True)
    ]
    return Card(**values)


def is_hub_id(name: str | None) -> bool:
    """Whether it has the form of a model's or data set's name on the Hub, and is no folder here."""
    return bool(name and _HUB_ID.fullmatch(name)) and not Path(str(name)).exists()


def _fill(template: str, card: Card) -> str:
    environment = Environment(
        loader=PackageLoader("hf_diversity.cards", "."), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "text": markdown.plain_text,
        "code": markdown.code,
        "block": markdown.block,
        "number": markdown.number,
        "significant": markdown.significant,
        "yaml": lambda values: yaml.safe_dump(values, sort_keys=False, allow_unicode=True),
    }
    return environment.get_template(template).render(card=card, told=told(card.diversity), captions=CAPTIONS).strip()


def save(card: Card, folder: str | Path) -> Path:
    """Write the card into a folder.

    Returns:
        The file, `README.md`.

    Raises:
        ValueError: the metadata cannot be read back.
    """
    text = render(card)
    ModelCard(text)  # raises where its metadata is no YAML mapping
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    save_eval_results(card, path.parent)
    return path
