"""TRL's `SFTTrainer`: the mixin before it; the samples are the real tokens, padded or packed.

python examples/by_feature/trl_sft.py
"""

import torch
from datasets import Dataset
from stand_ins import sentences, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from hf_diversity import DiversityConfig, DiversityMixin


class DiversitySFTTrainer(DiversityMixin, SFTTrainer):
    """`SFTTrainer` with the regulariser."""


def main() -> DiversitySFTTrainer:
    """Train a tiny language model on a few sentences, and print the parts of the last loss."""
    words = tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=32, pad_token_id=words.pad_token_id,
            bos_token_id=None, eos_token_id=words.eos_token_id,
        )
    )  # fmt: skip
    trainer = DiversitySFTTrainer(
        model=model,
        args=SFTConfig(
            "outputs/examples/trl_sft", max_steps=5, per_device_train_batch_size=8, logging_steps=1, max_length=None,
            bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"text": sentences(40)}),
        processing_class=words,
        diversity=DiversityConfig(layers=["model.layers.*"]),
    )  # fmt: skip
    trainer.train()
    last = [record for record in trainer.state.log_history if "task_loss" in record][-1]
    print({name: value for name, value in last.items() if name.startswith(("loss", "task_loss", "diversity"))})
    return trainer


if __name__ == "__main__":
    main()
