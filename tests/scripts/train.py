"""Run in one or more processes: train a small model by DiversityTrainer and print its log and its final weights.

Arguments: a JSON dict with `model` (a name in `MODELS`), `diversity` (DiversityConfig values), `size` and `eval_size`
of the data and further TrainingArguments.
"""

import json
import sys
import tempfile

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from launch import leave
from tiny import Branched, Mlp, Rows, Sentences, arguments, tiny_bert
from torch.distributed.tensor import DTensor

from hf_diversity import DiversityConfig, DiversityTrainer

MODELS = {"mlp": (Mlp, Rows), "branched": (Branched, Rows), "bert": (tiny_bert, Sentences)}


def shard_on_cpus():
    """accelerate shards on accelerators only, and silently replicates on CPUs, where its FSDP2 works as well."""
    start = AcceleratorState.__init__

    def shard(self, *args, fsdp_plugin=None, **kwargs):
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = shard


def main():
    settings = json.loads(sys.argv[1])
    if "fsdp" in settings:
        shard_on_cpus()
    model, data = MODELS[settings.pop("model")]
    size, eval_size = settings.pop("size", 64), settings.pop("eval_size", 22)
    diversity = DiversityConfig(**settings.pop("diversity"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = DiversityTrainer(
            model=model(), args=arguments(folder, eval_strategy="epoch", **settings), train_dataset=data(size),
            eval_dataset=data(eval_size, seed=7), diversity=diversity,
        )  # fmt: skip
        trainer.train()
    parameters = dict(trainer.model.named_parameters())
    sharded = [name for name, value in parameters.items() if isinstance(value, DTensor)]
    # A sharded parameter is put together by all processes
    state = {name: value.full_tensor() if isinstance(value, DTensor) else value
             for name, value in trainer.model.state_dict().items()}  # fmt: skip
    if trainer.is_world_process_zero():
        final = {name: value.flatten().tolist() for name, value in state.items()}
        print(
            "RESULT "
            + json.dumps(
                {"history": trainer.state.log_history, "weights": final, "sharded": len(sharded) / len(parameters)}
            ),
            flush=True,
        )
    leave(trainer.accelerator)


if __name__ == "__main__":
    main()
