"""`probe`: load, measure, say what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..versions import installed_versions
from .examples import Examples, choose_examples, describe_dataset, load_parts
from .figures import draw_figures
from .findings import advice, findings
from .loading import load_model
from .measuring import Plan, common_gammas, make_plan, measure_model
from .report import ProbeReport, check_folder, unique_names
from .settings import ProbeSettings

_PACKAGES = ("hf-diversity", "torch", "transformers", "timm", "datasets", "matplotlib")


def probe(
    models: str | Sequence[str],
    settings: ProbeSettings,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> ProbeReport:
    """Measure layers of one or several checkpoints on training and test examples.

    All that can be known to be wrong is told before the first layer is measured.

    Args:
        models: what to load, see `load_model`; several are compared on the same examples, layer by layer as they are
            named.
        settings: data, layers and how to measure.
        out: folder for `report.json`, `report.html` and `figures/`; None to write nothing.
        overwrite: write into a folder that holds other things than an earlier report.
        progress: show progress bars.
        command: what was typed, for the report.

    Returns:
        The report. Its similarity matrices are not written to any file.

    Raises:
        ValueError: a model, data set, split, column or layer is not there or does not fit; says what to type.
        FileExistsError: `out` holds something else.
        ImportError: matplotlib is not installed.

    Example:
        >>> from hf_diversity.probe import ProbeSettings, probe
        >>> report = probe("outputs/demo/baseline-0", ProbeSettings(dataset="embedded"), "report")  # doctest: +SKIP
    """
    sources = [models] if isinstance(models, str) else list(models)
    if not sources:
        raise ValueError("no model was named: type at least one, a folder, a Hub id or a timm name")
    if out is not None:
        check_folder(out, overwrite)
    import_matplotlib()
    parts = load_parts(settings)
    loaded = [load_model(source, settings) for source in sources]
    modalities = {model.modality for model in loaded}
    if len(modalities) > 1:
        raise ValueError("some of the models take images and others texts: they cannot be compared on one data set")
    examples = choose_examples(parts, modalities.pop(), settings)
    plans = [make_plan(model, examples, settings) for model in loaded]
    _check_same_layers(plans)
    names = unique_names([model.name for model in loaded])
    gammas = common_gammas(plans)
    measured = [
        measure_model(plan, name, examples, gammas, settings, progress)
        for plan, name in zip(plans, names, strict=True)
    ]
    left = [role for role, split in examples.splits.items() if len(split) < examples.totals[role]]
    report = ProbeReport(
        measured, findings(measured, left), advice(measured), _data(examples, settings), _how(settings, command)
    )
    bar = (lambda items: tqdm(items, desc="figures", unit="figure", dynamic_ncols=True)) if progress else iter
    report.figures = draw_figures(measured, bar)
    if out is not None:
        report.save(out, overwrite)
    return report


def import_matplotlib() -> None:
    """Fail before the work if the figures could not be drawn after it."""
    from ..plots.style import import_pyplot

    import_pyplot()


def _check_same_layers(plans: Sequence[Plan]) -> None:
    """Layers are compared by name, so all models must have them.

    Raises:
        ValueError: one has others; lists them.
    """
    first = [row.name for row in plans[0].rows]
    for plan in plans[1:]:
        other = [row.name for row in plan.rows]
        if set(first) != set(other):
            only = sorted(set(first) ^ set(other))
            raise ValueError(
                f"{plans[0].loaded.source!r} and {plan.loaded.source!r} do not have the same layers, and layers are "
                f"compared by name: only one of them has {', '.join(map(repr, only[:4]))}; type --layers with names "
                "that both have"
            )


def _data(examples: Examples, settings: ProbeSettings) -> dict[str, Any]:
    return {
        "name": describe_dataset(settings.dataset),
        "config": settings.dataset_config,
        "columns": list(examples.columns),
        "label_column": examples.label_column,
        "classes": examples.label_names,
        "splits": {
            role: {"name": examples.split_names[role], "measured": len(split), "of": examples.totals[role]}
            for role, split in examples.splits.items()
        },
    }


def _how(settings: ProbeSettings, command: str | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(settings).items()}
    for name in ("dataset", "weights", "processor"):  # the machine's folders are nobody's business
        if chosen[name] is not None:
            chosen[name] = Path(chosen[name]).name if Path(chosen[name]).expanduser().exists() else chosen[name]
    return {"command": command, "settings": chosen, "versions": installed_versions(_PACKAGES)}
