"""Small models, data and arguments that the trainer tests share."""

from __future__ import annotations

import copy
import json
import pickle

import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments

from hf_diversity import DiversityConfig, DiversityTrainer


class Rows(Dataset):
    """Random inputs and labels, the same for the same seed; every item a dict."""

    def __init__(self, size=16, features=6, classes=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, features, generator=generator)
        self.labels = torch.randint(classes, (size,), generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": self.labels[index]}


class Mlp(nn.Module):
    """Two hidden layers; the last one is named by `fc2`, its activation by `act2`."""

    def __init__(self, features=6, width=8, classes=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.fc1 = nn.Linear(features, width)
        self.fc2 = nn.Linear(width, width)
        self.act2 = nn.Tanh()
        self.out = nn.Linear(width, classes)

    def forward(self, x, labels=None):
        hidden = self.act2(self.fc2(torch.tanh(self.fc1(x))))
        logits = self.out(hidden)
        output = {"logits": logits}
        if labels is not None:
            output = {"loss": nn.functional.cross_entropy(logits, labels), **output}
        return output


class Branched(Mlp):
    """An Mlp with a layer `side` that the loss does not see."""

    def __init__(self, features=6, width=8, classes=3, seed=0):
        super().__init__(features, width, classes, seed)
        self.side = nn.Linear(features, width)

    def forward(self, x, labels=None):
        self.side(x)
        return super().forward(x, labels)


class Images(Dataset):
    """Random images and labels."""

    def __init__(self, size=16, channels=1, pixels=32, classes=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(size, channels, pixels, pixels, generator=generator)
        self.labels = torch.randint(classes, (size,), generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


class Sentences(Dataset):
    """Random token ids with padding and labels."""

    def __init__(self, size=16, length=10, vocabulary=50, classes=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(5, vocabulary, (size, length), generator=generator)
        self.lengths = torch.randint(3, length + 1, (size,), generator=generator)
        self.labels = torch.randint(classes, (size,), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        mask = (torch.arange(self.ids.shape[1]) < self.lengths[index]).long()
        return {"input_ids": self.ids[index] * mask, "attention_mask": mask, "labels": self.labels[index]}


def tiny_bert(dropout=0.0, **kwargs):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, num_labels=3, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        **kwargs,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def tiny_timm(name="test_vit", **kwargs):
    torch.manual_seed(0)
    arguments = {"num_classes": 4, "in_chans": 1, **({"img_size": 32} if "vit" in name else {}), **kwargs}
    return timm.create_model(name, **arguments)


def timm_folder(folder):
    """A folder as timm writes it: config.json with `architecture` and no model_type, weights under timm's names."""
    model = tiny_timm("test_resnet", in_chans=3)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 4, "pretrained_cfg": model.pretrained_cfg}
    (folder / "config.json").write_text(json.dumps(config, default=list))
    return folder, model


def arguments(path, **kwargs):
    """TrainingArguments for a few deterministic CPU steps."""
    defaults = {
        "output_dir": str(path), "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 4,
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "seed": 3,
    }  # fmt: skip
    return TrainingArguments(**{**defaults, **kwargs})


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def regularizer_gradient(path, make, data, diversity, cls=DiversityTrainer, **kwargs):
    """What the regulariser adds to each parameter's gradient: Trainer's weights minus ours after one step at rate 1.

    All of `data` is one batch, so its order does not matter.
    """
    settings = {"max_steps": 1, "learning_rate": 1.0, "per_device_train_batch_size": len(data), **kwargs}
    finals = []
    for config in (DiversityConfig(diversity_weight=0.0), diversity):
        trainer = cls(model=make(), args=arguments(path, **settings), train_dataset=data, diversity=config)
        trainer.train()
        finals.append(dict(trainer.model.named_parameters()))
    return {name: (before - finals[1][name]).detach() for name, before in finals[0].items()}


def assert_gradient(actual, penalty, model, rtol=1e-4, atol=2e-6):
    """`actual` is the gradient of `penalty`, computed apart, with respect to the parameters of `model`."""
    penalty.backward()
    expected = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    assert max(g.abs().max() for g in expected.values()) > 1e3 * atol
    assert_same(actual, expected, rtol=rtol, atol=atol)


def stack(data):
    """All items as one batch, without the labels."""
    return {key: torch.stack([item[key] for item in data]) for key in data[0] if key != "labels"}


class Probe(TrainerCallback):
    """Looks at the model between steps."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        self.seen.append((hooks, copy.deepcopy(model), pickle.dumps(model)))
