"""`SentenceTransformerTrainer`: the mixin before it; the samples are the embeddings of the texts of all columns.

python examples/by_feature/sentence_embeddings.py
"""

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from stand_ins import sentences, tokenizer
from transformers import BertConfig, BertModel

from hf_diversity import DiversityConfig, DiversityMixin


class DiversitySentenceTransformerTrainer(DiversityMixin, SentenceTransformerTrainer):
    """`SentenceTransformerTrainer` with the regulariser."""


def main() -> DiversitySentenceTransformerTrainer:
    """Train a tiny encoder on pairs of sentences, and print the parts of the last loss."""
    folder, words = "outputs/examples/encoder", tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    model = SentenceTransformer(modules=[models.Transformer(folder), models.Pooling(32)], device="cpu")
    trainer = DiversitySentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            "outputs/examples/sentence_embeddings", max_steps=5, per_device_train_batch_size=8, logging_steps=1,
            report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"anchor": sentences(40), "positive": sentences(40, seed=1)}),
        loss=losses.MultipleNegativesRankingLoss(model),
        diversity=DiversityConfig(diversity_weight=0.1),
    )  # fmt: skip
    trainer.train()
    last = [record for record in trainer.state.log_history if "task_loss" in record][-1]
    print({name: last[name] for name in ("loss", "task_loss", "diversity")})
    return trainer


if __name__ == "__main__":
    main()
