"""A study that takes seconds: an MLP on a few of the embedded images."""

import copy
from pathlib import Path

import yaml

VALUES = {
    "recipe": "image_classification",
    "seeds": 2,
    "tuning_seeds": [10],
    "arguments": {
        "model": "small_mlp",
        "model_args": {"in_chans": 1},
        "dataset": "embedded",
        "max_train_samples": 64,
        "max_validation_samples": 40,
        "max_test_samples": 50,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 50,
        "use_cpu": True,
        "learning_rate": 3e-3,
        "diversity_weight": 0,
    },
    "conditions": {"clean": {}},
    "methods": {
        "baseline": {"grid": {"learning_rate": [1e-3, 3e-3]}},
        "direct": {"arguments": {"measure": "direct"}, "grid": {"diversity_weight": [0.1, 1.0]}},
    },
}


def tiny(**changes):
    """The values of the study, with other top-level keys."""
    return {**copy.deepcopy(VALUES), **changes}


def write(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
