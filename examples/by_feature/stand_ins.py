"""What stands in for your model and data in these examples: tiny networks, the embedded images, and a few words."""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from hf_diversity.data import load_embedded

torch.set_num_threads(1)  # networks as small as these gain nothing from more
GOOD, BAD = ["fine", "great", "lovely", "warm"], ["dull", "awful", "weak", "cold"]
WORDS = ["the", "a", "film", "plot", "cast", "was", "is", "and", "very", "not", *GOOD, *BAD]
SPECIAL = ["<pad>", "<eos>", "<unk>"]


def images(split: str, count: int) -> list[dict]:
    """The first `count` FashionMNIST images of a split, as the model's inputs."""
    rows = load_embedded()[split].shuffle(seed=0)[:count]
    pixels = [torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None] for image in rows["image"]]
    return [{"pixel_values": x, "labels": y} for x, y in zip(pixels, rows["label"], strict=True)]


def vision_transformer() -> ViTForImageClassification:
    """Two blocks of 32 units for grey images of 28 x 28 pixels; the same weights each time."""
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=28,
            patch_size=7, num_channels=1, num_labels=10,
        )
    )  # fmt: skip


def arguments(name: str, **changes) -> TrainingArguments:
    """A few steps on the CPU."""
    settings = {
        "per_device_train_batch_size": 32, "max_steps": 10, "learning_rate": 3e-3, "logging_steps": 5,
        "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(f"outputs/examples/{name}", **{**settings, **changes})


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words."""
    words = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    whole = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=32
    )


def sentences(count: int, seed: int = 0) -> list[str]:
    """Words in random order, 4 to 9 of them."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=draw.integers(4, 10))) for _ in range(count)]


def rated_sentences(count: int) -> list[dict]:
    """Sentences as the model's inputs, of which those with more good words than bad ones are of class 1."""
    texts = sentences(count)
    tokens = tokenizer()(texts, padding="max_length", max_length=10)
    scores = [sum((word in GOOD) - (word in BAD) for word in text.split()) for text in texts]
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": int(score > 0)}
        for ids, mask, score in zip(tokens["input_ids"], tokens["attention_mask"], scores, strict=True)
    ]


def bert_config() -> BertConfig:
    """Two blocks of 32 units over these words."""
    return BertConfig(
        vocab_size=len(SPECIAL + WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip


def text_classifier() -> BertForSequenceClassification:
    """BERT with two classes; the same weights each time."""
    torch.manual_seed(0)
    return BertForSequenceClassification(bert_config())
