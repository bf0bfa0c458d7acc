"""Accuracy: the share of predictions that equal their reference."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

_DESCRIPTION = (
    "Accuracy is the share of predictions that equal their reference: (1/N) sum_i [prediction_i = reference_i]."
)

_INPUTS = """
Args:
    predictions (`list` of `int`): predicted class of every example.
    references (`list` of `int`): true class of every example.

Returns:
    accuracy (`float`): between 0 and 1.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Accuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Accuracy, as a local module of the `evaluate` library."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}
