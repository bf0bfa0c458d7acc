"""Orthogonality of weights in the trainer: which weights, how strong, what is logged and refused."""

import json
import logging

import pytest
import torch
from launch import SCRIPTS, launch
from test_distributed import results
from tiny import Mlp, Rows, Sentences, arguments, tiny_bert
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity import functional as F
from hf_diversity.callbacks import LayerDiagnosticsCallback
from hf_diversity.weight_regularizer import WeightRegularizer, find_weighted_layers, whole_weight


def so(**values):
    return DiversityConfig(**{"measure": "orthogonality", "diversity_weight": 0.1, **values})


def trainer(folder, diversity, model=None, **settings):
    return DiversityTrainer(
        model=model or Mlp(), args=arguments(folder, **settings), train_dataset=Rows(16), eval_dataset=Rows(8),
        diversity=diversity,
    )  # fmt: skip


def test_all_layers_but_the_head_by_default():
    assert list(find_weighted_layers(Mlp(), None)) == ["fc1", "fc2"]
    names = list(find_weighted_layers(tiny_bert(), None))
    assert "bert.encoder.layer.0.attention.self.query" in names and "classifier" not in names


def test_a_shared_layer_counts_once():
    model = Mlp()
    model.fc2 = model.fc1 = nn.Linear(8, 8)
    assert len(find_weighted_layers(model, None)) == 1


@pytest.mark.parametrize("measure", ["orthogonality", "srip"])
def test_the_first_step_follows_the_gradient_of_the_weights_alone(tmp_path, measure):
    """One SGD step with rate 1 moves a weight by the task's gradient, as without, and lambda times that of J."""
    after = []
    for weight in (0.0, 0.1):
        model = Mlp()
        config = DiversityConfig(measure=measure, diversity_weight=weight, layers=["fc2"])
        trainer(tmp_path, config, model, max_steps=1, learning_rate=1.0, optim="sgd", max_grad_norm=0.0).train()
        after.append({name: p.detach().clone() for name, p in model.named_parameters()})
    start = Mlp().fc2.weight.detach().requires_grad_()
    getattr(F, measure)(start).backward()
    assert start.grad.abs().max() > 0.1
    moved = {name: after[1][name] - after[0][name] for name in after[0]}
    torch.testing.assert_close(moved.pop("fc2.weight"), -0.1 * start.grad, atol=1e-6, rtol=1e-4)
    assert not any(difference.any() for difference in moved.values())


def test_what_is_logged_and_evaluated(tmp_path):
    model = Mlp()
    run = trainer(tmp_path, so(), model, max_steps=2, logging_steps=1, eval_strategy="steps", eval_steps=2)
    run.train()
    record = next(r for r in run.state.log_history if "task_loss" in r)
    assert "gamma" not in record and "activation_norm" not in record
    assert record["loss"] == pytest.approx(record["task_loss"] + 0.1 * record["diversity"], rel=1e-5)
    assert record["diversity"] == pytest.approx(record["diversity/fc1"] + record["diversity/fc2"], rel=1e-5)
    evaluated = next(r for r in run.state.log_history if "eval_loss" in r)
    now = F.orthogonality(model.fc1.weight) + F.orthogonality(model.fc2.weight)
    assert evaluated["eval_diversity"] == pytest.approx(now.item(), rel=1e-5)
    assert "eval_gamma" not in evaluated


def test_the_layers_are_named_once_made(tmp_path, caplog):
    logging.getLogger("transformers").propagate = True
    try:
        trainer(tmp_path, so(layers=["fc*"]))
    finally:
        logging.getLogger("transformers").propagate = False
    assert "orthogonality of the weights of 'fc1', 'fc2'" in caplog.messages


def test_resume_goes_on_exactly(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    config = so(measure="srip")
    whole = trainer(tmp_path, config, **settings)
    whole.train()
    resumed = trainer(tmp_path, config, **settings)
    resumed.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_gpt2_has_a_column_for_each_unit(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))
    layers = find_weighted_layers(model, ["transformer.h.0.mlp.c_fc"])
    assert whole_weight("c_fc", layers["transformer.h.0.mlp.c_fc"]).shape == (32, 8)


@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings", "bert.encoder.layer.0.output.LayerNorm", "bert"])
def test_layers_without_such_a_weight_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name!r} is a .*nearest: bert") as error:
        DiversityTrainer(
            model=tiny_bert(), args=arguments(tmp_path), train_dataset=Sentences(), diversity=so(layers=[name])
        )
    assert "orthogonality" in str(error.value)


def test_frozen_layers_are_refused_or_left_out():
    model = Mlp()
    model.fc1.requires_grad_(False)
    assert list(find_weighted_layers(model, None)) == ["fc2"]
    with pytest.raises(ValueError, match="'fc1' is frozen"):
        find_weighted_layers(model, ["fc1"])
    with pytest.raises(ValueError, match="no linear layer"):
        find_weighted_layers(model.requires_grad_(False), None)


def test_sharded_weights_are_refused():
    """ZeRO-3 leaves an empty vector in a parameter's place."""
    model = Mlp()
    model.fc2.weight = nn.Parameter(torch.empty(0))
    with pytest.raises(ValueError, match="'fc2' is sharded"):
        WeightRegularizer(so(layers=["fc2"]))(model, 0)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="weights alone; type activation_weight=0.0"):
        so(activation_weight=0.1)
    for measure in ("srip", "decov", "vcreg", "correlation"):
        with pytest.raises(ValueError, match=f"measure is '{measure}', which has no gamma"):
            DiversityConfig(measure=measure, gamma=1.0)


def test_a_schedule_at_0_leaves_no_gradient_for_weight_decay_to_act_on():
    model = Mlp()
    regularizer = WeightRegularizer(so(layers=["fc2"]))
    regularizer.scale = 0.0
    output = regularizer(model, 0)
    assert not output.penalty.requires_grad and output.penalty == 0
    assert output.layers["fc2"].diversity > 0


def test_the_diagnostics_callback_measures_the_layers_whose_weights_are_regularised(tmp_path):
    callback = LayerDiagnosticsCallback(samples=8)
    run = trainer(tmp_path, so())
    run.add_callback(callback)
    assert set(callback.measure(run)) == {"fc1", "fc2"}


def test_a_layer_that_the_loss_does_not_see_under_ddp():
    """DDP takes it for finished after the forward pass, and would refuse its gradient."""
    settings = {"model": "branched", "max_steps": 3, "diversity": {"measure": "srip", "diversity_weight": 0.5}}
    one, two = (
        results(
            launch(SCRIPTS / "train.py", json.dumps({**settings, "per_device_train_batch_size": size}), processes=n)
        )
        for n, size in ((1, 8), (2, 4))
    )
    for name, values in one[0]["weights"].items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(two[0]["weights"][name]), rtol=1e-5, atol=1e-6)
