"""What `DiversityMixin` does about pushes to the Hub: they hold no secret, and none fails unseen."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from ..compat import taking_what_takes, uploads_taken_over
from ..config import CONFIG_NAME, DiversityConfig
from ..distributed import text_of_process_zero
from .commit import Destination, PushError, failure, operations, reason
from .files import BY_NAME, OutgoingFile, Selection

logger = logging.get_logger(__name__)

OUTBOX_NAME = "_outgoing"  # transformers leaves out "_*"

if TYPE_CHECKING:
    _TrainerBase = Trainer
else:
    _TrainerBase = object  # any subclass of Trainer comes after the mixin


class PushMixin(_TrainerBase):
    """Pushes as Trainer does (`hub_strategy`, messages, revision, callbacks) but for this, also at both weights 0.

    - Only the files that `select_files` chooses leave, without local paths and names. `training_args.bin` stays.
    - `hub_token` is not written to the disk: Trainer pickles it in plain text into `training_args.bin`.
    - A push in the background that failed raises at the end of `train()`, in every process, unless a later one
      brought the same files. Trainer tells nobody.
    """

    diversity: DiversityConfig
    _pushes: dict[str, Future[Any]] | None = None

    @taking_what_takes(Trainer.train)
    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the base class does.

        Raises:
            PushError: the training is finished and on the disk, and the last push of some files failed.
        """
        self._pushes = {}
        self._clear_outbox()  # of a process that was killed
        output = super().train(*args, **kwargs)
        told = text_of_process_zero(self._failed_pushes()) if self.args.push_to_hub else None
        if told is not None:
            error = PushError(json.loads(told)["message"])
            error.places = frozenset(json.loads(told)["places"])
            error.train_output = output
            raise error
        return output

    @taking_what_takes(Trainer.init_hf_repo)
    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """Create the repository as the base class does.

        Raises:
            PushError: it could not be created; before training, unless `push_to_hub()` is called without the argument.
        """
        try:
            super().init_hf_repo(*args, **kwargs)
        except Exception as error:
            repo = self.args.hub_model_id or Path(self._run_folder).absolute().name
            message = failure(repo, reason(error), self._command(repo))
            raise PushError(f"{message} (to train now without the Hub, set push_to_hub=False)") from error

    @taking_what_takes(Trainer.push_to_hub)
    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push as the base class does.

        Raises:
            PushError: it failed; everything is on the disk.
        """
        with uploads_taken_over(self._upload):
            return super().push_to_hub(*args, **kwargs)

    @taking_what_takes(Trainer._save)
    def _save(self, *args: Any, **kwargs: Any) -> None:
        with self._without_token():
            super()._save(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        configuration = os.path.join(checkpoint_folder, CONFIG_NAME)
        if self.is_world_process_zero() and os.path.isfile(configuration):
            shutil.copy(configuration, os.path.join(self._run_folder, CONFIG_NAME))  # as Trainer does config.json
        with self._without_token() as token:

            def upload(client: Any, **kwargs: Any) -> Any:
                return self._upload(client, **{**kwargs, "token": token})

            with uploads_taken_over(upload):
                super()._push_from_checkpoint(checkpoint_folder)

    @contextlib.contextmanager
    def _without_token(self) -> Iterator[str | None]:
        """Hide `hub_token` while the arguments are pickled; gives the token."""
        token = self.args.hub_token
        self.args.hub_token = None
        try:
            yield token
        finally:
            self.args.hub_token = token

    def _upload(
        self,
        client: Any,
        *,
        repo_id: str,
        folder_path: str,
        path_in_repo: str = "",
        token: str | None = None,
        run_as_future: bool = False,
        ignore_patterns: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Stand in for `HfApi.upload_folder`: one commit of what may leave.

        In the background it raises nothing: training goes on, and `train()` raises at its end.
        """
        outbox = os.path.join(self._run_folder, OUTBOX_NAME, f"{self.state.global_step}-{path_in_repo or 'run'}")
        result: Any
        try:
            selection = Destination(repo_id, path_in_repo=path_in_repo).select(folder_path, token)
            self._tell_of(selection)
            files = selection.files
            if run_as_future and (path_in_repo or self.args.hub_always_push):
                # The next checkpoint may delete these files, or write over them, before they are uploaded
                files = tuple(_keep(file, outbox, link=bool(path_in_repo)) for file in files)
            result = client.create_commit(
                repo_id, operations(files), token=token, run_as_future=run_as_future, **kwargs
            )
        except Exception as error:
            if not run_as_future:
                raise PushError(failure(repo_id, reason(error), self._command(repo_id, path_in_repo))) from error
            result = Future()
            result.set_exception(error)
        if run_as_future:
            result.add_done_callback(lambda _: shutil.rmtree(outbox, ignore_errors=True))
            self._pushes = {**(self._pushes or {}), path_in_repo: result}
        return result

    def _tell_of(self, selection: Selection) -> None:
        """Say which files Trainer would have published: nothing is left out in silence."""
        names = sorted(name for name, reason in selection.left_out.items() if reason == BY_NAME)
        if names:
            logger.warning_once(
                f"not published: {', '.join(names)}. By their names they are no model, card, figure or result; to "
                f"publish them, type: hf-diversity push {self._run_folder} REPO --include PATTERN"
            )

    def _failed_pushes(self) -> str | None:
        """Wait for the pushes; message and places, as JSON, of those that failed and no later one made good."""
        repo = str(self.hub_model_id)
        errors = {place: future.exception() for place, future in (self._pushes or {}).items()}
        self._clear_outbox()
        commands: dict[str, list[str]] = {}
        places = []
        for place, error in errors.items():
            if error is None:
                continue
            if place and not os.path.isdir(self._folder_of(place)):
                logger.warning(f"{place} was not published ({error}), and save_total_limit deleted it meanwhile")
            else:
                places.append(place)
                commands.setdefault(reason(error), []).append(self._command(repo, place))
        message = "\n".join(failure(repo, why, " && ".join(them)) for why, them in commands.items())
        return json.dumps({"message": message, "places": places}) if places else None

    def _clear_outbox(self) -> None:
        if self.is_world_process_zero():
            shutil.rmtree(os.path.join(self._run_folder, OUTBOX_NAME), ignore_errors=True)

    @property
    def _run_folder(self) -> str:
        return str(self.args.output_dir)

    def _folder_of(self, path_in_repo: str) -> str:
        """Where what is published as `path_in_repo` is on the disk."""
        if path_in_repo == "last-checkpoint":
            return get_last_checkpoint(self._run_folder) or self._run_folder
        return os.path.join(self._run_folder, path_in_repo) if path_in_repo else self._run_folder

    def _command(self, repo: str, path_in_repo: str = "") -> str:
        args = self.args
        destination = Destination(repo, args.hub_private_repo, args.hub_revision, path_in_repo=path_in_repo)
        return destination.command(self._folder_of(path_in_repo))


def _keep(file: OutgoingFile, outbox: str, link: bool) -> OutgoingFile:
    """The file under a second name, or a copy; texts are in memory already."""
    if file.content is not None:
        return file
    kept = Path(outbox, file.path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # a disk without links
        if link:
            os.link(file.source, kept)
    if not kept.exists():
        shutil.copy(file.source, kept)
    return OutgoingFile(file.path, kept)
