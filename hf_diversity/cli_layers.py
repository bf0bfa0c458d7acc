"""`hf-diversity layers MODEL`: which modules can be named, and what each would give the regulariser."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel

from .config import SAMPLES, DiversityConfig
from .inspection import inspect_layers, table


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
            model = build_model(arguments.model, arguments.image_size)
        inspection = inspect_layers(model, **how)
    except (RuntimeError, NotImplementedError):  # it looks at numbers, which there are none of
        inspection = inspect_layers(build_model(arguments.model, arguments.image_size), **how)
    print(table(arguments.model, inspection, arguments.match))
    return 0


def build_model(name: str, image_size: int | None = None) -> nn.Module:
    """The architecture of a timm name, a Hub id or a folder, with random weights.

    Raises:
        ValueError: timm does not know the name, and there is no configuration by that name either.
    """
    if timm.is_model(name):
        try:
            size: dict[str, Any] = {"img_size": image_size} if image_size else {}
            return timm.create_model(name, **size)
        except TypeError:  # convolutions take any size, and no argument
            return timm.create_model(name)
    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.8)
    if near and "/" not in name and not Path(name).exists():  # the Hub need not be asked, nor waited for
        raise ValueError(
            f"{name!r} is no timm model; did you mean {', '.join(near)}? For one of the Hub type OWNER/{name}, for a "
            f"folder ./{name}"
        )
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name!r} is no timm model, and no transformers configuration was found for it: {cause} Type a name from "
            "timm.list_models(), a Hub id, or a folder with a config.json"
        ) from error
    if image_size is not None and hasattr(config, "image_size"):
        config.image_size = image_size
    architecture = getattr(transformers, next(iter(config.architectures or ()), ""), None)
    model: nn.Module = architecture(config) if architecture is not None else AutoModel.from_config(config)
    return model
