"""A model that Trainer compiles (`torch_compile=True`)."""

import pytest
import torch
from tiny import Sentences, arguments, tiny_bert, weights

from hf_diversity import DiversityConfig, DiversityTrainer


def test_compiled_training_is_that_of_the_model_as_it_is(tmp_path):
    """One compiled graph reads all weights at once, so what made the loss cannot be told from it, nor has to be."""
    torch.compiler.reset()
    finals, records = [], []
    for compiled in (False, True):
        model = tiny_bert()
        trainer = DiversityTrainer(
            model=model, train_dataset=Sentences(), diversity=DiversityConfig(diversity_weight=0.5),
            args=arguments(
                tmp_path, torch_compile=compiled, torch_compile_backend="aot_eager" if compiled else None, max_steps=2
            ),
        )  # fmt: skip
        trainer.train()
        finals.append(weights(model))
        records.append([record for record in trainer.state.log_history if "loss" in record])
    for plain, other in zip(*records, strict=True):
        assert other["diversity"] == pytest.approx(plain["diversity"], rel=1e-5) and plain["diversity"] > 0
    torch.testing.assert_close(finals[0], finals[1], rtol=1e-4, atol=1e-6)
    start = weights(tiny_bert())
    assert not torch.equal(finals[1]["bert.pooler.dense.weight"], start["bert.pooler.dense.weight"])
