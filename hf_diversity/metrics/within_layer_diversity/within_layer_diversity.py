"""Within-layer diversity: how redundant the units of a layer are, from its activations."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch

from hf_diversity.citations import WLD_REG_BIBTEX
from hf_diversity.config import DiversityConfig
from hf_diversity.diagnostics import layer_diagnostics
from hf_diversity.functional import DEFAULT_JITTER
from hf_diversity.measures import SimilarityMeasure, make_measure
from hf_diversity.metrics.inputs import checked_columns
from hf_diversity.registry import MEASURES

_DESCRIPTION = (
    "Within-layer diversity says how redundant the units of a layer are. From activations a, N samples of D units, it "
    "takes the similarity s_nm = (1/N) sum_i exp(-gamma (a_in - a_im)^2) of every pair of units; the measure J is the "
    "mean of S off its diagonal ('direct'), -det S ('det') or -log det S ('logdet'). Lower is more diverse."
)

_INPUTS = """
Args:
    features (`list` of `list` of `float`, or an array (N, D)): one row per sample, one number per unit; N and D >= 2.
    gamma (`float` or `"median"`): sharpness of the similarity, in 1 / activation^2. "median", the default, follows the
        median distance of two units, so that the scale of the activations does not matter.
    measure (`str`): "direct", "det" or "logdet". Default: "direct".
    reduction (`str`): for "direct", "mean" over pairs or their "sum". Default: "mean".
    jitter (`float`): "det" and "logdet" are those of S + jitter I. Default: 1e-4.

Returns:
    diversity (`float`): J.
    gamma (`float`): that was used.
    mean_similarity (`float`): mean of S off its diagonal, at gamma; between 0 and 1.
    num_samples, num_units (`int`): N and D.
    All other scalars of `hf_diversity.diagnostics.LayerDiagnostics`, such as mean_absolute_correlation and
    effective_rank; NaN where one is not defined.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class WithinLayerDiversity(evaluate.Measurement):  # type: ignore[misc]  # evaluate has no types
    """Within-layer diversity, as a local module of the `evaluate` library."""

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=WLD_REG_BIBTEX,
            inputs_description=_INPUTS,
            features=datasets.Features({"features": datasets.Sequence(datasets.Value("float64"))}),
        )

    def compute(self, **inputs: Any) -> dict[str, float] | None:
        """Measure what is given and what `add` and `add_batch` have stored."""
        columns = checked_columns(["features"], inputs, len(self))
        results: dict[str, float] | None = super().compute(**{**inputs, **columns})
        return results

    def _compute(
        self,
        features: Sequence[Sequence[float]],
        gamma: float | str = "median",
        measure: Any = "direct",
        reduction: Any = "mean",
        jitter: float = DEFAULT_JITTER,
    ) -> dict[str, float]:
        if measure == "none":
            raise ValueError('measure is "none", which measures nothing; type measure="direct"')
        config = DiversityConfig(measure=measure, reduction=reduction, gamma=gamma, jitter=jitter)
        kind = make_measure(config)
        if not isinstance(kind, SimilarityMeasure):
            known = f"hf_diversity.functional.{measure}(...)" if measure in MEASURES else 'measure="direct"'
            raise ValueError(f"measure is {measure!r}, which is not made from the similarity of units; type {known}")
        found = layer_diagnostics(_matrix(features), None if config.gamma == "median" else float(config.gamma))
        diversity = kind.value(kind.from_similarity(found.similarity), found.num_units, found.num_samples)
        sizes = {"num_samples": found.num_samples, "num_units": found.num_units}
        return {"diversity": float(diversity), **sizes, **found.scalars()}


def _matrix(features: Sequence[Sequence[float | None]]) -> torch.Tensor:
    """Rows of equal length as a tensor (N, D) float64."""
    units = len(features[0])
    for i, row in enumerate(features):
        if len(row) != units:
            raise ValueError(
                f"row {i} of features has {len(row)} numbers and row 0 has {units}: every sample needs one number per "
                "unit; leave out padding and measure one layer at a time"
            )
        if None in row:
            raise ValueError(f"row {i} of features has no number for unit {row.index(None)}; leave the sample out")
    return torch.tensor(features, dtype=torch.float64)
