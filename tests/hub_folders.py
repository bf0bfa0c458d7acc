"""Folders that stand in for data sets and models of the Hub: they have its ids, splits and columns, and are tiny.

In the folder that holds them a Hub id is a path, and a path is taken before the Hub is asked.
"""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_text_folders import SIZES, sentences, text_folder, tiny_tokenizer
from transformers import BertConfig, BertForMaskedLM, BertModel, DistilBertConfig, DistilBertModel

EXAMPLES = {"train": 100, "test": 40}
HELD_OUT = {"train": 240, "validation": 60, "test": 60}  # of data sets with a validation split
# Hub id: columns of image and classes, width, channels, splits
IMAGES = {
    "uoft-cs/cifar10": ("img", ["label"], 32, 3, EXAMPLES),
    "uoft-cs/cifar100": ("img", ["fine_label", "coarse_label"], 32, 3, EXAMPLES),
    "zalando-datasets/fashion_mnist": ("image", ["label"], 28, 1, EXAMPLES),
    "ILSVRC/imagenet-1k": ("image", ["label"], 80, 3, HELD_OUT),
    "data/cifar10": ("img", ["label"], 32, 3, EXAMPLES),
}
CLASSES = datasets.ClassLabel(names=[f"class {number}" for number in range(10)])


def make_hub(root):
    """Make all of them in `root`."""
    for name, described in IMAGES.items():
        _images(root / name, *described)
    _image_folder(root / "data" / "shapes")
    _glue(root / "nyu-mll" / "glue")
    _wikitext(root / "Salesforce" / "wikitext")
    text_folder(root / "data" / "vader_movie", **EXAMPLES)
    _reviews(root / "data" / "reviews")
    _models(root)


def _images(folder, column, labels, width, channels, splits):
    random = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    for split, size in splits.items():
        pictures = []
        for number in range(size):
            pixels = random.integers(0, 200, (width, width, channels), dtype=np.uint8) + 5 * (number % 10)
            bytes_of = io.BytesIO()
            Image.fromarray(pixels.squeeze()).save(bytes_of, "PNG")
            pictures.append({"bytes": bytes_of.getvalue(), "path": None})
        table = {column: pictures, **dict.fromkeys(labels, [number % 10 for number in range(size)])}
        features = datasets.Features({column: datasets.Image(), **dict.fromkeys(labels, CLASSES)})
        made = datasets.Dataset.from_dict(table, features=features)
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def _image_folder(folder):
    """Files by split and class, of several sizes."""
    random = np.random.default_rng(0)
    for split, size in EXAMPLES.items():
        for number in range(size):
            path = folder / split / ("circle", "square")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (28 + number % 3, 32, 3), dtype=np.uint8)).save(path)


def _write_configurations(folder, tables):
    """Tables by configuration and split, and the metadata that tell one from the other."""
    lines = ["---", "configs:"]
    for config, splits in tables.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, table in splits.items():
            (folder / config).mkdir(parents=True, exist_ok=True)
            table.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def _glue(folder):
    """One sentence (sst2) or two (rte); the labels of the test split are hidden."""
    label = datasets.ClassLabel(names=["negative", "positive"])
    tables = {}
    for config, columns in {"sst2": ["sentence"], "rte": ["sentence1", "sentence2"]}.items():
        features = datasets.Features(
            {**dict.fromkeys(columns, datasets.Value("string")), "label": label, "idx": datasets.Value("int32")}
        )
        tables[config] = {}
        for split, size in HELD_OUT.items():
            texts, labels = sentences(size, seed=len(split))
            found = labels if split != "test" else [-1] * size
            values = {**dict.fromkeys(columns, texts), "label": found, "idx": list(range(size))}
            tables[config][split] = datasets.Dataset.from_dict(values, features=features)
    _write_configurations(folder, tables)


def _wikitext(folder):
    """Lines of text, each of some 60 words, and empty ones between them."""
    splits = {}
    for split, size in HELD_OUT.items():
        texts, _ = sentences(10 * size, seed=len(split))
        lines = [" ".join(texts[first : first + 10]) for first in range(0, 10 * size, 10)]
        splits[split] = datasets.Dataset.from_dict({"text": [text for line in lines for text in ("", f" {line}\n")]})
    _write_configurations(folder, {"wikitext-2-raw-v1": splits})


def _reviews(folder):
    folder.mkdir(parents=True)
    for split, size in EXAMPLES.items():
        texts, labels = sentences(size, seed=len(split))
        verdicts = ["good" if label else "bad" for label in labels]
        datasets.Dataset.from_dict({"review": texts, "verdict": verdicts}).to_csv(folder / f"{split}.csv")


def _models(root):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    bert = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=160, **SIZES)
    small = DistilBertConfig(vocab_size=len(tokenizer), max_position_embeddings=160, dim=16, n_layers=1, n_heads=2,
                             hidden_dim=24)  # fmt: skip
    models = {
        "sentence-transformers/all-MiniLM-L6-v2": BertModel(bert),
        "data/minilm": BertModel(bert),
        "google-bert/bert-base-uncased": BertForMaskedLM(bert),
        "distilbert/distilbert-base-uncased": DistilBertModel(small),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    gpt2 = root / "openai-community" / "gpt2"
    tiny_tokenizer(end="<|endoftext|>").save_pretrained(gpt2)
    gpt2.joinpath("config.json").write_text(json.dumps({"model_type": "gpt2"}))
    weights = root / "data" / "efficientnet_lite0" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    save_file(timm.create_model("tf_efficientnet_lite0").state_dict(), weights)
