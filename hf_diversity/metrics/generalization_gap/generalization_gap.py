"""Generalisation gap: by how much a model is worse on held-out data than on its training data."""

import statistics
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_diversity import metrics
from hf_diversity.diagnostics import generalization_gaps
from hf_diversity.metrics.inputs import checked_columns

_DESCRIPTION = (
    "The generalisation gap says by how much a model is worse on held-out examples than on those it was trained on: "
    "held-out - train for a loss or an error, train - held-out for accuracy and the like. Positive is worse than in "
    "training. Both values should be measured in evaluation mode and without augmentation."
)

_INPUTS = """
Args, with the default configuration "values":
    train (`float`, or a `list` of them): value on training examples, one per run (seed).
    held_out (`float`, or a `list` of them): value on held-out examples, one per run, in the same order.
    metric (`str`): its name, such as "loss" or "accuracy", which names the results and says whether less is better:
        it is where the name is or ends in _loss, _perplexity, _error, _mse, _mae, _rmse, _wer or _cer.
    lower_is_better (`bool`, optional): says so where the name does not.

Args, with the configuration "predictions":
    predictions (`list` of `int` or `float`): one per example of both splits.
    references (`list` of `int` or `float`): what each should have been.
    splits (`list` of `str`): of which split each is, "train" or "held_out".
    metric (`evaluate.EvaluationModule`, optional): computes scores from predictions and references. Default: accuracy.
    lower_is_better (`bool`, optional): as above, for all that the metric returns.

Returns, for each metric M:
    train_M, held_out_M (`float`): the values, as means over runs.
    gap_M (`float`): the gap, as a mean over runs.
    gap_M_std (`float`): its sample standard deviation over runs; only with several.
    num_runs (`int`): how many runs; only with "values".
"""

_COLUMNS = {
    "values": {name: datasets.Value("float64") for name in ("train", "held_out")},
    "predictions": {
        "predictions": datasets.Value("float64"),
        "references": datasets.Value("float64"),
        "splits": datasets.Value("string"),
    },
}
_SPLITS = ("train", "held_out")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class GeneralizationGap(evaluate.Measurement):  # type: ignore[misc]  # evaluate has no types
    """Generalisation gap, as a local module of the `evaluate` library."""

    config_name: str

    def _info(self) -> evaluate.MeasurementInfo:
        if self.config_name == "default":
            self.config_name = "values"
        if self.config_name not in _COLUMNS:
            raise ValueError(
                f"config_name is {self.config_name!r}: unknown; it must be one of {', '.join(map(repr, _COLUMNS))}"
            )
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(_COLUMNS[self.config_name]),
        )

    def compute(self, **inputs: Any) -> dict[str, float] | None:
        """Measure what is given and what `add` and `add_batch` have stored."""
        names = list(_COLUMNS[self.config_name])
        for other, columns in _COLUMNS.items():
            strange = [name for name in columns if name in inputs and name not in names]
            if strange:
                raise ValueError(
                    f"{', '.join(strange)}: this was loaded to take {', '.join(names)}; load it with "
                    f'config_name="{other}"'
                )
        results: dict[str, float] | None = super().compute(**{**inputs, **checked_columns(names, inputs, len(self))})
        return results

    def _compute(self, metric: Any = None, lower_is_better: bool | None = None, **columns: Any) -> dict[str, float]:
        for name, column in columns.items():
            for row, value in enumerate(column):
                if value is None:
                    raise ValueError(f"row {row} of {name} is None; leave the row out")
        if lower_is_better not in (None, True, False):
            raise TypeError(f"lower_is_better is {lower_is_better!r}: it must be True, False or None")
        if self.config_name == "predictions":
            return _from_predictions(**columns, metric=metric, lower_is_better=lower_is_better)
        return _from_values(**columns, metric=metric, lower_is_better=lower_is_better)


def _from_values(
    train: Sequence[float], held_out: Sequence[float], metric: Any, lower_is_better: bool | None
) -> dict[str, float]:
    if not isinstance(metric, str) or not metric:
        raise ValueError(
            f'metric is {metric!r}: the sign of the gap depends on it; type metric="loss", metric="accuracy", or any '
            "name with lower_is_better=True or False"
        )
    gaps = [_gap(metric, a, b, lower_is_better) for a, b in zip(train, held_out, strict=True)]
    spread = {f"gap_{metric}_std": statistics.stdev(gaps)} if len(gaps) > 1 else {}
    return {**_named(metric, *map(statistics.fmean, (train, held_out, gaps))), **spread, "num_runs": len(gaps)}


def _from_predictions(
    predictions: Sequence[float],
    references: Sequence[float],
    splits: Sequence[str],
    metric: Any,
    lower_is_better: bool | None,
) -> dict[str, float]:
    metric = metrics.load("accuracy") if metric is None else metric
    if not isinstance(metric, evaluate.EvaluationModule):
        raise TypeError(
            f"metric is {metric!r}: it must be a module of evaluate, or None for accuracy; type "
            'metric=hf_diversity.metrics.load("accuracy")'
        )
    unknown = sorted(set(splits) - set(_SPLITS))
    if unknown:
        raise ValueError(f'splits has {unknown[0]!r}: an example is of "train" or of "held_out"; rename it')
    train, held_out = (_scores(metric, split, predictions, references, splits) for split in _SPLITS)
    results = {}
    for name, value in train.items():
        results.update(_named(name, value, held_out[name], _gap(name, value, held_out[name], lower_is_better)))
    return results


def _scores(
    metric: evaluate.EvaluationModule,
    split: str,
    predictions: Sequence[float],
    references: Sequence[float],
    splits: Sequence[str],
) -> dict[str, float]:
    """What the metric gives for a split, without lists (scores by class, say)."""
    rows = [i for i, name in enumerate(splits) if name == split]
    if not rows:
        raise ValueError(f"no example is of the split {split!r}: a gap needs both; add some")
    columns = {"predictions": predictions, "references": references}
    given = {name: _as_expected(metric, name, [column[i] for i in rows]) for name, column in columns.items()}
    scores = {name: value for name, value in metric.compute(**given).items() if np.ndim(value) == 0}
    if not scores:
        raise ValueError(f"metric {metric.name!r} gives no single number: choose one that does, say by its average=")
    return scores


def _as_expected(metric: evaluate.EvaluationModule, name: str, values: list[float]) -> Sequence[float]:
    """Classes as whole numbers, where the metric is one of classes; `evaluate` would cut fractions off silently."""
    features = metric.features[0] if isinstance(metric.features, list) else metric.features
    if not str(getattr(features[name], "dtype", "")).startswith("int"):
        return values
    for value in values:
        if not float(value).is_integer():
            raise ValueError(
                f"{name} has {value}, and metric {metric.name!r} takes classes, which are whole numbers; type "
                f"{name}=scores.argmax(-1), or choose a metric of scores"
            )
    return [int(value) for value in values]


def _gap(name: str, train: float, held_out: float, lower_is_better: bool | None) -> float:
    # A name that says nothing by itself, so that what the user says holds
    key = name if lower_is_better is None else "value"
    lower = [key] if lower_is_better else []
    return generalization_gaps({key: train}, {key: held_out}, lower_is_better=lower)[key]


def _named(name: str, train: float, held_out: float, gap: float) -> dict[str, float]:
    return {f"train_{name}": float(train), f"held_out_{name}": float(held_out), f"gap_{name}": float(gap)}
