"""One model on both splits: its layers, and how well it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ..config import DiversityConfig
from ..diagnostics import LayerDiagnostics, measure_diagnostics
from ..inspection import LayerRow
from .examples import Examples, make_loader
from .layer_choice import choose_layers
from .loading import LoadedModel
from .scores import make_scores, predicts_next_token, why_no_scores
from .settings import ProbeSettings

ROLES = ("train", "test")


@dataclass
class ModelReport:
    """What was measured of one model.

    Attributes:
        name: short and unique among the models compared.
        source: as it was typed.
        kind: the model's class.
        parameters: how many it has.
        layers: diagnostics by layer and then by role, "train" and "test".
        where: what the activations of each layer are: "output", or "input" of an output head.
        scores: accuracy and loss by role; empty where `why_no_scores` says why.
        counts: examples, or tokens of language models, that were scored, by role.
        scores_tokens: whether next tokens of texts were scored, and not examples.
        why_no_scores: or "".
        left_out: layers that patterns matched and that cannot be measured, with why.
        training: the configuration of the regulariser it was trained with; None without one.
        notes: how it was loaded.
    """

    name: str
    source: str
    kind: str
    parameters: int
    layers: dict[str, dict[str, LayerDiagnostics]]
    where: dict[str, str]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    scores_tokens: bool = False
    why_no_scores: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    training: DiversityConfig | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What will be measured of a model, known before long work begins."""

    loaded: LoadedModel
    diversity: DiversityConfig
    rows: list[LayerRow]
    left_out: dict[str, str]

    def training_gammas(self) -> dict[str, float]:
        """By layer, of those that will be measured."""
        names = [row.name for row in self.rows]
        if not self.loaded.was_regularised:
            return {}
        if self.diversity.gamma != "median":
            return dict.fromkeys(names, float(self.diversity.gamma))
        return {name: gamma for name, gamma in self.loaded.gammas.items() if name in names}


def make_plan(loaded: LoadedModel, examples: Examples, settings: ProbeSettings) -> Plan:
    """Resolve the layers with the first batch of the training examples.

    Raises:
        ValueError: see `choose_layers`; or the model cannot run the batch.
    """
    batch = next(iter(make_loader(loaded, examples, "train", settings)))
    inputs = {name: value.to(settings.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    try:
        diversity, rows, left_out = choose_layers(loaded, settings.layers, inputs)
    except (RuntimeError, TypeError, IndexError, AssertionError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
        raise ValueError(
            f"{loaded.source!r} ({type(loaded.model).__name__}) cannot run a batch of {shapes} that its processor "
            f"made: {error}; type --processor with the one it was trained with"
        ) from error
    return Plan(loaded, diversity, rows, left_out)


def measure_model(
    plan: Plan, name: str, examples: Examples, gammas: Mapping[str, float], settings: ProbeSettings, progress: bool
) -> ModelReport:
    """Measure the layers on both splits.

    Args:
        plan: of `make_plan`.
        name: in the report.
        examples: of both splits.
        gammas: of the layers' similarity; a layer without one is measured at its normalised gamma on the training
            examples. Both splits are measured at the same.
        settings: batch size and what concerns the inputs.
        progress: show a bar.
    """
    loaded = plan.loaded
    model = loaded.model
    why = why_no_scores(loaded, examples.label_names, examples.why_no_labels)
    report = ModelReport(
        name, loaded.source, type(model).__name__, sum(p.numel() for p in model.parameters()),
        layers={row.name: {} for row in plan.rows}, where={row.name: row.point for row in plan.rows},
        scores_tokens=predicts_next_token(model), why_no_scores=why, left_out=plan.left_out, notes=loaded.notes,
        training=loaded.diversity if loaded.was_regularised else None,
    )  # fmt: skip
    used = dict(gammas)
    diversity = replace(plan.diversity, gamma="median")  # where `gammas` has none
    for role in ROLES:
        scores = None if why else make_scores(loaded, examples.splits[role].labels, examples.label_names)
        found = measure_diagnostics(
            model, make_loader(loaded, examples, role, settings), diversity, used or None,
            progress=_bar(f"{name}, {role}") if progress else None, on_batch=None if scores is None else scores.add,
        )  # fmt: skip
        for layer, diagnostics in found.items():
            report.layers[layer][role] = diagnostics
            used[layer] = diagnostics.gamma
        if scores is not None:
            report.scores[role], report.counts[role] = scores.compute(), scores.count
    return report


def common_gammas(plans: Sequence[Plan]) -> dict[str, float]:
    """The gamma of each layer for all models: the first training gamma that there is, so that all are comparable."""
    found: dict[str, float] = {}
    for plan in plans:
        found = {**plan.training_gammas(), **found}
    return found


def _bar(title: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    return lambda batches: tqdm(batches, desc=title, unit="batch", dynamic_ncols=True)
