"""The figures of a report, as PNG bytes."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import plots
from ..diagnostics import LayerDiagnostics
from ..plots.style import import_pyplot
from .measuring import ROLES, ModelReport

_DPI = 120  # twice the pixels of a page column, so that it is sharp on phones too


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        name: of its file, without the folder.
        caption: what it shows and how to read it.
        alt: what it shows, for who cannot see it.
        png: the file's bytes.
        layer: the layer it belongs to; "" for the overview.
    """

    name: str
    caption: str
    alt: str
    png: bytes
    layer: str = ""


def draw_figures(models: Sequence[ModelReport], progress: Callable[[Any], Any] = iter) -> list[Figure]:
    """Draw the overview and then each layer.

    Args:
        models: what was measured.
        progress: wraps the list of figures to come.

    Raises:
        ImportError: matplotlib is not installed.
    """
    pyplot = import_pyplot()
    drawn: list[Figure] = []
    with pyplot.rc_context({"figure.max_open_warning": 0}):
        for name, layer, caption, alt, draw in progress(_planned(models)):
            figure, _ = draw()
            while name in {other.name for other in drawn}:  # two layers whose names differ in a special character
                name = f"_{name}"
            drawn.append(Figure(name, caption, alt, _png(figure), layer))
            pyplot.close(figure)
    return drawn


_Planned = tuple[str, str, str, str, Callable[[], tuple[Any, Any]]]


def _planned(models: Sequence[ModelReport]) -> list[_Planned]:
    layers = list(models[0].layers)
    planned: list[_Planned] = []
    if any(model.scores for model in models):
        scores = {role: {m.name: m.scores[role] for m in models if m.scores} for role in ROLES}
        planned.append(
            (
                "gaps.png", "", "Accuracy and loss on both splits. The line between them is the gap.",
                "Accuracy and loss on the training and test examples",
                lambda: plots.gaps(scores["train"], scores["test"]),
            )
        )  # fmt: skip
    if len(layers) > 1:
        by_series = {
            label: {layer: _series(models, layer)[label] for layer in layers} for label in _series(models, layers[0])
        }
        for quantity, reading in (
            ("mean_similarity_normalised", "More to the right: units more alike, whatever their scale."),
            ("mean_absolute_correlation", "More to the right: units that say the same more often."),
        ):
            planned.append(
                (
                    f"{quantity}.png", "", f"{reading} The layers are in the order in which they run.",
                    f"{quantity.replace('_', ' ')} of every layer",
                    functools.partial(plots.redundancy, by_series, quantity),
                )
            )  # fmt: skip
    first = {layer: models[0].layers[layer]["train"] for layer in layers}
    if len(layers) > 1 and any(_has_dead_units(diagnostics) for diagnostics in first.values()):
        planned.append(
            (
                "dead_units.png", "", f"Dead units of every layer over the training examples, {models[0].name}.",
                "Share of dead units of every layer", lambda: plots.dead_units(first),
            )
        )  # fmt: skip
    for layer in layers:
        planned += _of_layer(models, layer)
    return planned


def _of_layer(models: Sequence[ModelReport], layer: str) -> list[_Planned]:
    series = _series(models, layer)
    stem = file_stem(layer)
    # The training units are what the others are compared with; of several models the test examples are
    pictured = series if len(models) == 1 else {m.name: m.layers[layer]["test"] for m in models}
    split = "" if len(models) == 1 else ", test"
    planned: list[_Planned] = [
        (
            f"{stem}-similarity-{file_stem(name)}.png", layer,
            f"How similar each pair of units is, {name}{split}. Similar units stand side by side: bright blocks on "
            "the diagonal are groups of units that do the same.",
            f"Heat map of the similarity of the units of {layer}, {name}",
            functools.partial(
                plots.similarity_matrices, {f"{name}{split}, gamma {diagnostics.gamma:.3g}": diagnostics.similarity}
            ),
        )
        for name, diagnostics in pictured.items()
    ]  # fmt: skip
    planned += [
        (
            f"{stem}-spectrum.png", layer,
            "How the variance is spread over directions. A curve that falls steeply leaves most directions unused.",
            f"Spectrum of {layer}", lambda: plots.spectra(series),
        ),
        (
            f"{stem}-distances.png", layer,
            "How far apart the units are: for a share Q of the samples, units differ by at least d. "
            + _bound_caption(series),
            f"Distance between the units of {layer} against the share of samples",
            lambda: plots.distance_curves(series),
        ),
    ]  # fmt: skip
    if any(_has_dead_units(diagnostics) for diagnostics in series.values()):
        planned.append(
            (
                f"{stem}-dead.png", layer,
                "Units that never change, and units that are never above 0 (dead behind a ReLU).",
                f"Share of dead units of {layer}", lambda: plots.dead_units(series),
            )
        )  # fmt: skip
    return planned


def _has_dead_units(layer: LayerDiagnostics) -> bool:
    return bool((layer.constant_units | layer.never_positive_units).any())


def _bound_caption(series: dict[str, LayerDiagnostics]) -> str:
    if all(d.smallest_activation >= 0 for d in series.values()):
        return "Below, what that takes off the paper's bound of the output, 13.4 % at most."
    return "The paper's bound is not drawn where activations are below 0: it does not hold there."


def _series(models: Sequence[ModelReport], layer: str) -> dict[str, LayerDiagnostics]:
    if len(models) == 1:
        return dict(models[0].layers[layer])
    return {f"{model.name}, {role}": model.layers[layer][role] for model in models for role in ROLES}


def file_stem(name: str) -> str:
    """A name as part of a file's: letters, digits, dots, dashes; never empty, a dot at the start or too long."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "layer"
    return safe[-80:].lstrip("._")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
