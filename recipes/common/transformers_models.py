"""What recipes do to the configuration of any transformers model."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


def label_settings(label_names: list[str]) -> dict[str, Any]:
    """Return what a configuration says about the classes."""
    return {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {label: index for index, label in enumerate(label_names)},
    }


def apply_model_args(config: PreTrainedConfig, model_args: dict[str, Any]) -> None:
    """Change `config` in place.

    Raises:
        ValueError: the configuration has no such argument.
    """
    for key, value in model_args.items():
        if not hasattr(config, key):
            raise ValueError(f"model_args {key!r} is no argument of {type(config).__name__}")
        setattr(config, key, value)
