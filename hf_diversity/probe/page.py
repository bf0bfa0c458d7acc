"""The page of a report: one file of HTML with its style and figures inside, no script, no request to anywhere."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..diagnostics import LayerDiagnostics
from .findings import THRESHOLDS, near_copies, redundancy_word

if TYPE_CHECKING:
    from .report import ProbeReport

# More layers than this are folded, but for those with warnings
_OPEN_LAYERS = 4


@dataclass(frozen=True)
class Row:
    """A row of a layer's table: what it is, in a line what it means, and a cell for each series."""

    name: str
    meaning: str
    cells: list[str]


@dataclass(frozen=True)
class LayerSection:
    """What the page shows of a layer."""

    name: str
    where: str
    word: str
    is_open: bool
    columns: list[str]
    rows: list[Row]


def render_page(report: ProbeReport) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("hf_diversity.probe", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_uri"] = lambda png: Markup("data:image/png;base64," + base64.b64encode(png).decode())
    return environment.get_template("report.html.j2").render(
        report=report, sections=_sections(report), thresholds=THRESHOLDS, compares=len(report.models) > 1
    )


def _sections(report: ProbeReport) -> list[LayerSection]:
    first = report.models[0]
    few = len(first.layers) <= _OPEN_LAYERS
    sections = []
    for name in first.layers:
        series = {
            (f"{model.name}, {role}" if len(report.models) > 1 else role): diagnostics
            for model in report.models
            for role, diagnostics in model.layers[name].items()
        }
        words = list(dict.fromkeys(redundancy_word(model.layers[name]["train"]) for model in report.models))
        sections.append(
            LayerSection(
                name,
                "what this output head receives" if first.where[name] == "input" else "what it gives",
                " / ".join(words),
                few,
                list(series),
                _rows(series),
            )
        )
    return sections


def _rows(series: dict[str, LayerDiagnostics]) -> list[Row]:
    measured = list(series.values())

    def row(name: str, meaning: str, values: list[float], form: str = ".3g") -> Row:
        return Row(name, meaning, [f"{value:{form}}" if math.isfinite(value) else "–" for value in values])

    return [
        row("units", "D, how many outputs the layer has", [d.num_units for d in measured], ",d"),
        row("samples", "N, over which all of this was measured", [d.num_samples for d in measured], ",d"),
        row(
            "effective rank",
            "how many directions the units use, of at most D; centred",
            [d.effective_rank for d in measured],
            ".1f",
        ),
        row("RankMe", "the same with the mean left in", [d.effective_rank_uncentred for d in measured], ".1f"),
        row(
            "participation ratio",
            "a stricter count of directions: those of large variance dominate it; centred",
            [d.participation_ratio for d in measured],
            ".1f",
        ),
        row(
            "spectrum slope",
            "alpha of eigenvalue ~ rank^-alpha: the larger, the fewer directions count",
            [d.spectrum_slope for d in measured],
            ".2f",
        ),
        row(
            "units with a near copy",
            "units with a twin of |correlation| 0.95 or more",
            [near_copies(d.correlation) for d in measured],
            ",d",
        ),
        row(
            "mean |correlation|",
            "0: pairs of units have nothing linear in common; 1: all say the same",
            [d.mean_absolute_correlation for d in measured],
            ".3f",
        ),
        row(
            "mean similarity, scale-free",
            "mean of exp(-gamma (difference)²), gamma set by the median distance of two units: 0.56 for independent "
            "normal units, 1 where all agree",
            [d.mean_similarity_normalised for d in measured],
            ".3f",
        ),
        row(
            "mean similarity",
            "the same at the gamma below, as in the heat maps; 1 - this is what the regulariser drives up",
            [d.mean_similarity for d in measured],
            ".3f",
        ),
        row("gamma", "sharpness of the similarity in the heat maps", [d.gamma for d in measured], ".4g"),
        row(
            "mean squared norm",
            "P, the size of the activations, which the norm term lowers",
            [d.activation_norm for d in measured],
            ".4g",
        ),
        Row(
            "range",
            "from the smallest activation to C5, the largest in absolute value",
            [f"{d.smallest_activation:.3g} to {d.largest_activation:.3g}" for d in measured],
        ),
        row("dead units", "one value over all samples", [int(d.constant_units.sum()) for d in measured], ",d"),
        row(
            "units never above 0",
            "dead, if the layer ends in a ReLU",
            [int(d.never_positive_units.sum()) for d in measured],
            ",d",
        ),
        row(
            "d that 95 % of samples keep",
            "root of the 5 % quantile of the average distance D(x) of the units",
            [math.sqrt(max(d.distance_quantiles[0.05], 0)) for d in measured],
        ),
    ]
