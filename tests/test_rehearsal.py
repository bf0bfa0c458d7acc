"""Forward passes that leave no trace."""

import random

import numpy as np
import pytest
import torch
from tiny import Images, arguments, assert_same, tiny_timm, weights
from torch import nn

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.bandwidth import MedianGamma
from hf_diversity.rehearsal import rehearsal
from hf_diversity.timm_models import wrap_timm_model


class Careless(nn.Module):
    """Draws from every random state, keeps running statistics, and puts a new tensor in the place of a buffer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("counter", torch.zeros(()))

    def forward(self, x):
        self.counter = self.counter + 1
        noise = random.random() + np.random.rand() + torch.rand(())
        return self.norm(nn.functional.dropout(x, 0.5, self.training)) * noise


def test_random_states_buffers_and_modes_are_as_before():
    model = Careless().eval()
    model.norm.train()
    counter, before = model.counter, weights(model)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with rehearsal(model):
        assert model.training and not torch.is_grad_enabled()
        model(torch.randn(8, 4))
    assert_same(weights(model), before, rtol=0, atol=0)
    assert model.counter is counter
    assert not model.training and model.norm.training
    drawn = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert drawn == (random.random(), np.random.rand(), torch.rand(()).item())


def test_all_is_restored_after_an_error():
    model = Careless()
    before = weights(model)
    with pytest.raises(RuntimeError), rehearsal(model):
        model(torch.randn(8, 4))
        model(torch.randn(8, 5))
    assert_same(weights(model), before, rtol=0, atol=0)


def test_calibration_changes_nothing_but_gamma(tmp_path, monkeypatch):
    """Batch norm and dropout: the norm term alone sees the same passes with and without it."""
    runs = []
    for calibrated in (True, False):
        if not calibrated:
            monkeypatch.setattr(MedianGamma, "has_estimate", True)
        kwargs = {"drop_rate": 0.3}
        model = wrap_timm_model(tiny_timm("test_resnet", **kwargs), model_args={"in_chans": 1, **kwargs})
        trainer = DiversityTrainer(
            model=model, args=arguments(tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=4),
            train_dataset=Images(), diversity=DiversityConfig(diversity_weight=1e-12, activation_weight=0.01),
        )  # fmt: skip
        trainer.train()
        runs.append((weights(model), [r["gamma"] for r in trainer.state.log_history if "gamma" in r]))
    assert_same(runs[0][0], runs[1][0], rtol=0, atol=1e-9)
    assert runs[0][1][0] != runs[1][1][0]
