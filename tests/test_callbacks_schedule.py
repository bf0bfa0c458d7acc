"""The schedule of the weights: its factors, its effect on every step, the log's identity, and resume."""

import json
import math

import pytest
import torch
from tiny import Mlp, Rows, arguments, assert_same, weights
from transformers import Trainer

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.callbacks import DiversityScheduleCallback, schedule

CONFIG = {"measure": "direct", "gamma": 0.7, "diversity_weight": 0.8, "activation_weight": 0.01}


def trainer(path, callbacks, cls=DiversityTrainer, config=CONFIG, **more):
    settings = {"max_steps": 8, "per_device_train_batch_size": 8, "logging_steps": 1, "learning_rate": 0.05, **more}
    extra = {"diversity": DiversityConfig(**config)} if cls is DiversityTrainer else {}
    return cls(Mlp(), arguments(path, **settings), train_dataset=Rows(32), callbacks=callbacks, **extra)


def records(done):
    return [record for record in done.state.log_history if "task_loss" in record]


def test_factors():
    warm = DiversityScheduleCallback(start=0.25, warmup=0.5)
    assert [warm.factor(s, 8) for s in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    linear = DiversityScheduleCallback(decay="linear")
    assert [linear.factor(s, 5) for s in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    cosine = DiversityScheduleCallback(warmup=0.2, decay="cosine", final=0.1)
    assert cosine.factor(0, 10) == 0 and cosine.factor(1, 10) == 0.5 and cosine.factor(2, 10) == 1
    assert cosine.factor(9, 10) == pytest.approx(0.1)
    assert cosine.factor(4, 10) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 2 / 7)) / 2)
    assert DiversityScheduleCallback(start=1.0).factor(7, 8) == 0
    held = DiversityScheduleCallback(hold=0.5, decay="linear")
    assert [held.factor(s, 10) for s in range(10)] == [1] * 6 + [0.75, 0.5, 0.25, 0]
    first_half = DiversityScheduleCallback(hold=0.5, decay="step")
    assert [first_half.factor(s, 8) for s in range(8)] == [1] * 4 + [0] * 4
    middle = DiversityScheduleCallback(start=0.25, warmup=0.25, hold=0.25, decay="step", final=0.1)
    assert [middle.factor(s, 8) for s in range(8)] == [0, 0, 0, 0.5, 1, 1, 0.1, 0.1]


def test_each_step_has_its_factor_and_the_log_adds_up(tmp_path):
    callback = DiversityScheduleCallback(start=0.25, warmup=0.5)
    done = trainer(tmp_path, [callback])
    other = trainer(tmp_path / "other", [callback])  # one instance serves several
    done.train()
    found = records(done)
    assert [r["diversity_scale"] for r in found] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    for r in found:
        assert r["loss"] == pytest.approx(r["task_loss"] + r["penalty"], rel=1e-5)
        whole = 0.8 * r["diversity"] + 0.01 * r["activation_norm"]
        assert r["penalty"] == pytest.approx(r["diversity_scale"] * whole, rel=1e-5, abs=1e-9)
    assert done.diversity.diversity_weight == 0.8 and other._regularizer.scale is None


@pytest.mark.parametrize("measure", ["direct", "logdet", "none"])
def test_the_log_adds_up_over_several_steps_layers_and_micro_batches(tmp_path, measure):
    config = {**CONFIG, "measure": measure, "layers": ["fc1", "act2"]}
    done = trainer(
        tmp_path, [DiversityScheduleCallback(warmup=0.5, decay="cosine")], config=config, logging_steps=4,
        gradient_accumulation_steps=2, per_device_train_batch_size=4,
    )  # fmt: skip
    done.train()
    found = records(done)
    assert len(found) == 2
    for r in found:
        assert r["loss"] == pytest.approx(r["task_loss"] + r["penalty"], rel=1e-5) and r["penalty"] != 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_while_the_factor_is_0_a_step_is_trainers(tmp_path, accumulate):
    more = {"gradient_accumulation_steps": accumulate, "per_device_train_batch_size": 8 // accumulate}
    ours = trainer(tmp_path, [DiversityScheduleCallback(start=1.0)], **more)
    plain = trainer(tmp_path, [], cls=Trainer, **more)
    always = trainer(tmp_path, [], **more)
    for run in (ours, plain, always):
        run.train()
    assert_same(weights(ours.model), weights(plain.model), rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(ours.model.parameters(), always.model.parameters(), strict=True))


def test_the_gradient_is_scaled(tmp_path):
    """One step at factor 1/2 is a step at half the weights."""
    half = {**CONFIG, "diversity_weight": 0.4, "activation_weight": 0.005}
    scheduled = trainer(tmp_path, [DiversityScheduleCallback(warmup=1.0)], max_steps=2)
    scheduled.create_optimizer_and_scheduler(2)
    scheduled.train()
    # Step 1 (factor 0) is Trainer's, step 2 has factor 1/2: do the same by hand
    first = trainer(tmp_path, [], cls=Trainer, max_steps=2, save_strategy="steps", save_steps=1)
    first.train()
    second = trainer(tmp_path, [], config=half, max_steps=2)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same(weights(scheduled.model), weights(second.model), rtol=1e-6, atol=1e-7)


def test_a_resumed_run_goes_on_exactly_and_refuses_another_schedule(tmp_path):
    schedule = {"start": 0.25, "warmup": 0.25, "decay": "linear", "final": 0.2}
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = trainer(tmp_path / "a", [DiversityScheduleCallback(**schedule)], **saving)
    whole.train()
    for restore in (False, True):
        more = {"restore_callback_states_from_checkpoint": restore}
        mine = DiversityScheduleCallback(**(schedule if not restore else {"warmup": 0.9}))
        resumed = trainer(tmp_path / f"b{restore}", [mine], **saving, **more)
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
        assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)
    other = trainer(tmp_path / "c", [DiversityScheduleCallback(warmup=0.5)], **saving)
    with pytest.raises(ValueError, match="another|trained with the schedule .*'final': 0.2"):
        other.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))


def test_a_checkpoint_from_before_hold_is_gone_on_with(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path, [DiversityScheduleCallback(warmup=0.5)], **saving).train()
    path = tmp_path / "checkpoint-3" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["DiversityScheduleCallback"]["args"]["hold"]
    path.write_text(json.dumps(state))
    resumed = trainer(tmp_path, [DiversityScheduleCallback(warmup=0.5)], **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 8
    held = trainer(tmp_path, [DiversityScheduleCallback(warmup=0.5, hold=0.1, decay="step")], **saving)
    with pytest.raises(ValueError, match="trained with the schedule"):
        held.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_resumed_run_may_begin_a_schedule_and_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(schedule.logger, "warning_once", said.append)
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path, [], **saving).train()
    assert not said
    for checkpoint in ("checkpoint-3", "checkpoint-6"):  # the second one has the schedule
        resumed = trainer(tmp_path, [DiversityScheduleCallback(warmup=1.0)], **saving)
        resumed.train(resume_from_checkpoint=str(tmp_path / checkpoint))
        assert [r["diversity_scale"] for r in records(resumed)[-2:]] == [6 / 8, 7 / 8]
        [warning] = said
        assert "step 3 was trained without a schedule" in warning


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warmup": 1.5}, "warmup is 1.5: it must be a number from 0 to 1"),
        ({"start": True}, "start is True"),
        ({"start": 0.6, "warmup": 0.6}, "exceed the whole training"),
        ({"warmup": 0.6, "hold": 0.6, "decay": "linear"}, "exceed the whole training"),
        ({"hold": 0.5}, "hold is 0.5, but no decay comes after it"),
        ({"decay": "stairs"}, "decay is 'stairs': choose from constant, linear, cosine, step"),
        ({}, "changes nothing"),
    ],
)
def test_bad_schedules(settings, words):
    with pytest.raises(ValueError, match=words):
        DiversityScheduleCallback(**settings)


def test_it_needs_a_diversity_trainer(tmp_path):
    with pytest.raises(RuntimeError, match="does not know its trainer"):
        trainer(tmp_path, [DiversityScheduleCallback(warmup=0.5)], cls=Trainer).train()
    callback = DiversityScheduleCallback(warmup=0.5)
    plain = trainer(tmp_path, [callback], cls=Trainer)
    callback.bind(plain)
    with pytest.raises(RuntimeError, match="belongs to DiversityTrainer"):
        plain.train()
