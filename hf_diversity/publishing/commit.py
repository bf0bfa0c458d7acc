"""One commit on the Hub, and errors that say what to type."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from .files import OutgoingFile, Selection, holds_weights, select_files
from .local_names import LocalNames
from .secrets import known_secrets

# In the code of a card, where the model is
HERE = '"."  # this folder, or the model\'s Hub id'
_TRANSPORTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


class PushError(RuntimeError):
    """Something could not be published; the message says why, and the command that publishes it later.

    Attributes:
        train_output: what `train()` would have returned, where a push in the background of a training failed.
        places: what was not published then, by its folder in the repository; "" for the run itself.
    """

    train_output: Any = None
    places: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Published:
    """What a push did.

    Attributes:
        url: of the commit, or of the pull request.
        changed: whether there is a new commit; False where the repository held all of it already.
    """

    url: str
    changed: bool


@dataclass(frozen=True)
class Destination:
    """Where on the Hub something is published.

    Attributes:
        repo: "owner/name", or "name" for one of the token's owner; it is created if it does not exist.
        private: whether a new repository is private; None for the owner's default.
        revision: a branch, created if it does not exist; None for main.
        create_pr: open a pull request against main in place of a commit.
        path_in_repo: a folder in the repository. With `last-checkpoint` or `checkpoint-<step>` what a resumed training
            reads (optimiser, schedule, random state) is published with it.
        include: patterns of further files to publish, by their path in the folder.
        message: of the commit.
    """

    repo: str
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    path_in_repo: str = ""
    include: tuple[str, ...] = ()
    message: str = "Publish the run"

    def select(self, folder: str | os.PathLike[str], token: str | None = None) -> Selection:
        """What of `folder` would be published here; see `select_files`.

        In the card the repository's name takes the place of "this folder".

        Raises:
            ValueError: a file holds a secret.
        """
        names = LocalNames(folder, keep=self.repo.partition("/")[0])
        resumable = self.path_in_repo.startswith("checkpoint-") or self.path_in_repo == "last-checkpoint"
        selection = select_files(folder, known_secrets(token), names, self.path_in_repo, resumable, self.include)
        return replace(selection, files=tuple(map(self._with_name, selection.files)))

    def _with_name(self, file: OutgoingFile) -> OutgoingFile:
        if file.path != "README.md" or file.content is None or "/" not in self.repo:
            return file
        return replace(file, content=file.content.replace(HERE.encode(), json.dumps(self.repo).encode()))

    def command(self, folder: str | os.PathLike[str]) -> str:
        """What to type to publish `folder` here."""
        options = [
            *(["--private"] if self.private else []),
            *(["--revision", self.revision] if self.revision else []),
            *(["--create-pr"] if self.create_pr else []),
            *(["--path-in-repo", self.path_in_repo] if self.path_in_repo else []),
            *(word for pattern in self.include for word in ("--include", pattern)),
        ]
        folder = str(folder)
        folder = f"./{folder}" if folder.startswith("-") else folder
        return shlex.join(["hf-diversity", "push", folder, self.repo, *options])


def operations(files: Sequence[OutgoingFile]) -> list[CommitOperationAdd]:
    """The client's form of them, for `HfApi.create_commit`."""
    return [CommitOperationAdd(file.path, file.source if file.content is None else file.content) for file in files]


def publish(
    folder: str | os.PathLike[str],
    destination: Destination,
    token: str | None = None,
    selection: Selection | None = None,
) -> Published:
    """Publish a finished run in one commit; where the repository holds all of it, none is made.

    Nothing is deleted in the repository. Any of the client's transports is used (LFS, or Xet with `hf_xet`).

    Args:
        folder: a finished run, or a checkpoint.
        destination: where to.
        token: a Hub token; None for the client's own.
        selection: from `destination.select(folder)`, where that is done already.

    Raises:
        ValueError: there is no model in `folder`, a file holds a secret, or a branch is named beside `create_pr`.
        PushError: the Hub refused it or could not be reached.
    """
    folder = Path(folder).expanduser()
    check_request(folder, destination)
    files = (destination.select(folder, token) if selection is None else selection).files
    api, revision = HfApi(token=token), destination.revision
    try:
        repo = api.create_repo(destination.repo, private=destination.private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        before = api.repo_info(repo, revision=revision).sha
        commit = api.create_commit(
            repo,
            operations(files),
            commit_message=destination.message,
            revision=revision,
            create_pr=destination.create_pr,
        )
    except HFValidationError:  # of the name: nothing to type later
        raise
    except Exception as error:
        raise PushError(failure(destination.repo, reason(error), destination.command(folder))) from error
    return Published(commit.pr_url or commit.commit_url, changed=commit.oid != before)


def check_request(folder: str | os.PathLike[str], destination: Destination) -> None:
    """Refuse what cannot be published, before anything is asked of the Hub.

    Raises:
        ValueError: there is no model in `folder`, a pull request is asked for beside a branch, or `path_in_repo` leads
            out of the repository.
    """
    if {"..", "."} & set(destination.path_in_repo.split("/")):
        raise ValueError(
            f"--path-in-repo is {destination.path_in_repo!r}, and must be a folder in the repository: type "
            "last-checkpoint, say"
        )
    folder = Path(folder).expanduser()
    if not holds_weights(folder):
        raise ValueError(_nothing_to_publish(folder))
    if destination.create_pr and destination.revision not in (None, "main"):
        raise ValueError(
            f"a pull request is against main, and revision is {destination.revision!r}: leave out one of the two"
        )


def reason(error: BaseException) -> str:
    """Why a push failed, and what to do about it first."""
    status, cause = _status(error), _cause(error)
    if status == 401:
        return "the Hub does not accept the token (401): log in with `hf auth login`"
    if status == 403:
        return (
            "the token may not write there (403): take one with write access, or name a repository of its owner "
            "(hf auth whoami tells who that is)"
        )
    if status is not None:
        return f"the Hub answered with an error ({_first_line(cause)})"
    if isinstance(cause, ConnectionError) or type(cause).__module__.partition(".")[0] in _TRANSPORTS:
        return f"the Hub was not reached, or the connection broke ({_first_line(cause)})"
    return str(cause) if isinstance(cause, ValueError) else _first_line(cause)


def failure(repo: str, why: str, command: str) -> str:
    """The message of a push that failed."""
    return f"{repo} was not published: {why}. Nothing is lost on the disk; to publish it later, type: {command}"


def _status(error: BaseException | None) -> int | None:
    """The HTTP status, also where the client wrapped its error ("Error while uploading ...")."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code
        error = error.__cause__
    return None


def _cause(error: BaseException) -> BaseException:
    """Below the client's "Error while uploading ..."."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _nothing_to_publish(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; type the folder of a finished run"
    inner = sorted(entry.name for entry in folder.iterdir() if holds_weights(entry))
    hint = f"did you mean {folder / inner[-1]}?" if inner else "type the folder of a finished run"
    return f"{folder} holds no weights (.safetensors): {hint}"
