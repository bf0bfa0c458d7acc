"""Half-precision autocast: the regulariser is computed wide, from the half-precision activations."""

import pytest
import torch
from tiny import Mlp, Rows, arguments, regularizer_gradient, stack

from hf_diversity import DiversityConfig, DiversityTrainer, functional


class Fp16OnCpu(DiversityTrainer):
    """Trainer refuses fp16=True on the CPU, where torch has the autocast all the same."""

    def compute_loss(self, *args, **kwargs):
        with torch.autocast("cpu", torch.float16):
            return super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize("measure", ["direct", "logdet"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_under_autocast_is_that_of_the_activations_made_wide(tmp_path, dtype, measure):
    data = [dict(row) for row in Rows(12)]
    config = DiversityConfig(
        measure=measure, gamma=0.7, diversity_weight=5.0, activation_weight=0.1, layers=["fc2"], jitter=1e-2
    )
    half = dtype == torch.bfloat16
    actual = regularizer_gradient(tmp_path, Mlp, data, config, cls=DiversityTrainer if half else Fp16OnCpu, bf16=half)
    model = Mlp()
    with torch.autocast("cpu", dtype):
        hidden = model.fc2(torch.tanh(model.fc1(stack(data)["x"])))
    assert hidden.dtype == dtype
    wide = hidden.double()
    value = {"direct": functional.direct, "logdet": lambda a, gamma: functional.logdet(a, gamma, jitter=1e-2)}[measure]
    penalty = 5.0 * value(wide, gamma=0.7) + 0.1 * wide.pow(2).sum(1).mean()
    penalty.backward()
    found = torch.cat([actual[name].flatten() for name, _ in model.named_parameters()])
    exact = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])
    # The layers' own backward passes round, with and without the task loss in the sum of gradients
    assert exact.norm() > 0.1
    assert (found - exact).norm() / exact.norm() < {torch.bfloat16: 0.02, torch.float16: 0.002}[dtype]


def test_bf16_logs_the_value_of_the_half_precision_activations(tmp_path):
    data, model = [dict(row) for row in Rows(12)], Mlp()
    trainer = DiversityTrainer(
        model=model, train_dataset=data, diversity=DiversityConfig(gamma=0.7, layers=["fc2"]),
        args=arguments(tmp_path, bf16=True, learning_rate=0.0, max_steps=1, per_device_train_batch_size=12),
    )  # fmt: skip
    trainer.train()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.fc2(torch.tanh(model.fc1(stack(data)["x"])))
    [record] = [r for r in trainer.state.log_history if "loss" in r]
    assert record["diversity"] == pytest.approx(functional.direct(hidden.double(), gamma=0.7).item(), rel=1e-5)
