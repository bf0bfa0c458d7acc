"""Generalisation gaps: by how much a split is worse than the training set."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Ends of the names of metrics of which less is better
LOWER_IS_BETTER = ("loss", "perplexity", "error", "mse", "mae", "rmse", "wer", "cer")


def generalization_gaps(
    train: Mapping[str, float], held_out: Mapping[str, float], lower_is_better: Collection[str] = ()
) -> dict[str, float]:
    """By how much the held-out metrics are worse than those of the training set.

    A positive gap means worse than in training: held-out - train where less is better, and train - held-out otherwise.

    Args:
        train: metrics over training examples, in evaluation mode and without augmentation.
        held_out: the same metrics over validation or test examples; those that only one of the two has are left out.
        lower_is_better: names of metrics of which less is better, beside those whose name is or ends in `_loss`,
            `_perplexity`, `_error`, `_mse`, `_mae`, `_rmse`, `_wer` or `_cer`.

    Returns:
        The gap of each metric that both have.

    Example:
        >>> generalization_gaps({"loss": 0.5, "accuracy": 1.0}, {"loss": 0.75, "accuracy": 0.75})
        {'loss': 0.25, 'accuracy': 0.25}
    """
    gaps = {}
    for name, value in train.items():
        if name in held_out:
            difference = float(held_out[name]) - float(value)
            gaps[name] = difference if name in lower_is_better or is_cost(name) else -difference
    return gaps


def is_cost(name: str) -> bool:
    """Whether less is better of a metric, by the end of its name."""
    return name.rsplit("_", 1)[-1] in LOWER_IS_BETTER
