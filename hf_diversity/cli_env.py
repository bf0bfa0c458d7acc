"""`hf-diversity env`: what a bug report needs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .environment import as_text, describe_environment


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "env",
        help="print what a bug report needs: versions, platform, GPUs",
        description="Print versions, platform, processor, GPUs and processes, without names of users or folders.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    environment = describe_environment()
    print(json.dumps(environment, indent=2) if arguments.json else as_text(environment))
    return 0
