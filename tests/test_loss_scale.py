"""One weight, one strength: the optimiser sees the same gradient of J however the step is cut up (TRAPS 1-3)."""

import pytest
import torch
from tiny import Images, Mlp, Rows, Sentences, arguments, assert_same, tiny_bert, tiny_timm, weights
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.timm_models import wrap_timm_model


def own_loss(outputs, labels, num_items_in_batch=None):
    total = nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else len(labels))


MODELS = {
    "bert, takes loss kwargs": (lambda: tiny_bert(problem_type="single_label_classification"), Sentences, {}),
    "plain module": (Mlp, Rows, {}),
    "timm wrapper": (lambda: wrap_timm_model(tiny_timm()), Images, {}),
    "compute_loss_func": (Mlp, Rows, {"compute_loss_func": own_loss}),
    "label smoothing": (tiny_bert, Sentences, {"label_smoothing_factor": 0.1}),
    "no averaging of tokens": (tiny_bert, Sentences, {"average_tokens_across_devices": False}),
}


def one_step(folder, kind, accumulate, config):
    """Weights after one optimiser step of SGD on the same 8 examples, in micro-batches."""
    make, data, extra = MODELS[kind]
    extra = dict(extra)
    trainer_arguments = {k: extra.pop(k) for k in ("compute_loss_func",) if k in extra}
    model = make()
    args = arguments(
        folder,
        max_steps=1,
        per_device_train_batch_size=8 // accumulate,
        gradient_accumulation_steps=accumulate,
        **extra,
    )
    trainer = DiversityTrainer(model=model, args=args, train_dataset=data(8), diversity=config, **trainer_arguments)
    trainer.train()
    [record] = [r for r in trainer.state.log_history if "loss" in r]
    return weights(model), record


@pytest.mark.parametrize("kind", MODELS)
def test_gradient_of_the_regulariser_does_not_depend_on_accumulation(tmp_path, kind):
    config = DiversityConfig(gamma=0.7, diversity_weight=1.0, activation_weight=0.05)
    off = DiversityConfig(diversity_weight=0.0)
    effects = {}
    for accumulate in (1, 2, 4):
        (with_it, record), (without, _) = (one_step(tmp_path, kind, accumulate, c) for c in (config, off))
        # SGD is linear in the gradient: the difference is -learning_rate times the gradient of the regulariser
        effects[accumulate] = {name: with_it[name] - without[name] for name in with_it}
        total = record["task_loss"] + record["diversity"] + 0.05 * record["activation_norm"]
        assert record["loss"] == pytest.approx(total, rel=1e-4)
    size = max(value.abs().max().item() for value in effects[1].values() if value.is_floating_point())
    assert size > 1e-3
    for accumulate in (2, 4):
        for name, value in effects[1].items():
            torch.testing.assert_close(
                effects[accumulate][name], value, rtol=1e-3, atol=3e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_loss_of_the_model_is_left_alone(tmp_path):
    """compute_loss returns a new tensor: outputs.loss stays the task loss."""
    model = Mlp()
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), diversity=DiversityConfig(gamma=1.0)
    )
    batch = {"x": Rows().x[:4], "labels": Rows().labels[:4]}
    loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
    assert loss.item() > outputs["loss"].item()
    assert loss.item() - outputs["loss"].item() < 0.011  # weight 0.01 times a mean similarity below 1
    assert set(batch) == {"x", "labels"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def causal_lm():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_key_value_heads=2,
        )
    )  # fmt: skip


class Tokens(Sentences):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {**item, "labels": item["input_ids"]}


@pytest.mark.parametrize(
    ("make", "data", "accumulate", "warned"),
    [(tiny_bert, Sentences, 2, True), (tiny_bert, Sentences, 1, False), (causal_lm, Tokens, 2, False)],
)
def test_a_model_that_ignores_num_items_is_named_once_with_the_cure(
    tmp_path, make, data, accumulate, warned, monkeypatch
):
    """TRAPS 29: its task loss is k times too large, which is upstream's; the user has to know."""
    messages = []
    monkeypatch.setattr("hf_diversity.first_step.logger.warning", messages.append)
    trainer = DiversityTrainer(
        model=make(), args=arguments(tmp_path, gradient_accumulation_steps=accumulate, max_steps=2),
        train_dataset=data(16), diversity=DiversityConfig(gamma=1.0),
    )  # fmt: skip
    trainer.train()
    found = [m for m in messages if "does not use it" in m]
    assert len(found) == int(warned)
    if warned:
        assert "2 times too large" in found[0] and "model_accepts_loss_kwargs = False" in found[0]


def test_the_cure_makes_accumulation_exact(tmp_path):
    """With the cure the whole step, task loss included, is the same for one batch and for micro-batches."""
    finals = []
    for accumulate in (1, 4):
        model = tiny_bert()
        trainer = DiversityTrainer(
            model=model, train_dataset=Sentences(8), diversity=DiversityConfig(gamma=0.7, diversity_weight=1.0),
            args=arguments(
                tmp_path, max_steps=1, per_device_train_batch_size=8 // accumulate,
                gradient_accumulation_steps=accumulate,
            ),
        )  # fmt: skip
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
        finals.append(weights(model))
    assert_same(*finals, rtol=1e-4, atol=1e-6)
