"""`hf-diversity push DIR REPO`: publish a finished run on the Hub."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .publishing.files import Selection


def add_parser(subparsers: Any) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        "push",
        help="publish a finished run on the Hub",
        description="Publish model, card, figures, results and configuration of a finished run in one commit. Local "
        "paths and names are taken out; logs, checkpoints and pickles stay, but for those that resume a checkpoint "
        "which is pushed as one; a secret in a file stops it. The token is that of `hf auth login`, or HF_TOKEN.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder of a finished run, or one of its checkpoints")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME on the Hub; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch; created if it does not exist")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument(
        "--path-in-repo",
        metavar="FOLDER",
        default="",
        help="push into this folder; last-checkpoint and checkpoint-STEP take along what a resumed training reads",
    )
    parser.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="also publish files of other names, for example 'data/*.csv'; may be repeated",
    )
    parser.add_argument("--message", default="Publish the run", help="of the commit")
    parser.add_argument("--dry-run", action="store_true", help="list what would leave, and send nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List what leaves, and publish it."""
    from .publishing.commit import Destination, PushError, check_request, publish

    destination = Destination(
        arguments.repo,
        private=arguments.private or None,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        path_in_repo=arguments.path_in_repo.strip("/"),
        include=tuple(arguments.include),
        message=arguments.message,
    )
    folder = Path(arguments.folder).expanduser()
    check_request(folder, destination)
    selection = destination.select(folder)
    for file in selection.files:
        removed = f"  ({file.removed} local paths or names taken out)" if file.removed else ""
        print(f"{_size(file.size):>9}  {file.path}{removed}")
    if arguments.dry_run:
        for name, reason in selection.left_out.items():
            print(f"{'stays':>9}  {name}  ({reason})")
    total = f"{len(selection.files)} files, {_size(sum(file.size for file in selection.files))}"
    for note in _notes(selection):
        print(f"note: {note}")
    if arguments.dry_run:
        print(f"{total} would go to {arguments.repo}; nothing was sent.")
        return 0
    print(f"{total} go to {arguments.repo} ...", flush=True)
    try:
        published = publish(folder, destination, selection=selection)
    except PushError as error:
        print(f"hf-diversity: {error}", file=sys.stderr)
        return 1
    print(published.url if published.changed else f"Nothing has changed: {published.url}")
    return 0


def _notes(selection: Selection) -> list[str]:
    """What a reader of the repository would miss."""
    card = next((file for file in selection.files if PurePosixPath(file.path).name == "README.md"), None)
    if card is None:
        return ["there is no README.md: the model will have no card"]
    content = card.source.read_bytes() if card.content is None else card.content
    if b"\nlicense:" not in content:
        return ["the card names no licence: add a line license: apache-2.0 (say) to the metadata of README.md"]
    return []


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
