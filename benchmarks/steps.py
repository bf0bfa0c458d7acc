"""The share of a real optimiser step: DiversityTrainer beside Trainer, and its regulariser by itself.

A step of 200 ms to 2 s varies by more than the regulariser costs, so the bar is on the regulariser alone (median
gamma, norm, J and the gradient, on the activations of a real forward pass), timed between the steps it is compared
with. The difference between whole steps is shown beside it, without a bar.
"""

import statistics
import tempfile
import time
from typing import NamedTuple

import torch
from report import Row
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_diversity import DiversityConfig, DiversityTrainer, functional
from hf_diversity.timm_models import wrap_timm_model


class Step(NamedTuple):
    """A model with a batch, the layer and how its positions become samples, and the bar in per cent."""

    name: str
    build: object
    layers: list | None
    samples: str
    at_most: float


def _images(model, size, batch):
    import timm

    kwargs = {"img_size": size, "patch_size": 8} if model.startswith("vit") else {}
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "pixel_values": torch.randn(batch, 3, size, size, generator=generator),
        "labels": torch.randint(10, (batch,), generator=generator),
    }
    network = timm.create_model(model, num_classes=10, **kwargs)
    return wrap_timm_model(network, model_args=kwargs or None), inputs


def _bert():
    config = BertConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.randint(5, 30000, (16, 128), generator=generator),
        "attention_mask": torch.ones(16, 128, dtype=torch.long),
        "labels": torch.randint(2, (16,), generator=generator),
    }
    return BertForSequenceClassification(config), inputs


VIT = "vit_tiny_patch16_224"
STEPS = [
    Step("resnet18 32 px, pooled 64x512", lambda: _images("resnet18", 32, 64), None, "pooled", 1),
    Step(
        "resnet18 64 px, layer3 1024x256", lambda: _images("resnet18", 64, 64), ["timm_model.layer3"], "positions", 2
    ),
    Step("ViT-tiny, pooled 64x192", lambda: _images(VIT, 64, 64), ["timm_model.blocks.11"], "pooled", 1),
    Step("ViT-tiny, tokens 4160x192", lambda: _images(VIT, 64, 64), ["timm_model.blocks.11"], "positions", 2),
    Step("ViT-tiny, MLP 4160x768", lambda: _images(VIT, 64, 64), ["timm_model.blocks.11.mlp.act"], "positions", 5),
    Step("BERT 4x256, tokens 2048x256", _bert, ["bert.encoder.layer.3"], "positions", 2),
    Step("BERT 4x256, FFN 2048x1024", _bert, ["bert.encoder.layer.3.intermediate"], "positions", 5),
]


class _Runner:
    """Optimiser steps of one trainer on one batch."""

    def __init__(self, trainer, inputs):
        self.trainer, self.inputs = trainer, inputs
        trainer.model.train()
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1  # what train() sets

    def __call__(self):
        start = time.process_time()
        self.trainer.training_step(self.trainer.model, dict(self.inputs))
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()
        self.trainer.state.global_step += 1  # the very first step estimates gamma from more distances than others
        return time.process_time() - start


def _rows(trainer, run):
    """Return the rows that the trainer gives its regulariser in `run`."""
    kept = {}

    class Recording(type(trainer._regularizer)):
        def __call__(self, rows, *others, **options):
            kept.update({name: values.detach() for name, values in rows.items()})
            return super().__call__(rows, *others, **options)

    kind = type(trainer._regularizer)
    trainer._regularizer.__class__ = Recording
    run()
    trainer._regularizer.__class__ = kind
    return kept


def _measure(step, rounds, folder):
    arguments = TrainingArguments(folder, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no")
    torch.manual_seed(0)
    model, inputs = step.build()
    torch.manual_seed(0)
    plain = _Runner(DiversityTrainer(model, arguments, diversity=_config(step, 0.0)), inputs)
    assert not plain.trainer.diversity.is_active
    base = _Runner(Trainer(plain.trainer.model, arguments), inputs)
    ours = _Runner(DiversityTrainer(plain.trainer.model, arguments, diversity=_config(step, 0.01)), inputs)
    ours()
    rows, regularizer = _rows(ours.trainer, ours), ours.trainer._regularizer
    parts = regularizer(rows, ours.trainer.state.global_step).layers
    gammas = {name: layer.gamma for name, layer in parts.items()}
    shape = "x".join(str(size) for size in next(iter(rows.values())).shape)
    assert step.name.endswith(shape), f"{step.name}: captured {shape}"

    def alone(number):
        leaves = {name: values.clone().requires_grad_() for name, values in rows.items()}
        start = time.process_time()
        regularizer(leaves, number).penalty.backward()
        return time.process_time() - start

    def kernel():
        name, values = next(iter(rows.items()))
        leaf, gamma = values.clone().requires_grad_(), gammas[name]
        start = time.process_time()
        functional.direct(leaf, gamma).backward()
        return time.process_time() - start

    times = {"base": [], "off": [], "ours": [], "measured": [], "others": [], "kernel": []}
    for number in range(1000, 1000 + rounds):  # gamma is measured in every fourth step, the multiples of 4
        for name, run in (("base", base), ("off", plain), ("ours", ours)):
            times[name].append(run())
        times["others" if number % 4 else "measured"].append(alone(number))
        times["kernel"].append(kernel())
    median = {name: statistics.median(values) for name, values in times.items()}
    alone_share = (median["measured"] + 3 * median["others"]) / 4 / median["base"]
    return [
        Row(f"{step.name}: step of Trainer", 1e3 * median["base"], "ms"),
        Row(f"{step.name}: regulariser / step", 100 * alone_share, "%", step.at_most),
        Row(f"{step.name}: of that, Direct and its gradient", 100 * median["kernel"] / median["base"], "%"),
        Row(f"{step.name}: whole step over Trainer's", _paired(times["ours"], times["base"]), "%"),
        Row(f"{step.name}: whole step with weights 0 over Trainer's", _paired(times["off"], times["base"]), "%"),
    ]


def _paired(times, base):
    return 100 * statistics.median([a / b - 1 for a, b in zip(times, base, strict=True)])


def _config(step, weight):
    return DiversityConfig(layers=step.layers, samples=step.samples, diversity_weight=weight)


def shares(rounds):
    """Rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        return [row for step in STEPS for row in _measure(step, rounds, folder)]
