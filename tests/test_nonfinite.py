"""Steps in which the regulariser is not finite: stopped, or left out without a trace."""

import math

import pytest
import torch
from tiny import Mlp, Rows, arguments, assert_same, weights

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.nonfinite import MOST_IN_A_ROW
from hf_diversity.regularizer import NonFiniteRegularizerError


class Overflow(torch.nn.Module):
    """The layer that is captured: passes on what it gets, with one infinite unit at some calls in training."""

    def __init__(self, at, value):
        super().__init__()
        self.at, self.value, self.calls = set(at), value, 0

    def forward(self, hidden):
        self.calls += self.training
        if self.training and self.calls - 1 in self.at:
            return torch.cat([hidden[:, :-1], hidden[:, -1:] * self.value], 1)
        return hidden * 1.0


def model_with_overflow(at, value=math.inf):
    model = Mlp()
    plain = model.act2
    model.act2 = torch.nn.Sequential(plain, Overflow(at, value))
    model.out = torch.nn.Sequential(Finite(), model.out)
    return model


class Finite(torch.nn.Module):
    """The task loss does not see the overflow."""

    def forward(self, hidden):
        return hidden.nan_to_num(0.0, 0.0, 0.0)


def trainer(folder, model, on_nonfinite, optim="adamw_torch", measure="direct", **settings):
    return DiversityTrainer(
        model=model, args=arguments(folder, optim=optim, weight_decay=0.1, **settings), train_dataset=Rows(16),
        diversity=DiversityConfig(
            layers=["act2"], diversity_weight=0.1, gamma=1.0, measure=measure, on_nonfinite=on_nonfinite
        ),
    )  # fmt: skip


@pytest.mark.parametrize("measure", ["direct", "logdet"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_raise_is_the_default_and_names_layer_step_and_cause(tmp_path, value, measure):
    assert DiversityConfig().on_nonfinite == "raise"
    run = trainer(tmp_path, model_with_overflow([2], value), "raise", measure=measure)
    with pytest.raises(NonFiniteRegularizerError, match="'act2' is not finite at step 2: .*NaN or inf"):
        run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


@pytest.mark.parametrize("measure", ["direct", "logdet"])
@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_skip_leaves_the_whole_step_out(tmp_path, optim, accumulate, measure):
    """What remains is a run in which the optimiser never saw that step: neither momentum nor weight decay moved."""
    settings = {"gradient_accumulation_steps": accumulate, "max_steps": 3, "per_device_train_batch_size": 4}
    bad = 1 * accumulate  # the first micro-batch of the second step
    model = model_with_overflow([bad])
    run = trainer(tmp_path, model, "skip", optim, measure, **settings)
    seen = []
    original = run.create_optimizer

    def create_optimizer(*args):
        optimizer = original(*args)
        optimizer.register_step_post_hook(lambda *a: seen.append((weights(model), state_of(optimizer))))
        return optimizer

    run.create_optimizer = create_optimizer
    run.train()
    (first, first_state), (second, second_state), (third, _) = seen
    assert_same(first, second, rtol=0, atol=0)
    assert first_state == second_state
    assert any(not torch.equal(second[name], third[name]) for name in second)
    assert all(torch.isfinite(value).all() for value in third.values())
    records = [r for r in run.state.log_history if "learning_rate" in r]
    assert [r.get("skipped_steps") for r in records] == [None, 1, None]
    assert math.isnan(records[1]["loss"]) and "diversity" not in records[1]
    for record in (records[0], records[2]):
        assert record["loss"] == pytest.approx(record["task_loss"] + 0.1 * record["diversity"], rel=1e-5)


def state_of(optimizer):
    return [
        {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
        for state in optimizer.state_dict()["state"].values()
    ]


def test_a_record_over_several_steps_counts_and_averages_the_others(tmp_path):
    run = trainer(tmp_path, model_with_overflow([1]), "skip", logging_steps=4)
    run.train()
    [record] = [r for r in run.state.log_history if "learning_rate" in r]
    assert record["skipped_steps"] == 1
    assert record["loss"] == pytest.approx(record["task_loss"] + 0.1 * record["diversity"], rel=1e-6)
    alone = trainer(tmp_path, model_with_overflow([1]), "skip", logging_steps=1)
    alone.train()
    singles = [r["diversity"] for r in alone.state.log_history if "diversity" in r]
    assert len(singles) == 3
    assert record["diversity"] == pytest.approx(sum(singles) / 3, rel=1e-6)


def test_running_statistics_do_not_count_a_skipped_step(tmp_path):
    class Bad(torch.utils.data.Dataset):
        """One batch of NaN inputs among others."""

        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            return {**self.rows[index], "x": self.rows[index]["x"] * (math.nan if 4 <= index < 8 else 1.0)}

    def statistics(data, steps):
        torch.manual_seed(0)
        model = Mlp()
        model.fc1 = torch.nn.Sequential(model.fc1, torch.nn.BatchNorm1d(8))
        run = trainer(tmp_path, model, "skip", max_steps=steps, learning_rate=0.0)
        run.train_dataset = data
        run._get_train_sampler = lambda *unused: torch.utils.data.SequentialSampler(data)
        run.train()
        return weights(model)

    rows = Rows(12)
    kept = torch.utils.data.Subset(rows, [0, 1, 2, 3, 8, 9, 10, 11])
    assert_same(statistics(Bad(rows), 3), statistics(kept, 2), rtol=0, atol=0)


def test_skipping_says_so_and_does_not_go_on_for_ever(tmp_path, caplog):
    run = trainer(tmp_path, model_with_overflow(range(100)), "skip", max_steps=50)
    with pytest.raises(NonFiniteRegularizerError, match=f"{MOST_IN_A_ROW} optimiser steps in a row"):
        run.train()
    assert run.state.global_step == MOST_IN_A_ROW - 1


def test_a_gradient_scaler_skips_a_faulty_step_by_itself():
    from hf_diversity.nonfinite import StepGuard

    layer = torch.nn.Linear(2, 2)
    before = weights(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    guard = StepGuard(skip=True)
    guard.fault(NonFiniteRegularizerError("nothing"))
    scaler.scale(layer(torch.ones(1, 2)).sum()).backward()
    assert guard.end_step(layer, scaler, torch.device("cpu"))
    scaler.step(optimizer)
    scaler.update()
    assert_same(weights(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize("unit", ["dead", "duplicate"])
@pytest.mark.parametrize("measure", ["direct", "det", "logdet"])
def test_dead_and_duplicate_units_have_finite_values_and_gradients(tmp_path, measure, unit):
    model = Mlp()
    with torch.no_grad():
        for parameter in (model.fc2.weight, model.fc2.bias):
            parameter[:4] = 0.0 if unit == "dead" else parameter[4:]
    run = trainer(tmp_path, model, "raise", "sgd", measure)
    run.train()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(math.isfinite(r["diversity"]) for r in run.state.log_history if "diversity" in r)
