"""A tokenizer, texts and models of text that the recipe tests share; all made here, all tiny."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

GOOD, BAD = ["fine", "great", "lovely", "warm"], ["dull", "awful", "weak", "cold"]
OTHER = ["the", "a", "film", "plot", "cast", "was", "and", "very", "in", "it"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def tiny_tokenizer(end=None):
    """Whole words; [CLS] text [SEP] like BERT's or, with an end token, nothing around the text like GPT-2's."""
    words = [*SPECIAL, *([end] if end else []), *GOOD, *BAD, *OTHER]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token=end)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def bert_folder(path):
    """A pretrained encoder with its tokenizer; no dropout, so that runs can be compared."""
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        initializer_range=0.2, **SIZES,
    )  # fmt: skip
    torch.manual_seed(0)  # fixtures of a module come before each test's own seed
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def sentences(size, seed):
    """Sentences with one telling word, and whether it is a good one."""
    random = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    words = [random.choice(GOOD if label else BAD) for label in labels]
    texts = [" ".join(random.permutation([word, *random.choice(OTHER, size=random.integers(3, 9))])) for word in words]
    return texts, labels.tolist()


def text_folder(path, train=96, test=30):
    """Sentences in the layout of the Hub: `sentence` and a named `label`."""
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    (path / "data").mkdir(parents=True)
    for number, (split, size) in enumerate({"train": train, "test": test}.items()):
        texts, labels = sentences(size, number)
        table = datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)
        table.to_parquet(path / "data" / f"{split}-00000-of-00001.parquet")
    return path


def take_a_tensor_out(folder):
    """Leave the weights of a folder without one of attention's."""
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "attention" in name))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
