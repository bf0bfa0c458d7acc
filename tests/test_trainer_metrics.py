"""Results of an evaluation apart from its times and speeds."""

import pytest
from tiny import Sentences, arguments, tiny_bert
from transformers import Trainer

from hf_diversity.trainer_metrics import TECHNICAL, bare_metrics


@pytest.mark.parametrize("prefix", ["eval", "eval_a", "test"])
def test_of_a_plain_trainer_the_loss_alone_is_left(tmp_path, prefix):
    trainer = Trainer(model=tiny_bert(), args=arguments(tmp_path), eval_dataset=Sentences(8))
    metrics = trainer.predict(Sentences(8), metric_key_prefix=prefix).metrics
    assert len(metrics) > 3 and bare_metrics(metrics, prefix) == {"loss": metrics[f"{prefix}_loss"]}


def test_names_that_only_resemble_are_results():
    metrics = {"eval_runtime": 1.0, "eval_runtime_of_mine": 2, "evaluation_loss": 3.0, "loss": 4.0, "eval_text": "a"}
    assert bare_metrics(metrics, "eval") == {"runtime_of_mine": 2.0}
    assert not bare_metrics({f"eval_{name}": 1.0 for name in TECHNICAL}, "eval")
