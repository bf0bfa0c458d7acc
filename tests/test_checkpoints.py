"""Saving, resuming and the best model: every tensor, and the state of gamma."""

import json

import pytest
import torch
from launch import SCRIPTS, launch
from safetensors.torch import load_file
from tiny import Images, Mlp, Rows, Sentences, arguments, assert_same, tiny_bert, weights
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    ViTConfig,
    ViTForImageClassification,
)

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.compat import restore_weights


def test_resume_continues_bit_for_bit_with_its_gamma(tmp_path):
    def make(folder, **kwargs):
        args = arguments(folder, save_strategy="steps", save_steps=3, max_steps=6, optim="adamw_torch", **kwargs)
        return DiversityTrainer(
            model=Mlp(),
            args=args,
            train_dataset=Rows(),
            diversity=DiversityConfig(diversity_weight=0.5, max_samples=3),
        )

    whole = make(tmp_path / "whole")
    whole.train()
    resumed = make(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)
    keep = ("loss", "task_loss", "diversity", "activation_norm", "gamma", "step")
    tail = lambda t: [{k: r[k] for k in keep} for r in t.state.log_history if "loss" in r and r["step"] > 3]  # noqa: E731
    assert tail(whole) == tail(resumed) and len(tail(whole)) == 3
    # and the state matters: without it the run differs
    (tmp_path / "whole" / "checkpoint-3" / "diversity_state.json").unlink()
    forgetful = make(tmp_path / "forgetful")
    forgetful.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert tail(whole) != tail(forgetful)


def test_every_process_goes_on_with_its_own_gamma(tmp_path, caplog):
    """Where none is common, by sync="local"."""
    [line] = [row for row in launch(SCRIPTS / "local_gamma.py", tmp_path).splitlines() if row.startswith("RESULT ")]
    whole, resumed = json.loads(line.removeprefix("RESULT "))
    assert whole == resumed
    own, other = (state["gamma"]["out"] for state in whole["states"])
    assert own != other
    saved = json.loads((tmp_path / "checkpoint-3" / "diversity_state.json").read_text())
    assert saved["gamma"] == saved["processes"][0]["gamma"] != saved["processes"][1]["gamma"]

    alone = DiversityTrainer(
        model=Mlp(), args=arguments(tmp_path / "alone", max_steps=3), train_dataset=Rows(48),
        diversity=DiversityConfig(sync="local"),
    )  # fmt: skip
    alone.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert alone._regularizer.state_dict(3)["gamma"] == saved["gamma"]
    assert "has the gammas of 2 processes" in caplog.text
    assert "this run has 1: each goes on from that of the first" in caplog.text


def test_saved_model_reloads_with_its_config(tmp_path):
    trainer = DiversityTrainer(
        model=tiny_bert(), args=arguments(tmp_path / "run"), train_dataset=Sentences(),
        diversity=DiversityConfig(measure="logdet", diversity_weight=1e-3),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final")
    assert_same(weights(loaded), weights(trainer.model), rtol=0, atol=0)
    assert DiversityConfig.from_json_file(tmp_path / "final" / "diversity_config.json") == trainer.diversity
    assert "gamma" in json.loads((tmp_path / "final" / "diversity_state.json").read_text())


def test_load_best_model_brings_its_gamma_back(tmp_path):
    trainer = DiversityTrainer(
        model=Mlp(), train_dataset=Rows(), eval_dataset=Rows(8, seed=9), diversity=DiversityConfig(),
        args=arguments(
            tmp_path, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, max_steps=4,
            load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
        ),
    )  # fmt: skip
    trainer.train()
    best = json.loads((tmp_path / f"checkpoint-{trainer.state.best_global_step}" / "diversity_state.json").read_text())
    assert trainer._regularizer.state_dict(trainer.state.global_step) == best


def tiny_transformers_vit():
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=8, num_channels=1, num_labels=4,
        )
    )  # fmt: skip


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_a_model_whose_tensors_are_renamed_on_save_resumes_and_keeps_the_best_whole(tmp_path, weight):
    """TRAPS 20: Trainer alone restores 8 of these 40 tensors from transformers 5.2x on."""

    def make(folder, **kwargs):
        return DiversityTrainer(
            model=tiny_transformers_vit(), train_dataset=Images(), eval_dataset=Images(8, seed=5),
            diversity=DiversityConfig(diversity_weight=weight),
            args=arguments(folder, save_strategy="steps", save_steps=2, learning_rate=0.5, **kwargs),
        )  # fmt: skip

    whole, resumed = make(tmp_path / "a"), make(tmp_path / "b")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)
    best = make(
        tmp_path / "c", eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, max_steps=6,
        metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip
    best.train()
    kept = ViTForImageClassification.from_pretrained(best.state.best_model_checkpoint)
    assert best.state.best_global_step < 6
    assert_same(weights(best.model), weights(kept), rtol=0, atol=0)


def test_resuming_from_another_models_checkpoint_is_an_error(tmp_path):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2)
    trainer = DiversityTrainer(model=Mlp(), args=args, train_dataset=Rows(), diversity=DiversityConfig())
    trainer.train()
    other = Mlp()
    other.extra = nn.Linear(3, 3)
    trainer = DiversityTrainer(model=other, args=args, train_dataset=Rows(), diversity=DiversityConfig())
    with pytest.raises(RuntimeError, match=r"does not hold 2 of the model's 8 tensors \(extra.bias, extra.weight\)"):
        trainer.train(resume_from_checkpoint=True)


def tied_with_an_extra_module():
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    model.extra = nn.Linear(3, 3)
    return model


class Temperature(BertForMaskedLM):
    def __init__(self, config, temperature):
        super().__init__(config)
        self.temperature = temperature


def not_built_from_its_config_alone():
    torch.manual_seed(0)
    return Temperature(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
        2.0,
    )


def another_head():
    model = tiny_transformers_vit()
    model.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(16, 4))
    return model


@pytest.mark.parametrize("make", [tied_with_an_extra_module, not_built_from_its_config_alone, another_head])
def test_models_that_from_pretrained_would_not_rebuild_are_restored(tmp_path, make):
    saved = make()
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.add_(torch.randn_like(parameter))
    saved.save_pretrained(tmp_path)
    model = make()
    restore_weights(model, str(tmp_path))
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)  # what Trainer does after it
    assert_same(weights(model), weights(saved), rtol=0, atol=0)
