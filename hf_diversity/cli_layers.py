"""`hf-diversity layers MODEL`: which modules can be named, and what each would give the regulariser."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from .config import SAMPLES, DiversityConfig
from .inspection import inspect_layers, table
from .models import untrained_model


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "layers",
        help="print the modules that DiversityConfig(layers=[...]) can name",
        description="Print the modules of a model that can be regularised. Weights are neither needed nor loaded.",
    )
    parser.add_argument("model", metavar="MODEL", help="a timm name, a Hub id, or a folder with a config.json")
    parser.add_argument("--batch-size", type=int, default=32, help="examples in a batch (default: %(default)s)")
    parser.add_argument("--sequence-length", type=int, help="tokens of a text, or samples of a sound")
    parser.add_argument("--image-size", type=int, help="height and width of images (default: the model's)")
    parser.add_argument("--samples", choices=SAMPLES, default="auto", help="see DiversityConfig (default: auto)")
    parser.add_argument("--match", metavar="PATTERN", help='only these modules, say "**.mlp" or "encoder.layer.*"')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of the model that was asked for."""
    for name in ("batch_size", "sequence_length", "image_size"):
        if (value := getattr(arguments, name)) is not None and value < (2 if name == "batch_size" else 1):
            raise ValueError(f"--{name.replace('_', '-')} is {value}: similarity needs 2 examples of 1 at least")
    how: dict[str, Any] = {
        "diversity": DiversityConfig(samples=arguments.samples),
        "batch_size": arguments.batch_size,
        "sequence_length": arguments.sequence_length,
        "image_size": arguments.image_size,
    }
    try:
        with torch.device("meta"):
            model = untrained_model(arguments.model, arguments.image_size)
        inspection = inspect_layers(model, **how)
    except (RuntimeError, NotImplementedError):  # it looks at numbers, which there are none of
        inspection = inspect_layers(untrained_model(arguments.model, arguments.image_size), **how)
    print(table(arguments.model, inspection, arguments.match))
    return 0
