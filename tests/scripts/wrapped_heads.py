"""The last hidden layers of models as they are, and inside DDP, FSDP2 and torch.compile; printed as JSON."""

import json

import timm
import torch
from accelerate import Accelerator
from architectures import tiny_transformer
from launch import leave
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hf_diversity.output_head import find_last_hidden_layers
from hf_diversity.timm_models import wrap_timm_model

MODELS = {
    "timm": lambda: wrap_timm_model(timm.create_model("test_resnet", num_classes=5)),
    "raw timm": lambda: timm.create_model("test_vit", num_classes=5),
    **{
        name: lambda name=name: tiny_transformer(name)
        for name in (
            "BertForSequenceClassification",
            "DistilBertForSequenceClassification",
            "GPT2LMHeadModel",
            "T5ForConditionalGeneration",
            "DeiTForImageClassificationWithTeacher",
            "CLIPModel",
        )
    },
}
WRAPPERS = {
    "ddp": DistributedDataParallel,
    "fsdp2": lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (1,))),
    "compile": lambda model: torch.compile(model, backend="eager"),
    "ddp of compile": lambda model: DistributedDataParallel(torch.compile(model, backend="eager")),
}


def found(model):
    return [(target.name, target.point) for target in find_last_hidden_layers(model)]


def main():
    accelerator = Accelerator(cpu=True)
    for name, build in MODELS.items():
        record = {"model": name}
        for how, wrap in WRAPPERS.items():
            if how == "fsdp2" and name == "CLIPModel":
                continue  # torch refuses to shard its scalar parameter
            model = build()
            record["bare"] = found(model)  # first, as trainers do: what is sharded cannot be watched
            record[how] = found(wrap(model))
        print("RESULT " + json.dumps(record))
    leave(accelerator)


if __name__ == "__main__":
    main()
