"""Where a run is reported to, beside Trainer's: the event files of TensorBoard, and what is pushed to the Hub."""

import concurrent.futures
import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers.trainer
from parity import observe, without_our_files, without_ours
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


class Hub:
    """Stands for the two calls that Trainer makes; notes what they were given and which files they would send."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, **kwargs):
        self.calls.append(["create_repo", repo_id, sorted(kwargs.items())])
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, folder_path, ignore_patterns=(), run_as_future=False, **kwargs):
        folder = Path(folder_path)
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        sent = sorted(n for n in names if not any(fnmatch.fnmatch(n, f"{p}*") for p in ignore_patterns or ()))
        self.calls.append(["upload_folder", folder.name[:10], sent, run_as_future, sorted(kwargs.items())])
        done = concurrent.futures.Future()
        done.set_result("pushed")
        return done if run_as_future else "pushed"


def pushing(monkeypatch):
    def scenario(base, build):
        hub = Hub()
        if hasattr(transformers.trainer, "hf_api"):
            monkeypatch.setattr(transformers.trainer, "hf_api", lambda: hub)
        else:  # transformers 5.0
            monkeypatch.setattr(transformers.trainer, "create_repo", hub.create_repo)
            monkeypatch.setattr(transformers.trainer, "upload_folder", hub.upload_folder)
        args = {
            "push_to_hub": True, "hub_model_id": "someone/model", "hub_strategy": "all_checkpoints",
            "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        }  # fmt: skip
        trainer = build(
            model=tiny_bert(), train_dataset=Sentences(), eval_dataset=Sentences(8), args=args
        )  # fmt: skip
        output = trainer.train()
        answer = trainer.push_to_hub(commit_message="Done", tags=["mine"])
        card = (Path(trainer.args.output_dir) / "README.md").read_text()
        return output, hub.calls, answer, card

    return scenario


@pytest.fixture
def pushed_by_trainer(tmp_path_factory, monkeypatch):
    return observe(pushing(monkeypatch), Trainer, tmp_path_factory.mktemp("run") / "plain")


def test_pushes_to_the_hub_are_those_of_trainer(pushed_by_trainer, tmp_path, monkeypatch):
    plain = pushed_by_trainer
    zero = observe(
        pushing(monkeypatch), DiversityTrainer, tmp_path / "plain", diversity=DiversityConfig(diversity_weight=0.0)
    )
    assert zero.events == plain.events and zero.returned == plain.returned and zero.files == plain.files
    calls = plain.returned[1]
    assert [call[0] for call in calls] == ["create_repo"] + ["upload_folder"] * 5
    assert any("model.safetensors" in call[2] and call[1] == "checkpoint" for call in calls[1:])
    assert ("on_push_begin", 4) in [event[:2] for event in plain.events]


def test_pushes_of_a_regularised_run_hold_two_files_more(pushed_by_trainer, tmp_path, monkeypatch):
    plain = pushed_by_trainer
    active = observe(pushing(monkeypatch), DiversityTrainer, tmp_path / "plain", diversity=DiversityConfig(**ACTIVE))
    assert active.events == plain.events
    assert without_ours(active.returned[0]) == without_ours(plain.returned[0])
    pairs = list(zip(active.returned[1], plain.returned[1], strict=True))
    for ours, theirs in pairs[1:]:
        assert without_our_files(ours[2]) == theirs[2] and ours[3:] == theirs[3:] and ours[1] == theirs[1]
    assert pairs[0][0] == pairs[0][1] and set(pairs[-1][0][2]) - set(pairs[-1][1][2]) == {
        "diversity_config.json", "diversity_state.json"
    }  # fmt: skip
