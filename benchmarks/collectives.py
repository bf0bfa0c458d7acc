"""The collectives of one optimiser step: by a formula, and counted in several gloo processes.

    torchrun --nproc_per_node 2 benchmarks/collectives.py      # prints both, exits with 1 where they differ

Every collective is an all-reduce of what is given here, for activations in float32 or narrower, which are added up in
float32. Nothing depends on the number of samples or of processes.
"""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import PrinterCallback, TrainingArguments

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.bandwidth import _BINS, _EVERY, _FIRST_STEPS
from hf_diversity.registry import COVARIANCE_MEASURES, SIMILARITY_MEASURES, WEIGHT_MEASURES
from hf_diversity.regularizer import DiversityRegularizer

FLOAT, WIDE = 4, 8  # float32; float64 and int64
CALLS = ("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "broadcast", "reduce", "gather",
         "reduce_scatter", "reduce_scatter_tensor", "all_to_all", "broadcast_object_list")  # fmt: skip


def statistic(measure, units):
    """Numbers in the statistic of a layer of D units."""
    if measure in COVARIANCE_MEASURES:
        return (1 + units) * units
    return {"none": 0, "direct": 1}.get(measure, units**2)


def measures_gamma(config, step):
    """Whether gamma is measured in this step (0 is the first)."""
    follows = config.gamma == "median" and config.measure in SIMILARITY_MEASURES
    return follows and (step < _FIRST_STEPS or step % _EVERY == 0)


def of_micro_batch(config, units, step):
    """Bytes of each collective of one micro-batch, in order: forward pass, then backward pass.

    Args:
        config: of the regulariser.
        units: D of each layer.
        step: optimiser steps done before.
    """
    if config.sync == "local" or config.measure in WEIGHT_MEASURES:
        return []
    found = [len(units) * _BINS * WIDE] if measures_gamma(config, step) else []  # all layers in one
    follows_scale = config.scale_invariant and config.diversity_weight > 0
    for width in units:
        is_covariance = config.measure in COVARIANCE_MEASURES
        if is_covariance:
            found.append((width + 1) * FLOAT)  # the shift, and the count
        if follows_scale:
            found.append(FLOAT)
        found.append((1 + statistic(config.measure, width) + 1) * FLOAT)  # P, the statistic, the count
        if is_covariance:
            found.append(FLOAT)  # samples
    return found + [FLOAT] * len(units) * follows_scale


def of_step(config, units, step, micro_batches=1):
    """Bytes of each collective of an optimiser step of `DiversityTrainer`, in order."""
    found = []
    is_global = config.sync == "global" and config.measure not in WEIGHT_MEASURES
    if micro_batches > 1 and is_global:
        found.append((2 + 2 * len(units)) * micro_batches * WIDE)  # the samples of the window
        if step == 0 and measures_gamma(config, step):
            found.append(len(units) * _BINS * WIDE)  # gamma of the first step, from the whole window
    found += of_micro_batch(config, units, step) * micro_batches
    return found + ([FLOAT] if config.on_nonfinite == "skip" else [])


def of_log_record(config, units):
    """Bytes of the collective of a record in the log."""
    per_layer = len(units) if len(units) > 1 else 0
    keys = 1 + (config.measure not in WEIGHT_MEASURES)  # task loss, P
    keys += (config.measure != "none") * (1 + per_layer)
    keys += len(units) if config.measure in SIMILARITY_MEASURES else 0
    return [keys * FLOAT]


def of_evaluation(config, units):
    """Bytes of each collective of an evaluation after training, whatever the number of its batches."""
    if config.measure in WEIGHT_MEASURES:
        return []
    found = []
    if config.measure in COVARIANCE_MEASURES:  # of the first batch: whether there are samples, the shift
        found += [n for width in units for n in (WIDE, (width + 1) * FLOAT)]
    for width in units:  # the count, P, the statistic
        numbers = [1, 1, statistic(config.measure, width)]
        found += [n * WIDE for n in numbers if n]
    return found


# ---- counting


@contextlib.contextmanager
def counted():
    """Collect the bytes of the collectives that the package calls, in order."""
    seen, kept = [], {name: getattr(dist, name) for name in CALLS}

    def wrapped(name):
        def call(first, *others, **options):
            if sys._getframe(1).f_globals["__name__"].startswith("hf_diversity"):
                assert name == "all_reduce", f"the formula knows all-reduces alone, and {name} was called"
                seen.append(first.numel() * first.element_size())
            return kept[name](first, *others, **options)

        return call

    for name in CALLS:
        setattr(dist, name, wrapped(name))
    try:
        yield seen
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)


UNITS = (24, 40)
STEPS = (0, 1, _FIRST_STEPS - 1, _FIRST_STEPS, _FIRST_STEPS + 1)
CONFIGS = [
    {"measure": "direct", "gamma": 1.0},
    {"measure": "direct"},
    {"measure": "direct", "scale_invariant": True, "activation_weight": 0.1},
    {"measure": "direct", "max_samples": 8},
    {"measure": "direct", "sync": "local"},
    {"measure": "det", "gamma": 1.0},
    {"measure": "logdet"},
    {"measure": "decov"},
    {"measure": "vcreg"},
    {"measure": "correlation"},
    {"measure": "none", "activation_weight": 0.1},
]
IN_TRAINER = [CONFIGS[i] for i in (1, 2, 4, 6, 7)]


def compare_regularizer(config):
    """Formula and count of single micro-batches with their backward passes, the processes with unequal samples."""
    regularizer = DiversityRegularizer(config)
    torch.manual_seed(dist.get_rank())
    expected, found = [], []
    for step in STEPS:
        samples = 6 + dist.get_rank()
        rows = {f"layer{w}": torch.randn(samples, w, requires_grad=True) for w in UNITS}
        with counted() as seen:
            regularizer(rows, step).penalty.backward()
        expected.append(of_micro_batch(config, UNITS, step))
        found.append(seen)
    return expected, found


class _Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, UNITS[0]), nn.Linear(UNITS[0], UNITS[1])
        self.head = nn.Linear(UNITS[1], 3)

    def forward(self, x, labels=None):
        logits = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def compare_trainer(config):
    """Formula and count of two optimiser steps of two micro-batches with a record each, and of an evaluation."""
    data = [{"x": torch.randn(4), "labels": i % 3} for i in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=2, gradient_accumulation_steps=2, per_device_train_batch_size=4, logging_steps=1,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, log_level="error",
        )  # fmt: skip
        trainer = DiversityTrainer(_Network(), arguments, train_dataset=data, eval_dataset=data[:20], diversity=config)
        trainer.remove_callback(PrinterCallback)
        with counted() as seen:
            trainer.train()
            trainer.evaluate()
    expected = [n for step in (0, 1) for n in of_step(config, UNITS, step, 2) + of_log_record(config, UNITS)]
    return expected + of_evaluation(config, UNITS), seen


def wire(numbers=2**20):
    """What all processes together sent over the loopback device in one all-reduce, and 2 (P - 1) times its payload."""

    def sent():
        lines = Path("/proc/net/dev").read_text().splitlines()
        return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:"))

    payload = torch.ones(numbers)
    dist.barrier()
    before = sent()
    dist.barrier()
    dist.all_reduce(payload)
    dist.barrier()
    return 2 * (dist.get_world_size() - 1) * numbers * FLOAT, sent() - before


def main():
    """Compare every configuration, print a line for each from the first process; returns whether all agree."""
    right = True
    for settings in CONFIGS:
        config = DiversityConfig(**settings)
        pairs = {"regularizer": compare_regularizer(config)}
        if settings in IN_TRAINER:
            whole = DiversityConfig(**settings, layers=["first", "second"], on_nonfinite="skip")
            pairs["trainer"] = compare_trainer(whole)
        for what, (expected, found) in pairs.items():
            right &= expected == found
            if dist.get_rank() == 0:
                print("RESULT " + json.dumps({"what": what, **settings, "formula": expected, "counted": found}))
    if Path("/proc/net/dev").exists():
        expected, found = wire()
        if dist.get_rank() == 0:
            print("RESULT " + json.dumps({"what": "wire", "formula": expected, "counted": found}))
    return right


if __name__ == "__main__":
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    dist.init_process_group("gloo")
    status = 0 if main() else 1
    sys.stdout.flush()
    dist.barrier()
    os._exit(status)  # without destructors: that of torch 2.6's Gloo group can deadlock (pytorch#154976)
