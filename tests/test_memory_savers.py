"""What saves memory or runs a layer in another way leaves the regulariser's gradient as it is."""

import pytest
import timm.layers
import torch
from tiny import (
    Images,
    Mlp,
    Rows,
    Sentences,
    arguments,
    assert_gradient,
    assert_same,
    regularizer_gradient,
    stack,
    tiny_bert,
    tiny_timm,
    weights,
)
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import AlbertConfig, AlbertForSequenceClassification

from hf_diversity import DiversityConfig, DiversityTrainer, functional

STRONG = {"gamma": 0.7, "diversity_weight": 1.0, "activation_weight": 0.01}


class InOrder(DiversityTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


def train(path, model, data, layers=None, **kwargs):
    trainer = InOrder(
        model=model, args=arguments(path, **kwargs), train_dataset=data,
        diversity=DiversityConfig(layers=layers, **STRONG),
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("layers", [None, ["bert.encoder.layer.0"]])
def test_reentrant_checkpointing_is_exact_for_layers_outside_the_block(tmp_path, layers):
    plain = train(tmp_path, tiny_bert(), Sentences(), layers)
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    saved = train(tmp_path, tiny_bert(), Sentences(), layers, **settings)
    assert saved.model.is_gradient_checkpointing
    assert_same(weights(plain.model), weights(saved.model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_by_timm(tmp_path, reentrant):
    """timm's own switch; `blocks.0.mlp.fc1` is inside a checkpointed block, the head's input outside all of them."""
    inside, timm_is_reentrant = ["**.blocks.0.mlp.fc1"], timm.layers.use_reentrant_ckpt()

    def make():
        model = tiny_timm()
        model.set_grad_checkpointing()
        return model

    timm.layers.set_reentrant_ckpt(reentrant)
    try:
        for layers in (None, inside):
            plain = train(tmp_path, tiny_timm(), Images(8), layers, max_steps=2)
            if reentrant and layers is inside:
                with pytest.raises(RuntimeError, match="reentrant gradient checkpointing"):
                    train(tmp_path, make(), Images(8), layers, max_steps=2)
            else:
                saved = train(tmp_path, make(), Images(8), layers, max_steps=2)
                assert_same(weights(plain.model), weights(saved.model), rtol=1e-4, atol=1e-5)
    finally:
        timm.layers.set_reentrant_ckpt(timm_is_reentrant)


def test_all_uses_of_a_shared_layer_are_samples(tmp_path):
    def albert():
        torch.manual_seed(0)
        return AlbertForSequenceClassification(
            AlbertConfig(
                vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_hidden_groups=1,
                num_attention_heads=2, intermediate_size=24, max_position_embeddings=32, num_labels=3,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0,
            )
        )  # fmt: skip

    data = [dict(row) for row in Sentences(8)]
    layers = ["albert.encoder.albert_layer_groups.0.albert_layers.0"]
    config = DiversityConfig(layers=layers, gamma=0.7, diversity_weight=5.0)
    actual = regularizer_gradient(tmp_path, albert, data, config)
    model, batch = albert(), stack(data)
    states = model.albert(**batch, output_hidden_states=True).hidden_states[1:]
    assert len(states) == 3
    rows = torch.cat([state[batch["attention_mask"].bool()] for state in states])
    assert_gradient(actual, 5.0 * functional.direct(rows, gamma=0.7), model)


def test_an_activation_in_place_is_exact_where_it_is_named_itself(tmp_path):
    def make(inplace):
        model = Mlp()
        model.act2 = nn.ReLU(inplace=inplace)
        return model

    finals = [weights(train(tmp_path, make(inplace), Rows(), ["act2"]).model) for inplace in (False, True)]
    assert_same(*finals, rtol=1e-6, atol=1e-7)
    with pytest.raises(RuntimeError, match="'fc2' were overwritten"):
        train(tmp_path, make(True), Rows(), ["fc2"])


def test_auto_find_batch_size_trains_as_if_the_size_it_finds_were_given(tmp_path):
    class Big(Mlp):
        def forward(self, x, labels=None):
            if len(x) > 6:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x, labels)

    found = train(tmp_path, Big(), Rows(64), auto_find_batch_size=True, per_device_train_batch_size=8)
    size = found._train_batch_size
    assert 2 <= size <= 6
    given = train(tmp_path, Mlp(), Rows(64), per_device_train_batch_size=size)
    assert_same(weights(found.model), weights(given.model), rtol=0, atol=0)


def test_train_twice_goes_on_as_one_run_of_both(tmp_path):
    twice = train(tmp_path, Mlp(), Rows(16), max_steps=4)
    twice.train()
    once = train(tmp_path, Mlp(), Rows(16), max_steps=8)
    assert_same(weights(twice.model), weights(once.model), rtol=1e-6, atol=1e-7)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twice.model.modules())
