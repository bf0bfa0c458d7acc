"""Checkpoints: written whole or not at all, restored whole or refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import Trainer
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .capture import ActivationCapture
from .compat import restore_weights, rotate_checkpoints
from .config import CONFIG_NAME, STATE_NAME, DiversityConfig
from .distributed import gather_objects, world_size
from .publishing.push_mixin import PushMixin
from .regularizer import DiversityRegularizer
from .weight_regularizer import WeightRegularizer

logger = logging.get_logger(__name__)

# Neither transformers' search for checkpoints nor its push to the Hub (which leaves out "_*") looks in here
STAGING_NAME = "_incomplete"


class CheckpointMixin(PushMixin):
    """What `DiversityMixin` does about checkpoints; at both weights 0 as well.

    Trainer writes a checkpoint file by file into the folder that its next resume would take: a process that is killed
    meanwhile, or a full disk, leaves a folder that looks like the last checkpoint and is none. Here the files are
    written into `_incomplete/` beside the checkpoints, the folder takes its name `checkpoint-<step>` when it is whole,
    and only then `save_total_limit` deletes older ones. (That covers a killed process, not a power cut: nothing is
    flushed to the disk.)
    """

    diversity: DiversityConfig
    _regularizer: DiversityRegularizer | WeightRegularizer
    _staging = False
    # Of all processes, where each has a gamma of its own
    _states: list[dict[str, Any]] | None = None
    _push_after: str | None = None

    def _capture_for(self, model: nn.Module | None) -> ActivationCapture:
        raise NotImplementedError  # DiversityMixin's

    # ---- saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as the base class does, with the regulariser's configuration and state beside the model."""
        if self.diversity.is_active and self.args.should_save:
            folder = str(output_dir if output_dir is not None else self.args.output_dir)
            os.makedirs(folder, exist_ok=True)
            self.diversity.to_json_file(os.path.join(folder, CONFIG_NAME))
            with open(os.path.join(folder, STATE_NAME), "w", encoding="utf-8") as file:
                state = self._regularizer.state_dict(self.state.global_step)
                json.dump(state if self._states is None else {**state, "processes": self._states}, file)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside, and give it its name once every process has written its part.

        Raises:
            RuntimeError: it could not be written, say on a full disk; what was written of it is gone, and the
                checkpoints before it are as they were.
        """
        run = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = os.path.join(run, STAGING_NAME)
        if self.args.local_process_index == 0:
            shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        self.accelerator.wait_for_everyone()
        self._push_after = None
        if self._has_gamma_of_its_own() and world_size() > 1:
            self._states = gather_objects(self._regularizer.state_dict(self.state.global_step))
        try:
            with self._write_aside():
                super()._save_checkpoint(model, trial)
            self._point_to_best(run, name)
            self.accelerator.wait_for_everyone()
            self._publish(run, name)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise RuntimeError(_not_saved_message(run, name, error)) from error
        if self._push_after is not None:
            self._push_from_checkpoint(os.path.join(run, name))
        if self.args.should_save:
            rotate_checkpoints(self, run)

    @contextlib.contextmanager
    def _write_aside(self) -> Iterator[None]:
        self._staging = True
        try:
            yield
        finally:
            self._staging, self._states = False, None

    def _get_output_dir(self, trial: Any) -> str:
        run = super()._get_output_dir(trial)
        return os.path.join(run, STAGING_NAME) if self._staging else run

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging:  # the upload goes on while training does: it needs the folder under the name that it keeps
            self._push_after = checkpoint_folder
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _point_to_best(self, run: str, name: str) -> None:
        """Name the best checkpoint by the place where it will be; Trainer looked for it beside the staged one."""
        best = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        if self.state.best_global_step and (best == name or os.path.isdir(os.path.join(run, best))):
            self.state.best_model_checkpoint = os.path.join(run, best)
        if self.args.should_save:
            self.state.save_to_json(os.path.join(run, STAGING_NAME, name, TRAINER_STATE_NAME))

    def _publish(self, run: str, name: str) -> None:
        """Move the staged checkpoint to its name: once on a shared disk, and on every node that has one of its own."""
        if self.args.process_index == 0:
            _move(run, name)
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0 and self.args.process_index != 0:
            _move(run, name)
        self.accelerator.wait_for_everyone()

    # ---- restoring

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # First, so that a foreign or broken checkpoint is refused before anything is loaded; what Trainer then loads
        # by name on top are the same values
        if self.model is not None and self._reads_as_trainer("_load_from_checkpoint"):
            refuse_incomplete(resume_from_checkpoint, with_optimizer=not self.args.save_only_model)
            restore_weights(self.model, resume_from_checkpoint)
        # sentence-transformers' method takes no model
        super()._load_from_checkpoint(resume_from_checkpoint, *(() if model is None else (model,)))

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if self.model is not None and best is not None and self._reads_as_trainer("_load_best_model"):
            restore_weights(self.model, best)
        super()._load_best_model()
        if self.diversity.is_active and best is not None:
            self._load_diversity_state(best)

    def _reads_as_trainer(self, method: str) -> bool:
        """Whether checkpoints are Trainer's: not those of FSDP, DeepSpeed or a base class with a format of its own."""
        own = getattr(super(), method).__func__ is not getattr(Trainer, method)
        return not (own or self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _has_gamma_of_its_own(self) -> bool:
        """Whether gamma follows the activations of this process alone."""
        return self.diversity.sync == "local" and self._regularizer.median_gamma is not None

    def _load_diversity_state(self, folder: str) -> None:
        path = os.path.join(folder, STATE_NAME)
        if not os.path.isfile(path):
            if self._regularizer.median_gamma is not None:
                logger.warning(
                    f"{folder} has no {STATE_NAME}: it was not saved by a DiversityTrainer, so the running median "
                    "that sets gamma starts anew"
                )
            return
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        states = state.pop("processes", None)
        if states is not None and self._has_gamma_of_its_own():
            if len(states) == world_size():
                state = states[self.args.process_index]
            else:
                logger.warning(
                    f'{folder} has the gammas of {len(states)} processes (sync="local"), and this run has '
                    f"{world_size()}: each goes on from that of the first"
                )
        names = {target.name for target in self._capture_for(self.model).targets}
        if unknown := sorted(set(state.get("gamma", {})) - names):
            logger.warning(
                f"{folder} was trained with diversity on {', '.join(unknown)}, and this run is on "
                f"{', '.join(sorted(names))}: gamma starts anew where it has no value"
            )
            state["gamma"] = {name: value for name, value in state["gamma"].items() if name in names}
        self._regularizer.load_state_dict(state, self.args.device)


def _move(run: str, name: str) -> None:
    staging, final = os.path.join(run, STAGING_NAME), os.path.join(run, name)
    if not os.path.isdir(os.path.join(staging, name)):
        return
    if os.path.isdir(final):  # of an earlier run: deleted only when the new one stands in its place
        os.rename(final, os.path.join(staging, f"replaced-{name}"))
    os.rename(os.path.join(staging, name), final)
    shutil.rmtree(staging, ignore_errors=True)


def _not_saved_message(run: str, name: str, error: Exception) -> str:
    whole = last_whole_checkpoint(run)
    usable = (
        f"{os.path.basename(whole)} is whole and was not touched: free some space, or name another disk, and type "
        f"trainer.train(resume_from_checkpoint={whole!r})"
        if whole
        else "there is no earlier checkpoint: free some space, or name another output_dir, and start again"
    )
    return f"{name} could not be written in {run} ({type(error).__name__}: {error}), and was removed. {usable}"


def last_whole_checkpoint(run: str) -> str | None:
    """The folder of the newest checkpoint in `run` from which training can go on; None if there is none."""
    steps = [
        int(step)
        for prefix, _, step in (entry.rpartition("-") for entry in (os.listdir(run) if os.path.isdir(run) else []))
        if prefix == PREFIX_CHECKPOINT_DIR and step.isdigit()
    ]
    folders = (os.path.join(run, f"{PREFIX_CHECKPOINT_DIR}-{step}") for step in sorted(steps, reverse=True))
    return next((folder for folder in folders if not _faults(folder)), None)


def refuse_incomplete(folder: str, with_optimizer: bool = True) -> None:
    """Refuse to resume from a checkpoint that was not written, or not deleted, to its end.

    Trainer starts the optimiser, the schedule and the random numbers anew where their files are missing, and says
    nothing.

    Args:
        folder: the checkpoint.
        with_optimizer: whether the optimiser, the schedule and the random state must be there.

    Raises:
        ValueError: names the files that are missing or cut off, and the last whole checkpoint.
    """
    faults = _faults(folder, with_optimizer) if os.path.isdir(folder) else ["there is no such folder"]
    if not faults:
        return
    whole = last_whole_checkpoint(os.path.dirname(os.path.abspath(folder)))
    cure = (
        f"type resume_from_checkpoint={whole!r}, the last whole one"
        if whole
        else "start again without resume_from_checkpoint, for there is no whole one beside it"
    )
    if not os.path.isdir(folder):
        raise ValueError(
            f"{folder}: there is no such folder to resume from. {cure[0].upper()}{cure[1:]}; from a repository of the "
            "Hub, download it first: hf download REPO --include 'last-checkpoint/*' --local-dir FOLDER, then "
            "resume_from_checkpoint='FOLDER/last-checkpoint'"
        )
    without = " (to start the optimiser anew all the same, type save_only_model=True)" if with_optimizer else ""
    raise ValueError(f"{folder} is not a whole checkpoint: {', '.join(faults)}. To go on, {cure}{without}")


def _faults(folder: str, with_optimizer: bool = True) -> list[str]:
    files = sorted(os.listdir(folder))
    needed = [TRAINER_STATE_NAME]
    if with_optimizer:
        needed += [OPTIMIZER_NAME, SCHEDULER_NAME]
        if not any(file.startswith("rng_state") for file in files):
            needed.append("rng_state.pth")
    faults = [f"{name} is missing" for name in needed if name not in files]
    everything = [name for _, _, names in os.walk(folder) for name in names]  # PEFT has a folder for each adapter
    if not any(name.endswith((".safetensors", ".bin")) and name != TRAINING_ARGS_NAME for name in everything):
        faults.append("weights are missing")
    return faults + [f"{name} is cut off" for name in files if not _ends_well(os.path.join(folder, name))]


def _ends_well(path: str) -> bool:
    """Whether a file that Trainer wrote is there to its end; cheap, for it reads no tensor."""
    name = os.path.basename(path)
    if name in (OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME) or name.startswith("rng_state"):
        return zipfile.is_zipfile(path)  # the index of a zip stands at its end
    try:
        if name.endswith(".safetensors"):
            with safe_open(path, framework="pt"):  # compares the length of the file with its header
                return True
        if name in (TRAINER_STATE_NAME, STATE_NAME):
            with open(path, encoding="utf-8") as file:
                json.load(file)
    except (ValueError, SafetensorError):
        return False
    return True
