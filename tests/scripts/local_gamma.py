"""Run in several processes: train with a gamma in each, resume, and print the state and weights of both at the end.

Argument: a folder.
"""

import json
import sys

from launch import leave
from tiny import Mlp, Rows, arguments

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.distributed import gather_objects


def train(folder, resume=None):
    """The state of the regulariser in each process, and the weights."""
    trainer = DiversityTrainer(
        model=Mlp(), train_dataset=Rows(48),
        args=arguments(folder, max_steps=6, save_strategy="steps", save_steps=3),
        diversity=DiversityConfig(diversity_weight=2.0, sync="local"),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    states = gather_objects(trainer._regularizer.state_dict(6))
    return trainer, {"states": states, "weights": [p.tolist() for p in trainer.model.parameters()]}


def main():
    folder = sys.argv[1]
    trainer, whole = train(folder)
    trainer, resumed = train(folder + "/resumed", folder + "/checkpoint-3")
    if trainer.is_world_process_zero():
        print("RESULT " + json.dumps([whole, resumed]), flush=True)
    leave(trainer.accelerator)


if __name__ == "__main__":
    main()
