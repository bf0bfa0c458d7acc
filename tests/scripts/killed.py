"""Train with everything that a resume has to restore, and be killed (SIGKILL) or run out of disk at a chosen point.

Argument: a JSON list of runs, each a dict with `folder`, `resume` (bool), `die` (None or a key of `DEATHS`),
`largest_file` (None or the bytes from which a file is too large for the disk, from checkpoint-8 on; what is raised is
written into the folder as error.json) and further TrainingArguments. One process forks for each run and checks how it
ended; started by torchrun there may be only one run, whose process 0 is killed.
"""

import json
import os
import resource
import shutil
import signal
import sys

from launch import leave
from tiny import Sentences, arguments, tiny_bert
from transformers import TrainerState, set_seed

from hf_diversity import DiversityConfig, DiversityTrainer

CHECKPOINT = 8  # the one in which a run dies; checkpoint-4 is there before it


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def die_between_micro_batches(trainer):
    step = trainer.training_step

    def training_step(*args, **kwargs):
        loss = step(*args, **kwargs)
        if trainer.state.global_step == 6 and not trainer.accelerator.sync_gradients:
            kill()
        return loss

    trainer.training_step = training_step


def die_in_file(owner, method, name):
    """Cut `name` in half as soon as `owner.method` has written it for the checkpoint, and die."""

    def patch(trainer):
        target = owner(trainer)
        write = getattr(target, method)

        def write_half(*args, **kwargs):
            result = write(*args, **kwargs)
            folder = next(str(a) for a in args if isinstance(a, str))
            path = os.path.join(os.path.dirname(folder), name) if folder.endswith(name) else os.path.join(folder, name)
            if f"checkpoint-{CHECKPOINT}" in path:
                os.truncate(path, os.path.getsize(path) // 2)
                kill()
            return result

        setattr(target, method, write_half)

    return patch


def die_before_the_rename(trainer):
    rename = os.rename
    os.rename = lambda *args: kill() if str(args[1]).endswith(f"checkpoint-{CHECKPOINT}") else rename(*args)


def die_while_deleting_the_checkpoint_before(trainer):
    rmtree = shutil.rmtree

    def delete_one_file(path, *args, **kwargs):
        if os.path.basename(path).startswith("checkpoint-"):
            os.remove(os.path.join(path, "optimizer.pt"))
            kill()
        rmtree(path, *args, **kwargs)

    shutil.rmtree = delete_one_file


def run_out_of_disk(trainer, largest_file):
    save_model = trainer.save_model

    def save_on_a_full_disk(*args, **kwargs):
        if trainer.state.global_step == CHECKPOINT:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
        save_model(*args, **kwargs)

    trainer.save_model = save_on_a_full_disk


DEATHS = {
    "step": die_between_micro_batches,
    "model": die_in_file(lambda trainer: trainer, "save_model", "model.safetensors"),
    "optimizer": die_in_file(lambda trainer: trainer, "_save_optimizer_and_scheduler", "optimizer.pt"),
    "state": die_in_file(lambda trainer: TrainerState, "save_to_json", "trainer_state.json"),
    "rename": die_before_the_rename,
    "deletion": die_while_deleting_the_checkpoint_before,
}


def train(folder, resume, die=None, largest_file=None, **settings):
    set_seed(5)
    trainer = DiversityTrainer(
        model=tiny_bert(dropout=0.1), train_dataset=Sentences(24),
        diversity=DiversityConfig(diversity_weight=0.5, activation_weight=0.01, gamma="median", max_samples=6),
        args=arguments(
            folder, max_steps=12, save_strategy="steps", save_steps=4, logging_steps=2, gradient_accumulation_steps=2,
            optim="adamw_torch", learning_rate=0.01, lr_scheduler_type="cosine", warmup_steps=2, max_grad_norm=1.0,
            **{"per_device_train_batch_size": 2, **settings},
        ),
    )  # fmt: skip
    trainer.model_accepts_loss_kwargs = False  # BERT ignores num_items_in_batch
    if die is not None and trainer.args.process_index == 0:
        DEATHS[die](trainer)
    if largest_file is not None:
        run_out_of_disk(trainer, largest_file)
    try:
        trainer.train(resume_from_checkpoint=resume or None)
    except RuntimeError as error:
        if largest_file is None:
            raise
        found = sorted(os.listdir(folder))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with open(os.path.join(folder, "error.json"), "w", encoding="utf-8") as file:
            json.dump({"message": str(error), "found": found}, file)
    leave(trainer.accelerator)


def main():
    runs = json.loads(sys.argv[1])
    if "WORLD_SIZE" in os.environ:
        [run] = runs
        train(**run)
        return
    for run in runs:
        child = os.fork()
        if child == 0:
            train(**run)
        _, status = os.waitpid(child, 0)
        expected = 0 if run.get("die") is None else -signal.SIGKILL
        assert os.waitstatus_to_exitcode(status) == expected, (run, status)


if __name__ == "__main__":
    main()
