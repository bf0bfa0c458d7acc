"""LoRA by PEFT: layers keep the base model's names, and the adapter needs nothing of this library."""

import pytest
import torch
from huggingface_hub import ModelCard
from tiny import (
    Sentences,
    arguments,
    assert_gradient,
    assert_same,
    regularizer_gradient,
    stack,
    tiny_bert,
    weights,
)
from tiny_text import tiny_llama

from hf_diversity import DiversityConfig, DiversityTrainer, functional, load_run
from hf_diversity.layers import find_layers

peft = pytest.importorskip("peft")


def lora(kind="bert"):
    torch.manual_seed(1)
    base, targets, task = {
        "bert": (tiny_bert, ["query", "value"], "SEQ_CLS"), "llama": (tiny_llama, ["q_proj", "v_proj"], "CAUSAL_LM"),
    }[kind]  # fmt: skip
    # Not PEFT's own start at zero, where half of the gradients vanish
    return peft.get_peft_model(
        base(), peft.LoraConfig(task_type=task, r=2, target_modules=targets, init_lora_weights=False)
    )


@pytest.mark.parametrize("layers", [None, ["bert.encoder.layer.1.output"]])
def test_gradient_reaches_the_adapter_and_nothing_else(tmp_path, layers):
    data = [dict(row) for row in Sentences(8)]
    config = DiversityConfig(gamma=0.7, diversity_weight=20.0, layers=layers)
    actual = regularizer_gradient(tmp_path, lora, data, config)
    model, batch = lora(), stack(data)
    hidden = model.base_model.model.bert(**batch)
    rows = hidden.pooler_output if layers is None else hidden.last_hidden_state[batch["attention_mask"].bool()]
    assert_gradient(actual, 20.0 * functional.direct(rows, gamma=0.7), model)
    moved = {name for name, gradient in actual.items() if gradient.abs().max() > 1e-5}
    assert moved and all("lora_" in name for name in moved)


@pytest.mark.parametrize("layers", [None, ["model.layers.1.mlp"]])
def test_names_of_a_causal_language_model(layers):
    [target] = find_layers(lora("llama"), layers)
    assert (target.name, target.point) == (
        ("lm_head", "input") if layers is None else ("model.layers.1.mlp", "output")
    )


def test_the_saved_adapter_is_pefts_own(tmp_path):
    model = lora()
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path / "run"), train_dataset=Sentences(), diversity=DiversityConfig()
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    # PEFT reads these two files alone, into the base model
    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file() and "hf_diversity" not in text
    reloaded = peft.PeftModel.from_pretrained(tiny_bert(), str(tmp_path / "adapter"))
    assert type(reloaded).__module__.startswith("peft.")
    batch = stack([dict(row) for row in Sentences(4)])
    expected = model.eval()(**batch).logits
    torch.testing.assert_close(reloaded.eval()(**batch).logits, expected)
    assert (lora().eval()(**batch).logits - expected).abs().max() > 1e-3  # training moved it


def test_checkpoints_of_an_adapter_resume_exactly(tmp_path):
    config, settings = DiversityConfig(diversity_weight=1.0), {"save_strategy": "steps", "save_steps": 2}
    finals = []
    for folder, resume in (("whole", None), ("again", str(tmp_path / "whole" / "checkpoint-2"))):
        trainer = DiversityTrainer(
            model=lora(), args=arguments(tmp_path / folder, **settings), train_dataset=Sentences(), diversity=config
        )
        trainer.train(resume_from_checkpoint=resume)
        finals.append(weights(trainer.model))
    assert_same(*finals, rtol=0, atol=0)


def test_the_card_of_an_adapter_keeps_both_libraries_tags_and_load_run_names_peft(tmp_path):
    model = lora()
    trainer = DiversityTrainer(model=model, args=arguments(tmp_path, max_steps=1), train_dataset=Sentences(8))
    trainer.train()
    trainer.save_model()
    for _ in range(2):
        trainer.create_model_card()
        card = ModelCard.load(tmp_path / "README.md")
        assert {"hf_diversity", "within-layer-diversity", "lora"} <= set(card.data.tags)
        assert card.data.library_name == "peft" and card.text.count("## The regulariser") == 1
    with pytest.raises(ValueError, match="AutoPeftModel"):
        load_run(tmp_path)
