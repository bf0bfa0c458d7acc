"""How far a classifier's confidence can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """By how much confidence and accuracy differ, averaged over bins of equal width (Guo et al., 2017, equation 3).

    Args:
        confidences: probability of the chosen class, in [0, 1], shape (N,).
        correct: whether it was the right one, shape (N,).
        bins: bin b holds confidences in (b / bins, (b + 1) / bins].

    Returns:
        sum_b n_b / N |accuracy_b - confidence_b|, between 0 and 1.

    Raises:
        ValueError: there is no example, or a confidence is no probability.
    """
    confidences, correct = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidences.shape != correct.shape or confidences.ndim != 1 or not len(confidences):
        raise ValueError(
            f"confidences and correct have shapes {confidences.shape} and {correct.shape}: one number for each example"
        )
    if not ((confidences >= 0) & (confidences <= 1 + 1e-6)).all():
        raise ValueError("confidences must be probabilities, between 0 and 1; apply softmax to logits first")
    places = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    surplus = np.bincount(places, weights=correct - confidences, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidences))


def with_calibration(scoring: Mapping[str, Callable]) -> dict[str, Callable]:
    """Add `calibration_error` to the metrics of a classifier.

    Args:
        scoring: arguments of Trainer that make it report the accuracy of the most likely class.

    Returns:
        The same two arguments.
    """
    keep_choice, compute_accuracy = scoring["preprocess_logits_for_metrics"], scoring["compute_metrics"]

    def keep(logits: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
        alone = logits[0] if isinstance(logits, tuple) else logits
        return keep_choice(logits, labels), alone.float().softmax(dim=-1).amax(dim=-1)

    def compute(evaluated: EvalPrediction) -> dict[str, float]:
        choices, confidences = evaluated.predictions
        metrics = compute_accuracy(EvalPrediction(predictions=choices, label_ids=evaluated.label_ids))
        # A network that diverged has no probabilities: its metrics are not finite, as its loss is not.
        is_finite = np.isfinite(confidences).all()
        error = expected_calibration_error(confidences, choices == evaluated.label_ids) if is_finite else float("nan")
        return {**metrics, "calibration_error": error}

    return {"preprocess_logits_for_metrics": keep, "compute_metrics": compute}
