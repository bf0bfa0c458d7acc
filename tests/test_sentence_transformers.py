"""The mixin over SentenceTransformerTrainer, whose loss calls the model once for each column of texts."""

import pytest
import torch
from tiny import assert_same, weights
from tiny_text import SPECIAL, WORDS, texts, tokenizer
from transformers import BertConfig, BertModel

from hf_diversity import DiversityConfig, DiversityMixin, functional
from hf_diversity.layers import find_layers

st = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
COLUMNS = ("anchor", "positive")


class DiversitySentenceTransformerTrainer(DiversityMixin, st.SentenceTransformerTrainer):
    pass


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder that `modules.Transformer` can load."""
    folder = str(tmp_path_factory.mktemp("bert"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL + WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def embedder(folder, *after):
    return st.SentenceTransformer(modules=[modules.Transformer(folder), modules.Pooling(16), *after], device="cpu")


def train(path, model, cls=DiversitySentenceTransformerTrainer, diversity=None, resume=None, loss=None, **kwargs):
    """One SGD step at learning rate 1 over the whole data set, unless told otherwise."""
    defaults = {
        "output_dir": str(path), "per_device_train_batch_size": 8, "max_steps": 1, "logging_steps": 1,
        "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "optim": "sgd",
        "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    }  # fmt: skip
    trainer = cls(
        model=model, args=st.SentenceTransformerTrainingArguments(**{**defaults, **kwargs}),
        train_dataset=texts(*COLUMNS), eval_dataset=texts(*COLUMNS, seed=1),
        loss=(loss or losses.MultipleNegativesRankingLoss)(model),
        **({} if diversity is None else {"diversity": diversity}),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def outputs(model, key, seed=0):
    """Sentence or real-token embeddings of each text by itself, without padding."""
    found = []
    for column in COLUMNS:
        for text in texts(*COLUMNS, seed=seed)[column]:
            features = model[1](model[0](dict(tokenizer()(text, return_tensors="pt"))))
            found.append(features[key] if key == "sentence_embedding" else features[key][0])
    return torch.cat(found)


def test_weights_zero_is_the_parent_bit_for_bit(tmp_path, backbone):
    settings = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 0.1, "eval_strategy": "epoch"}
    parent = train(tmp_path, embedder(backbone), st.SentenceTransformerTrainer, **settings)
    off = DiversityConfig(diversity_weight=0.0)
    mine = train(tmp_path, embedder(backbone), diversity=off, **settings)
    assert_same(weights(parent.model), weights(mine.model), rtol=0, atol=0)
    logs = [[r["loss"] for r in t.state.log_history if "loss" in r] for t in (parent, mine)]
    assert logs[0] == logs[1] and len(logs[0]) == 3


@pytest.mark.parametrize("layers", [None, ["0.*.encoder.layer.1"]])
def test_the_step_is_the_parents_plus_the_gradient_over_both_columns(tmp_path, backbone, layers):
    """The texts of the two columns are padded to different lengths; padding is no sample."""
    config = DiversityConfig(gamma=0.7, diversity_weight=5.0, activation_weight=0.01, layers=layers)
    parent = train(tmp_path, embedder(backbone), st.SentenceTransformerTrainer)
    mine = train(tmp_path, embedder(backbone), diversity=config)
    reference = embedder(backbone)
    rows = outputs(reference, "sentence_embedding" if layers is None else "token_embeddings")
    direct, norm = functional.direct(rows, gamma=0.7), rows.pow(2).sum(1).mean()
    (5.0 * direct + 0.01 * norm).backward()
    for name, parameter in reference.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        actual = parent.model.get_parameter(name) - mine.model.get_parameter(name)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=5e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert max(p.grad.abs().max() for p in reference.parameters() if p.grad is not None) > 1e-2
    [record] = [r for r in mine.state.log_history if "loss" in r]
    [base] = [r for r in parent.state.log_history if "loss" in r]
    assert record["task_loss"] == pytest.approx(base["loss"], rel=1e-6)
    assert record["diversity"] == pytest.approx(direct.item(), rel=1e-5)
    assert record["activation_norm"] == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.parametrize("layers", [None, ["0.*.encoder.layer.1"]])
def test_evaluation_is_exact_over_both_columns(tmp_path, backbone, layers):
    config = DiversityConfig(gamma=0.7, layers=layers)
    trainer = train(tmp_path, embedder(backbone), diversity=config, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    with torch.no_grad():
        rows = outputs(trainer.model, "sentence_embedding" if layers is None else "token_embeddings", seed=1)
    assert metrics["eval_diversity"] == pytest.approx(functional.direct(rows, gamma=0.7).item(), rel=1e-5)
    assert metrics["eval_activation_norm"] == pytest.approx(rows.pow(2).sum(1).mean().item(), rel=1e-5)


def test_the_last_hidden_layer_is_the_embedding_before_it_is_normalised(backbone):
    dense = modules.Dense(16, 5)
    for model, expected in [
        (embedder(backbone), "1"),
        (embedder(backbone, modules.Normalize()), "1"),
        (embedder(backbone, dense, modules.Normalize()), "2"),
    ]:
        [target] = find_layers(model, None)
        assert (target.name, target.point) == (expected, "output")


def test_resume_and_the_best_model_are_whole(tmp_path, backbone):
    """sentence-transformers has a checkpoint format and a way to load it of its own."""
    config = DiversityConfig(diversity_weight=1.0)
    settings = {
        "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "per_device_train_batch_size": 4, "learning_rate": 0.05,
    }  # fmt: skip
    whole = train(tmp_path / "whole", embedder(backbone), diversity=config, **settings)
    resumed = train(
        tmp_path / "again",
        embedder(backbone),
        diversity=config,
        resume=str(tmp_path / "whole/checkpoint-2"),
        **settings,
    )
    assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)
    best = st.SentenceTransformer(whole.state.best_model_checkpoint, device="cpu")
    assert_same(weights(whole.model), weights(best), rtol=0, atol=0)


def test_a_cached_loss_says_that_its_forward_pass_has_no_gradient(tmp_path, backbone):
    with pytest.raises(RuntimeError, match="without gradient.*type the loss without the cache"):
        train(
            tmp_path, embedder(backbone), diversity=DiversityConfig(), loss=losses.CachedMultipleNegativesRankingLoss
        )
