"""The command `hf-diversity`, one sub-command a job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import cli_env, cli_layers, cli_probe, cli_push

# Each has `add_parser(subparsers)`, whose parser sets `run`: called with the arguments, returns the exit status
_COMMANDS = (cli_layers, cli_probe, cli_push, cli_env)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for those of the process.

    Returns:
        0, or 1 where the command failed and said why on standard error.
    """
    parser = argparse.ArgumentParser(prog="hf-diversity", description="Within-layer diversity regularisation.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, say `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, TypeError, ValueError, AssertionError, ImportError) as error:  # timm asserts
        print(f"hf-diversity: {error}", file=sys.stderr)
        return 1
