import pytest
import torch
from tiny import arguments
from torch.utils.data import Dataset
from transformers import BartConfig, BartForConditionalGeneration, Seq2SeqTrainer, Seq2SeqTrainingArguments

from hf_diversity import DiversityConfig, DiversitySeq2SeqTrainer


class Pairs(Dataset):
    """Sources and targets of unequal lengths, padded to one; -100 in the labels is padding."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(5, 30, (6,), generator=generator)
        labels = torch.randint(5, 30, (6,), generator=generator)
        labels[3 + index % 3 :] = -100
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def tiny_bart():
    torch.manual_seed(0)
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, dropout=0.0,
        )
    )  # fmt: skip


def first_token(prediction):
    return {"first": float(prediction.predictions[0, 0])}


def make(cls, folder, **kwargs):
    settings = {
        k: v
        for k, v in arguments(folder).to_dict().items()
        if k in ("output_dir", "optim", "learning_rate", "use_cpu")
    }
    args = Seq2SeqTrainingArguments(
        **settings, max_steps=2, logging_steps=1, per_device_train_batch_size=4, per_device_eval_batch_size=4,
        report_to="none", save_strategy="no", predict_with_generate=True, generation_max_length=6,
    )  # fmt: skip
    return cls(model=tiny_bart(), args=args, train_dataset=Pairs(), eval_dataset=Pairs(), **kwargs)


def test_padding_of_the_targets_is_left_out(tmp_path):
    trainer = make(DiversitySeq2SeqTrainer, tmp_path, diversity=DiversityConfig(gamma=1.0))
    [target] = trainer._capture_for(trainer.model).targets
    assert target.module is trainer.model.lm_head
    seen = []
    regularizer = trainer._regularizer
    trainer._add_penalty = lambda loss, rows, *others: (seen.append(rows["lm_head"].shape[0]), loss)[1]
    batch = {key: torch.stack([Pairs()[i][key] for i in range(4)]) for key in Pairs()[0]}
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch))
    assert seen == [int(batch["labels"].ne(-100).sum())]
    assert regularizer is trainer._regularizer


def test_generation_is_unaffected(tmp_path):
    diverse = make(DiversitySeq2SeqTrainer, tmp_path, diversity=DiversityConfig(gamma=1.0))
    plain = make(Seq2SeqTrainer, tmp_path)
    assert (diverse.predict(Pairs()).predictions == plain.predict(Pairs()).predictions).all()
    diverse.train()
    record = next(r for r in diverse.state.log_history if "loss" in r)
    assert record["loss"] == pytest.approx(record["task_loss"] + 0.01 * record["diversity"], rel=1e-5)
    assert "eval_diversity" in diverse.evaluate()  # nothing is generated where there are no metrics
    diverse.compute_metrics = plain.compute_metrics = first_token
    plain.model.load_state_dict(diverse.model.state_dict())
    metrics = diverse.evaluate()
    assert "eval_diversity" not in metrics  # the loss of a generating evaluation does not go through compute_loss
    assert metrics["eval_first"] == plain.evaluate()["eval_first"] and metrics["eval_loss"] > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in diverse.model.modules())
