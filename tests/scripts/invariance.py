"""Train one model in several ways that must give one trajectory; also run in several processes.

Arguments: a JSON list of ways, each a dict with `kind` ("plain" | "items" | "loss_func" | "smoothing"), `accumulate`,
further TrainingArguments and `diversity`, values of DiversityConfig; the number of processes. Prints the weights after
every step, and the log, of each way.
"""

import json
import sys
import tempfile

import torch
from accelerate import Accelerator
from launch import leave
from tiny import Mlp, Rows, arguments
from torch.nn.functional import cross_entropy
from transformers import PretrainedConfig, TrainerCallback

from hf_diversity import DiversityConfig, DiversityTrainer

GLOBAL_BATCH = 16


class MlpOfItems(Mlp):
    """Normalises its own loss by the number of items of the whole step, as language models do."""

    def forward(self, x, labels=None, num_items_in_batch=None):
        output = super().forward(x)
        if labels is not None:
            total = cross_entropy(output["logits"], labels, reduction="sum")
            output = {"loss": total / (len(labels) if num_items_in_batch is None else num_items_in_batch), **output}
        return output


def loss_func(outputs, labels, num_items_in_batch=None):
    total = cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class Trajectory(TrainerCallback):
    """All weights after every step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(torch.cat([p.detach().flatten() for p in model.parameters()]).tolist())


def train(way, folder, processes=1, dtype=torch.float64, **diversity):
    """Weights after every optimiser step, and the log."""
    way = dict(way)
    kind, accumulate = way.pop("kind"), way.pop("accumulate")
    diversity = {"diversity_weight": 0.3, "activation_weight": 0.05, **way.pop("diversity", {}), **diversity}
    model = (MlpOfItems if kind == "items" else Mlp)().to(dtype)
    model.config = PretrainedConfig()  # Trainer looks into it for label smoothing
    data = Rows(64)
    data.x = data.x.to(dtype)
    trajectory = Trajectory()
    settings = {
        "per_device_train_batch_size": GLOBAL_BATCH // (accumulate * processes), "max_steps": 6,
        "gradient_accumulation_steps": accumulate, "label_smoothing_factor": 0.2 * (kind == "smoothing"), **way,
    }  # fmt: skip
    trainer = DiversityTrainer(
        model=model, args=arguments(folder, **settings), train_dataset=data, callbacks=[trajectory],
        compute_loss_func=loss_func if kind == "loss_func" else None,
        diversity=DiversityConfig(**diversity),
    )  # fmt: skip
    trainer.train()
    assert trainer.accelerator.num_processes == processes
    return trajectory.steps, trainer.state.log_history


def main():
    ways, processes = json.loads(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(way, folder, processes) for way in ways]
    if torch.distributed.get_rank() == 0:
        print("RESULT " + json.dumps(runs), flush=True)
    leave(Accelerator(cpu=True))


if __name__ == "__main__":
    main()
