"""Code for a card that loads a transformers model and, where its task is known, predicts with it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PREDICTS_TEXT = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
_FROM_TEXT = """
from transformers import pipeline

model = {source}
predict = pipeline({task!r}, model=model)
print(predict({text!r}))
"""
_FROM_IMAGE = """
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = {source}
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForImageClassification.from_pretrained(folder).eval()
image = Image.open("picture.png").convert("{mode}")
logits = model(**processor(image, return_tensors="pt")).logits
print(model.config.id2label[logits.argmax(-1).item()])
"""
_LOAD = """
from transformers import {kind}

folder = {source}
model = {kind}.from_pretrained(folder)
"""


def usage_code(model: torch.nn.Module, processor: Any, source: str) -> str:
    """Python code for the card; none where transformers does not have the model's class.

    Args:
        model: as it was trained.
        processor: its tokenizer or image processor, which is published with it; None if there is none.
        source: a Hub id or a folder, as Python code.
    """
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel) or not hasattr(transformers, kind):
        return ""
    task = next((task for end, task in _PREDICTS_TEXT.items() if kind.endswith(end)), None)
    if _takes_pictures(model, processor):
        return image_usage(source)
    if task and isinstance(processor, PreTrainedTokenizerBase):
        text = f"A {processor.mask_token}." if task == "fill-mask" else "A text."
        return _FROM_TEXT.strip().format(task=task, source=source, text=text)
    return _LOAD.strip().format(source=source, kind=kind)


def image_usage(source: str, mode: str = "RGB") -> str:
    """Python code that classifies a picture.

    Args:
        source: a Hub id or a folder, as Python code.
        mode: what the picture is converted to, as Pillow calls it.
    """
    return _FROM_IMAGE.strip().format(source=source, mode=mode)


def is_timm(model: torch.nn.Module) -> bool:
    """Whether it is a classifier of timm, inside transformers' wrapper."""
    return type(model).__name__ == "TimmWrapperForImageClassification"


def _takes_pictures(model: PreTrainedModel, processor: Any) -> bool:
    """Whether it classifies pictures of three channels, and its processor comes with it."""
    if is_timm(model):  # its processor is in its configuration
        return bool((model.config.model_args or {}).get("in_chans", 3) == 3)
    channels = getattr(model.config, "num_channels", 3)
    return type(model).__name__.endswith("ForImageClassification") and processor is not None and channels == 3
