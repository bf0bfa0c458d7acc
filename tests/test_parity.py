"""What users of Trainer rely on, run with Trainer, with both weights 0, and regularised."""

import functools

import pytest
import torch
from parity import observe, without_our_files, without_ours
from parity_scenarios import SCENARIOS, UNTRAINED, accuracy, no_evaluation_set
from tiny import Mlp, Rows, arguments, weights
from transformers import Trainer, TrainerCallback

from hf_diversity import DiversityConfig, DiversityTrainer


class KeepMetrics(TrainerCallback):
    def __init__(self, kept):
        self.kept = kept

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.kept.append(dict(metrics))


@pytest.fixture(scope="module")
def with_trainer(tmp_path_factory):
    """What a scenario leaves with plain Trainer; computed once."""
    return functools.cache(lambda scenario: observe(scenario, Trainer, tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_weights_zero_behave_as_trainer(with_trainer, tmp_path, scenario):
    plain = with_trainer(scenario)
    zero = observe(scenario, DiversityTrainer, tmp_path, diversity=DiversityConfig(diversity_weight=0.0))
    assert zero.events == plain.events
    assert zero.history == plain.history
    assert zero.returned == plain.returned
    assert zero.files == plain.files
    assert zero.weights.keys() == plain.weights.keys()
    assert all(torch.equal(zero.weights[name], plain.weights[name]) for name in plain.weights)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_regularised_differs_only_in_numbers_and_in_what_is_documented(with_trainer, tmp_path, scenario):
    plain = with_trainer(scenario)
    config = DiversityConfig(diversity_weight=0.05, gamma=0.7, activation_weight=0.001)
    diverse = observe(scenario, DiversityTrainer, tmp_path, diversity=config)
    assert diverse.events == plain.events
    assert without_ours(diverse.history) == without_ours(plain.history)
    assert without_ours(diverse.returned) == without_ours(plain.returned)
    assert without_our_files(diverse.files) == plain.files
    for record in diverse.history:  # and the documented ones are all there
        if "loss" in record:
            assert {"task_loss", "diversity", "activation_norm", "gamma"} <= record.keys()
        for key in [key for key in record if key.endswith("_loss") and key not in ("train_loss", "task_loss")]:
            assert {
                key.replace("_loss", f"_{part}") for part in ("diversity", "activation_norm", "gamma")
            } <= record.keys()
    changed = any(not torch.equal(diverse.weights[name], plain.weights[name]) for name in plain.weights)
    assert changed == (scenario not in UNTRAINED)


@pytest.mark.parametrize("metrics", [None, accuracy])
def test_the_default_objective_of_a_search_is_that_of_trainer(tmp_path, metrics):
    """It is the evaluation loss, or the sum of all metrics: eval_gamma is not one to be maximised."""
    trainer = DiversityTrainer(
        model_init=lambda trial: Mlp(), args=arguments(tmp_path, eval_strategy="epoch"), train_dataset=Rows(),
        eval_dataset=Rows(8), compute_metrics=metrics, diversity=DiversityConfig(gamma=0.7),
    )  # fmt: skip
    evaluations = []
    trainer.add_callback(KeepMetrics(evaluations))
    best = trainer.hyperparameter_search(lambda trial: {}, n_trials=1, backend="optuna")
    assert best.objective == evaluations[-1]["eval_loss" if metrics is None else "eval_accuracy"]
    assert evaluations[-1]["eval_gamma"] == pytest.approx(0.7)


def test_the_comparison_would_see_another_trajectory(with_trainer):
    plain = with_trainer(no_evaluation_set)
    assert len(plain.events) > 15 and len(plain.history) == 5
    assert any(not torch.equal(value, plain.weights[name]) for name, value in weights(Mlp()).items())
