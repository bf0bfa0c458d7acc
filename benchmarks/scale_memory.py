"""Peak memory of the regulariser in several gloo processes, for `scale.py`: a line for each case."""

import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from memory import _status

from hf_diversity import DiversityConfig
from hf_diversity.kernels.polynomials import release_memory
from hf_diversity.regularizer import DiversityRegularizer

# What, settings, N, D, whether later steps count (the first one measures gamma from every unit)
CASES = [
    ("`direct`", {"gamma": 1.0}, 1024, 2048, False),
    ('`direct`, `gamma="median"`, first step', {}, 1024, 2048, True),
    ('`direct`, `gamma="median"`, later', {}, 1024, 2048, False),
    ("`logdet`", {"measure": "logdet", "gamma": 1.0}, 8, 2048, False),
    ("`decov`", {"measure": "decov"}, 8, 2048, False),
]


def peak(settings, samples, units, first):
    """Bytes beside the activations at the peak of one micro-batch with its backward pass."""
    regularizer = DiversityRegularizer(DiversityConfig(**settings))
    rows = {"layer": torch.randn(samples, units, requires_grad=True)}

    def run(step):
        rows["layer"].grad = None
        regularizer(rows, step).penalty.backward()

    if first:
        DiversityRegularizer(DiversityConfig(**settings))(
            {"layer": torch.randn(8, units)}, 0
        )  # loads code, and tables
    else:
        for step in range(3):
            run(step)
    rows["layer"].grad = None
    release_memory()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(0 if first else 3)
    return _status("VmHWM") - before


def main():
    dist.init_process_group("gloo")
    for what, settings, samples, units, first in CASES:
        found = peak(settings, samples, units, first)
        matrix = settings.get("measure") in ("logdet", "decov")
        unit = units**2 if matrix else samples * units
        words = f"{found / unit:.1f} bytes x {'D^2' if matrix else 'N D'}"
        record = {"what": what, "samples": samples, "units": units, "peak": found, "in_words": words}
        if dist.get_rank() == 0:
            print("RESULT " + json.dumps(record), flush=True)
    sys.stdout.flush()
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
