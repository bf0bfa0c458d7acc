"""Where a run is reported to, beside Trainer's: the event files of TensorBoard, and what is pushed to the Hub."""

from pathlib import Path

import pytest
from hub_server import AwaitPush
from parity import observe, without_ours
from tiny import Mlp, Rows, Sentences, arguments, tiny_bert
from transformers import Trainer

from hf_diversity import DiversityConfig, DiversityTrainer

ACTIVE = {"diversity_weight": 0.05, "gamma": 0.7, "activation_weight": 0.001}


def events(cls, folder, monkeypatch, **diversity):
    """The scalars of the event file by tag, as (step, value); without those that are times."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "events"))
    args = arguments(folder, report_to="tensorboard", eval_strategy="steps", eval_steps=2)
    trainer = cls(model=Mlp(), args=args, train_dataset=Rows(), eval_dataset=Rows(8, seed=5), **diversity)
    trainer.train()
    accumulator = accumulators.EventAccumulator(str(folder / "events")).Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if "runtime" not in tag and "per_second" not in tag]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}, trainer


def test_tensorboard_holds_what_trainer_writes_and_our_scalars(tmp_path, monkeypatch):
    plain, _ = events(Trainer, tmp_path / "plain", monkeypatch)
    zero, _ = events(DiversityTrainer, tmp_path / "zero", monkeypatch, diversity=DiversityConfig(diversity_weight=0.0))
    config = DiversityConfig(**ACTIVE, layers=["fc1", "fc2"])
    active, trainer = events(DiversityTrainer, tmp_path / "active", monkeypatch, diversity=config)
    assert zero == plain and {"train/loss", "eval/loss", "train/learning_rate"} <= plain.keys()
    train = {"task_loss", "diversity", "activation_norm", "gamma"}
    layers = {f"{part}/{layer}" for part in ("diversity", "gamma") for layer in ("fc1", "fc2")}
    evaluated = {"diversity", "activation_norm", *layers}
    assert active.keys() - plain.keys() == {f"train/{name}" for name in train | layers} | {
        f"eval/{name}" for name in evaluated
    }
    assert [step for step, _ in active["train/diversity"]] == [1, 2, 3, 4]
    assert [step for step, _ in active["eval/diversity"]] == [2, 4]
    records = [record for record in trainer.state.log_history if "diversity/fc1" in record]
    written = [value for _, value in active["train/diversity/fc1"]]
    assert written == pytest.approx([record["diversity/fc1"] for record in records]) and min(written) > 0


def pushing(hub):
    """Train with a push of every checkpoint, and push at the end; gives the title and the files of each commit."""

    def scenario(base, build):
        hub.repositories.clear()
        args = {
            "push_to_hub": True, "hub_model_id": "someone/model", "hub_strategy": "all_checkpoints",
            "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        }  # fmt: skip
        wait = AwaitPush()
        wait.trainer = trainer = build(
            model=tiny_bert(), train_dataset=Sentences(), eval_dataset=Sentences(8), args=args, callbacks=[wait]
        )
        output = trainer.train()
        trainer.push_to_hub(commit_message="Done", tags=["mine"])
        repository = hub.repositories["someone/model"]
        commits = list(zip(repository.titles, [sorted(files) for files in repository.commits.values()], strict=True))
        names = ("model.safetensors", "config.json", "checkpoint-2/model.safetensors", "checkpoint-2/optimizer.pt")
        return output, commits, [repository.files()[name].hex() for name in names]

    return scenario


@pytest.fixture
def pushed_by_trainer(tmp_path_factory, hub):
    return observe(pushing(hub), Trainer, tmp_path_factory.mktemp("run") / "plain")


def as_ours(commits, *more):
    """What is ours in place of Trainer's: no pickle, and more files at the root and in the checkpoints."""
    return [
        [title, sorted({name for name in names if Path(name).name != "training_args.bin"}
         | {f"{folder}{name}" for folder in folders_of(names) for name in more})]
        for title, names in commits
    ]  # fmt: skip


def folders_of(names):
    return {name.removesuffix("model.safetensors") for name in names if name.endswith("model.safetensors")}


def test_pushes_to_the_hub_are_those_of_trainer_without_the_pickled_arguments(pushed_by_trainer, tmp_path, hub):
    plain = pushed_by_trainer
    zero = observe(pushing(hub), DiversityTrainer, tmp_path / "plain", diversity=DiversityConfig(diversity_weight=0.0))
    assert zero.events == plain.events and zero.files == plain.files
    (output, commits, contents), (plain_output, plain_commits, plain_contents) = zero.returned, plain.returned
    assert output == plain_output and contents == plain_contents
    assert commits == as_ours(plain_commits) != plain_commits
    assert [title for title, _ in commits][1:3] == ["Training in progress, step 2"] + [
        "Training in progress, step 2, checkpoint"
    ]
    assert ("on_push_begin", 4) in [event[:2] for event in plain.events]


def test_pushes_of_a_regularised_run_hold_our_configuration_too(pushed_by_trainer, tmp_path, hub):
    plain = pushed_by_trainer
    active = observe(pushing(hub), DiversityTrainer, tmp_path / "plain", diversity=DiversityConfig(**ACTIVE))
    assert active.events == plain.events
    assert without_ours(active.returned[0]) == without_ours(plain.returned[0])
    commits, expected = active.returned[1], as_ours(plain.returned[1], "diversity_config.json", "diversity_state.json")
    for (title, names), (plain_title, plain_names) in zip(commits[:-1], expected[:-1], strict=True):
        # The state is what a resumed training reads: at the root it comes with the last push
        assert title == plain_title and names == [name for name in plain_names if name != "diversity_state.json"]
    # The figure comes with the card
    assert commits[-1] == [expected[-1][0], sorted([*expected[-1][1], "training.png"])]
