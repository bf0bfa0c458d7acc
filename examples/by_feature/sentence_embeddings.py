"""`SentenceTransformerTrainer`: the mixin before it; the samples are the embeddings of the texts of all columns.

python examples/by_feature/sentence_embeddings.py
"""

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses, modules
from stand_ins import bert_config, sentences, tokenizer
from transformers import BertModel

from hf_diversity import DiversityConfig, DiversityMixin


class DiversitySentenceTransformerTrainer(DiversityMixin, SentenceTransformerTrainer):
    """`SentenceTransformerTrainer` with the regulariser."""


def main() -> DiversitySentenceTransformerTrainer:
    """Train a tiny encoder on pairs of sentences, and print the parts of the last loss."""
    folder = "outputs/examples/encoder"
    torch.manual_seed(0)
    BertModel(bert_config()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    model = SentenceTransformer(modules=[modules.Transformer(folder), modules.Pooling(32)], device="cpu")
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
