"""Code for a card that loads a transformers model and, where its task is known, predicts with it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PREDICTS_TEXT = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
_FROM_TEXT = """
from transformers import pipeline

predict = pipeline({task!r}, model={source!r})
print(predict("A text."))
"""
_FROM_IMAGE = """
from PIL import Image
from transformers import pipeline

predict = pipeline("image-classification", model={source!r})
print(predict(Image.open("picture.png")))
"""
_LOAD = """
from transformers import {kind}

model = {kind}.from_pretrained({source!r})
"""


def usage_code(model: torch.nn.Module, processor: Any, source: str) -> str:
    """Python code for the card; none where transformers does not have the model's class.

    Args:
        model: as it was trained.
        processor: its tokenizer or image processor, which is published with it; None if there is none.
        source: a Hub id or a folder.
    """
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel) or not hasattr(transformers, kind):
        return ""
    task = next((task for end, task in _PREDICTS_TEXT.items() if kind.endswith(end)), None)
    # timm's models hold their processor in their configuration
    if kind == "TimmWrapperForImageClassification" or (
        kind.endswith("ForImageClassification") and processor is not None
    ):
        template = _FROM_IMAGE
    elif task and isinstance(processor, PreTrainedTokenizerBase):
        template = _FROM_TEXT
    else:
        template = _LOAD
    return template.strip().format(task=task, source=source, kind=kind)
