"""A folder that is not a whole checkpoint is refused, and none takes a checkpoint's name before it is whole."""

import os

import pytest
from tiny import Mlp, Rows, arguments
from transformers import Trainer

from hf_diversity import DiversityConfig, DiversityMixin, DiversityTrainer


def make_trainer(folder, cls=DiversityTrainer, **kwargs):
    args = arguments(folder, **{"save_strategy": "steps", "save_steps": 1, "max_steps": 2, **kwargs})
    return cls(
        model=Mlp(), args=args, train_dataset=Rows(), eval_dataset=Rows(4, seed=5),
        diversity=DiversityConfig(diversity_weight=0.5),
    )  # fmt: skip


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    make_trainer(folder).train()
    return folder


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_what_is_missing_or_cut_off_is_named_with_the_last_whole_checkpoint(trained, name, cut):
    path = trained / "checkpoint-2" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    if not cut:
        path.unlink()
    words = f"{name} is cut off" if cut else "weights are missing" if "model" in name else f"{name} is missing"
    try:
        with pytest.raises(ValueError, match="not a whole checkpoint") as caught:
            make_trainer(trained).train(resume_from_checkpoint=True)
    finally:
        path.write_bytes(content)
    assert words in str(caught.value)
    assert f"type resume_from_checkpoint={str(trained / 'checkpoint-1')!r}" in str(caught.value)


def test_weights_alone_are_resumed_only_where_they_are_asked_for(tmp_path):
    make_trainer(tmp_path, save_only_model=True).train()
    with pytest.raises(ValueError, match="optimizer.pt is missing, .*no whole one beside it.*save_only_model"):
        make_trainer(tmp_path, max_steps=3).train(resume_from_checkpoint=True)
    trainer = make_trainer(tmp_path, max_steps=3, save_only_model=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="checkpoint-7: there is no such folder to resume from.*hf download"):
        make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))


def test_the_first_save_on_a_full_disk_says_that_there_is_nothing_to_resume(tmp_path):
    (tmp_path / "_incomplete").write_text("a file where the folder should be")
    with pytest.raises(RuntimeError, match=r"checkpoint-1 could not be written .*there is no earlier checkpoint"):
        make_trainer(tmp_path).train()


def test_an_earlier_runs_checkpoint_is_replaced_whole(tmp_path):
    make_trainer(tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1" / "of_the_earlier_run").touch()
    make_trainer(tmp_path, max_steps=1).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert not (tmp_path / "checkpoint-1" / "of_the_earlier_run").exists()


def test_the_limit_keeps_the_best_and_the_last_checkpoint(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=4, save_total_limit=2, eval_strategy="steps", eval_steps=1, metric_for_best_model="score",
        load_best_model_at_end=True,
    )  # fmt: skip
    scores = iter([1, 3, 2, 0])
    trainer.compute_metrics = lambda prediction: {"score": next(scores)}
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-4"}
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    text = (tmp_path / "checkpoint-2" / "trainer_state.json").read_text()
    assert "checkpoint-2" in text and "_incomplete" not in text


class Recorder(Trainer):
    pushed = ()

    def _push_from_checkpoint(self, checkpoint_folder):
        self.pushed = (*self.pushed, (checkpoint_folder, set(os.listdir(checkpoint_folder))))


def test_what_is_pushed_to_the_hub_is_the_checkpoint_in_its_place(tmp_path):
    class RecordedTrainer(DiversityMixin, Recorder):
        pass

    trainer = make_trainer(tmp_path, cls=RecordedTrainer)
    trainer.args.push_to_hub = True  # after the construction, which would ask the Hub
    trainer.train()
    assert [folder for folder, _ in trainer.pushed] == [str(tmp_path / f"checkpoint-{step}") for step in (1, 2)]
    assert all(set(FILES) < files for _, files in trainer.pushed)
