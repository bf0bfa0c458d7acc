"""The generalisation gap at each evaluation: right numbers, and a training that does not notice."""

import json

import pytest
import torch
from launch import SCRIPTS, launch
from tiny import Mlp, Rows, arguments, assert_same, weights
from torch.nn.functional import cross_entropy
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.callbacks import GeneralizationGapCallback


def accuracy(evaluated):
    return {"accuracy": float((evaluated.predictions.argmax(-1) == evaluated.label_ids).mean())}


def trainer(path, callbacks, cls=DiversityTrainer, **more):
    settings = {
        "num_train_epochs": 3, "max_steps": -1, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
        "eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 0.05, "logging_steps": 1,
    }  # fmt: skip
    data = more.pop("eval_dataset", Rows(20, seed=1))
    training = more.pop("train_dataset", Rows(32))
    extra = {"diversity": DiversityConfig(gamma=0.7, diversity_weight=0.3)} if cls is DiversityTrainer else {}
    made = cls(
        Mlp(), arguments(path, **{**settings, **more}), train_dataset=training, eval_dataset=data,
        compute_metrics=accuracy, callbacks=callbacks, **extra,
    )  # fmt: skip
    for callback in callbacks:
        if cls is not DiversityTrainer and isinstance(callback, GeneralizationGapCallback):
            callback.bind(made)
    return made


def by_hand(model, data):
    model.eval()
    with torch.no_grad():
        logits = model(data.x)["logits"]
    return float(cross_entropy(logits, data.labels)), float((logits.argmax(-1) == data.labels).float().mean())


@pytest.mark.parametrize("cls", [DiversityTrainer, Trainer])
def test_the_gap_is_that_of_the_two_evaluations(tmp_path, cls):
    run = trainer(tmp_path, [GeneralizationGapCallback(train_samples=None)], cls)
    run.train()
    records = [r for r in run.state.log_history if "gap_loss" in r]
    assert [r["epoch"] for r in records] == [1, 2, 3]
    (train_loss, train_accuracy), (loss, right) = by_hand(run.model, Rows(32)), by_hand(run.model, Rows(20, seed=1))
    assert records[-1]["gap_loss"] == pytest.approx(loss - train_loss, rel=1e-4, abs=1e-6)
    assert records[-1]["gap_accuracy"] == pytest.approx(train_accuracy - right, abs=1e-6)
    assert set(records[-1]) == {"gap_loss", "gap_accuracy", "epoch", "step"}
    metrics = run.evaluate()
    assert metrics["eval_gap_loss"] == pytest.approx(loss - train_loss, rel=1e-4, abs=1e-6)
    assert not any(key.startswith("eval_gap") and "diversity" in key for key in metrics)
    evaluations = [r for r in run.state.log_history if "eval_loss" in r]
    assert len(evaluations) == 4 and not any("eval_gap_loss" in r for r in evaluations)


class Noisy(Rows):
    """Draws from torch's, NumPy's and Python's generators, as augmentations do."""

    def __getitem__(self, index):
        import random

        import numpy as np

        item = super().__getitem__(index)
        noise = torch.randn(6) + float(np.random.normal()) + random.gauss(0, 1)
        return {**item, "x": item["x"] + 0.1 * noise}


class Watcher(TrainerCallback):
    """Which events came, with how many evaluation examples, and what was told."""

    def __init__(self):
        self.seen = []

    def _see(self, event, state, loader, told):
        told = sorted(key for key in told or {} if "gap_" not in key)
        self.seen.append((event, state.global_step, None if loader is None else len(loader.dataset), told))

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self._see("step", state, eval_dataloader, None)

    def on_evaluate(self, args, state, control, metrics=None, eval_dataloader=None, **kwargs):
        self._see("evaluate", state, eval_dataloader, metrics)

    def on_log(self, args, state, control, logs=None, eval_dataloader=None, **kwargs):
        if "gap_loss" not in logs:
            self._see("log", state, eval_dataloader, logs)


@pytest.mark.parametrize("cls", [DiversityTrainer, Trainer])
def test_training_does_not_notice_and_no_other_callback(tmp_path, cls):
    runs, watchers = [], [Watcher(), Watcher()]
    for number, callbacks in enumerate(([], [GeneralizationGapCallback(8)])):
        callbacks = [watchers[number], *callbacks]
        runs.append(trainer(tmp_path / str(number), callbacks, cls, train_dataset=Noisy(32), eval_on_start=True))
        runs[-1].train()  # before the next one is made, which sets the seeds
    assert watchers[0].seen == watchers[1].seen and ("step", 4, 20, []) in watchers[0].seen
    assert_same(weights(runs[0].model), weights(runs[1].model), rtol=0, atol=0)
    logs = [[{k: v for k, v in r.items() if "_per_second" not in k and "runtime" not in k}
             for r in run.state.log_history if "gap_loss" not in r] for run in runs]  # fmt: skip
    assert logs[0] == logs[1] and len([r for r in runs[1].state.log_history if "gap_loss" in r]) == 4


class Accumulating(Trainer):
    """Keeps sums of its own, as trl's and sentence-transformers' trainers do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sums = {"eval": {"steps": torch.tensor(0), "sizes": []}}
        self.calls, self.evaluator = 0, object()

    def compute_loss(self, model, inputs, *args, **kwargs):
        if not model.training:
            self.calls += 1
            self.sums["eval"]["steps"] += 1
            self.sums["eval"]["sizes"].append(len(inputs["x"]))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args, **kwargs):
        output = super().evaluation_loop(*args, **kwargs)
        if self.evaluator is not None:
            output.metrics[f"{kwargs['metric_key_prefix']}_evaluator"] = 1.0
        return output


def test_what_the_trainer_accumulates_is_that_of_the_evaluation(tmp_path):
    run = trainer(tmp_path, [], Accumulating)
    callback = GeneralizationGapCallback(16)
    run.add_callback(callback)
    callback.bind(run)
    sums, evaluator = run.sums, run.evaluator
    assert {"eval_gap_loss", "eval_evaluator"} <= set(run.evaluate()) and run.sums is sums
    assert sums == {"eval": {"steps": 3, "sizes": [8, 8, 4]}} and run.calls == 3
    assert run.evaluator is evaluator and "gap_evaluator" not in run.state.log_history[-1]


def test_an_evaluation_that_fails_leaves_the_trainer_whole(tmp_path):
    run = trainer(tmp_path, [GeneralizationGapCallback(16)])
    handler, state, control = run.callback_handler, run.state, run.control
    run.evaluation_loop = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        handler.on_evaluate(run.args, state, control, {"eval_runtime": 1.0, "eval_samples_per_second": 1.0})
    assert (run.callback_handler, run.state, run.control) == (handler, state, control) and handler.callbacks


def test_one_instance_serves_several_trainers(tmp_path):
    callback = GeneralizationGapCallback(None)
    sets = [(Rows(32), Rows(20, seed=1)), (Rows(24, seed=5), Rows(12, seed=6))]
    runs = [
        trainer(tmp_path / str(n), [callback], train_dataset=train, eval_dataset=held_out, num_train_epochs=2)
        for n, (train, held_out) in enumerate(sets)
    ]
    for run in runs:
        run.train()
    for run, (train, held_out) in zip(runs, sets, strict=True):  # and the first one still, after the second
        expected = by_hand(run.model, held_out)[0] - by_hand(run.model, train)[0]
        assert [r["gap_loss"] for r in run.state.log_history if "gap_loss" in r][-1] == pytest.approx(
            expected, rel=1e-4
        )
        assert run.evaluate()["eval_gap_loss"] == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-3
    stranger = trainer(tmp_path / "2", [])
    with pytest.raises(ValueError, match=r"not among the callbacks .* type trainer.add_callback\(callback\)"):
        callback.bind(stranger)
    Trainer.add_callback(stranger, callback)
    with pytest.raises(RuntimeError, match=r"type callback.bind\(trainer\)"):
        stranger.evaluate()


@pytest.mark.parametrize("cls", [DiversityTrainer, Trainer])
@pytest.mark.parametrize("metrics", [None, accuracy])
def test_the_default_objective_of_a_search_leaves_the_gap_out(tmp_path, cls, metrics):
    callback = GeneralizationGapCallback(8)
    run = cls(
        model_init=lambda trial: Mlp(), args=arguments(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2),
        train_dataset=Rows(), eval_dataset=Rows(8, seed=1), compute_metrics=metrics, callbacks=[callback],
    )  # fmt: skip
    callback.bind(run)
    best = run.hyperparameter_search(lambda trial: {}, n_trials=2, backend="optuna")
    [record] = [r for r in run.state.log_history if "eval_loss" in r]
    assert best.objective == record["eval_loss" if metrics is None else "eval_accuracy"]
    assert any("gap_loss" in r for r in run.state.log_history)
    best = run.hyperparameter_search(
        lambda trial: {}, lambda found: found["eval_gap_loss"], n_trials=1, backend="optuna"
    )
    assert best.objective == next(r["gap_loss"] for r in run.state.log_history if "gap_loss" in r)


def test_persistent_workers_do_not_give_the_evaluation_set_for_the_training_set(tmp_path):
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    gaps = []
    for number, more in enumerate(({}, workers)):
        run = trainer(tmp_path / str(number), [GeneralizationGapCallback(16)], num_train_epochs=1, **more)
        run.train()
        gaps.append([r["gap_loss"] for r in run.state.log_history if "gap_loss" in r])
    assert gaps[0] == gaps[1] and gaps[0][0] != 0


@pytest.mark.parametrize("cls", [DiversityTrainer, Trainer])
def test_the_best_model_and_early_stopping_by_the_gap(tmp_path, cls):
    run = trainer(
        tmp_path, [EarlyStoppingCallback(1), GeneralizationGapCallback(16)], cls, num_train_epochs=6,
        metric_for_best_model="gap_loss", greater_is_better=False, load_best_model_at_end=True,
    )  # fmt: skip
    run.train()
    gaps = [r["gap_loss"] for r in run.state.log_history if "gap_loss" in r]
    assert run.state.best_metric == pytest.approx(min(gaps))
    # Stopped by the first one that is not better than all before it
    assert len(gaps) == next((n + 1 for n in range(1, 6) if gaps[n] >= min(gaps[:n])), 6)


def test_a_gap_is_never_better_the_larger(tmp_path):
    run = trainer(
        tmp_path, [GeneralizationGapCallback()], metric_for_best_model="gap_accuracy", greater_is_better=True
    )
    with pytest.raises(ValueError, match="type greater_is_better=False"):
        run.train()
    assert run.state.global_step == 0


def test_several_evaluation_sets_share_one_pass_over_training_examples(tmp_path):
    callback = GeneralizationGapCallback(16)
    run = trainer(tmp_path, [callback], eval_dataset={"a": Rows(12, seed=1), "b": Rows(8, seed=2)}, num_train_epochs=1)
    passes, loop = [], run.evaluation_loop
    run.evaluation_loop = lambda *args, **kwargs: (passes.append(kwargs.get("description")), loop(*args, **kwargs))[1]
    run.train()
    assert passes.count("Evaluation of training examples") == 1
    keys = {key for r in run.state.log_history for key in r if key.startswith("gap_")}
    assert keys == {"gap_a_loss", "gap_a_accuracy", "gap_b_loss", "gap_b_accuracy"}
    run.evaluate(Rows(8, seed=3), metric_key_prefix="test")
    assert "gap_test_loss" in run.state.log_history[-1]


def test_a_metric_that_is_called_runtime(tmp_path):
    run = trainer(tmp_path, [GeneralizationGapCallback(8)])
    run.compute_metrics = lambda evaluated: {"generation_runtime": 1.0, **accuracy(evaluated)}
    assert {"eval_gap_loss", "eval_gap_accuracy"} <= set(run.evaluate())


def test_the_examples_are_fixed_and_drawn_by_the_seed(tmp_path):
    def drawn(seed):
        callback = GeneralizationGapCallback(8, seed=seed)
        run = trainer(tmp_path, [callback])
        assert callback.trainer is run
        return list(callback._examples_of(run).indices)

    assert drawn(0) == drawn(0) != drawn(1) and len(set(drawn(0))) == 8 and drawn(0) == sorted(drawn(0))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Rows(8))


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="train_samples is 0"):
        GeneralizationGapCallback(0)
    run = trainer(tmp_path, [GeneralizationGapCallback()], train_dataset=Stream(), max_steps=2)
    with pytest.raises(ValueError, match="Stream without length"):
        run.train()
    with pytest.raises(RuntimeError, match=r"callback.bind\(trainer\)"):
        GeneralizationGapCallback().on_train_begin(None, None, None)


def test_two_processes_give_the_gap_of_one():
    found = []
    for processes in (1, 2):
        output = launch(SCRIPTS / "gap.py", processes, processes=processes)
        [line] = [line for line in output.splitlines() if line.startswith("RESULT ")]
        found.append(json.loads(line.removeprefix("RESULT ")))
    assert len(found[0]) == 2
    for one, two in zip(*found, strict=True):
        assert set(one) == set(two) and len([k for k in one if k.startswith("layers/out/")]) >= 8 or "gap_loss" in one
        for key in one:
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key
