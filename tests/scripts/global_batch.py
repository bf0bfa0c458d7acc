"""Run by accelerate in several processes: the global-batch regulariser against one process on the whole batch.

Prints one JSON line per measure from the main process, with the largest differences in value and gradient.
"""

import json
import sys

import own_measures  # noqa: F401  # registers two
import torch
from accelerate import Accelerator
from launch import leave
from torch.nn.parallel import DistributedDataParallel

from hf_diversity import functional
from hf_diversity.config import DiversityConfig
from hf_diversity.distributed import mean_over_samples, text_of_process_zero, world_size
from hf_diversity.evaluation import DiversityMeter
from hf_diversity.measures import make_measure
from hf_diversity.registry import has_gamma
from hf_diversity.regularizer import DiversityRegularizer

GAMMAS = (0.7, "median", "scale")


def shards(total, processes):
    """Unequal shares of the batch: the first process has most."""
    sizes = [total // (2 * processes)] * processes
    sizes[0] += total - sum(sizes)
    return sizes


def main(sync="global", dtype=torch.float64):
    accelerator = Accelerator(cpu=True)
    rank, processes = accelerator.process_index, accelerator.num_processes
    assert world_size() == processes == int(sys.argv[1]), (world_size(), sys.argv)
    assert text_of_process_zero(None if rank else "of 0") == "of 0"
    assert text_of_process_zero("not of 0" if rank else None) is None
    torch.manual_seed(0)
    inputs = torch.randn(20, 6, dtype=dtype)
    start = sum(shards(20, processes)[:rank])
    mine = inputs[start : start + shards(20, processes)[rank]]
    for measure in ("direct", "det", "logdet", "decov", "vcreg", "correlation", "gram", "laplacian", "none"):
        for gamma in GAMMAS if has_gamma(measure) else ("median",):
            invariant = gamma == "scale"
            config = DiversityConfig(
                measure=measure, gamma="median" if invariant else gamma, scale_invariant=invariant,
                diversity_weight=2.0, activation_weight=0.3, jitter=0.1, sync=sync,
            )  # fmt: skip
            torch.manual_seed(1)
            layer = torch.nn.Linear(6, 5).to(dtype)
            regularizer = DiversityRegularizer(config)
            wrapped = DistributedDataParallel(layer)
            penalties, gradients = [], []
            for step in range(2):
                wrapped.zero_grad()
                output = regularizer({"layer": wrapped(mine * (step + 1))}, step)
                output.penalty.backward()
                penalties.append(output.penalty.item())
                gradients.append(layer.weight.grad.clone())
            meter = DiversityMeter(make_measure(config), lambda name, r=regularizer: r.current_gamma(name, 2))
            with torch.no_grad():
                meter.update({"layer": layer(mine)})
            measured = meter.compute()["layer"]

            # one process, the whole batch: the same code without a process group is a different path (no collective)
            alone = DiversityRegularizer(config)
            difference = [0.0, 0.0]
            reference = torch.nn.Linear(6, 5).to(dtype)
            reference.load_state_dict(layer.state_dict())
            with single_process():
                for step in range(2):
                    reference.zero_grad()
                    expected = alone({"layer": reference(inputs * (step + 1))}, step)
                    expected.penalty.backward()
                    difference[0] = max(difference[0], abs(expected.penalty.item() - penalties[step]))
                    difference[1] = max(difference[1], (reference.weight.grad - gradients[step]).abs().max().item())
                whole = DiversityMeter(make_measure(config), lambda name, r=alone: r.current_gamma(name, 2))
                with torch.no_grad():
                    whole.update({"layer": reference(inputs)})
                exact = whole.compute()["layer"]
            record = {
                "measure": measure,
                "gamma": gamma,
                "value": difference[0],
                "gradient": difference[1],
                "gradient_size": reference.weight.grad.abs().max().item(),
                "evaluation": abs((measured.diversity or 0.0) - (exact.diversity or 0.0)),
                "evaluation_norm": abs(measured.activation_norm - exact.activation_norm),
                "samples": measured.num_samples,
            }
            worst = [torch.tensor(record["value"]), torch.tensor(record["gradient"])]
            worst = [float(accelerator.reduce(w, "sum")) for w in worst]  # every process has to agree
            record["value"], record["gradient"] = worst
            if accelerator.is_main_process:
                print("RESULT " + json.dumps(record), flush=True)

    # rows that were drawn from more samples count for all of those
    torch.manual_seed(2)
    drawn = torch.randn(20, 5, dtype=dtype)[start : start + len(mine)][:2]
    config = DiversityConfig(gamma=0.7, diversity_weight=1.0, sync=sync)
    output = DiversityRegularizer(config)({"layer": drawn}, 0, counts={"layer": len(mine)})
    parts = torch.stack([len(mine) * functional.direct(drawn, gamma=0.7), torch.tensor(float(len(mine)), dtype=dtype)])
    total, count = accelerator.reduce(parts, "sum")
    torch.testing.assert_close(output.penalty, total / count)

    # a process without any sample takes part
    values = torch.ones(3, requires_grad=True)
    [mean] = mean_over_samples([values * (rank + 1)], 4 if rank == 0 else 0)
    mean.sum().backward()
    assert torch.equal(mean, torch.ones(3)), mean
    assert torch.equal(values.grad, torch.full((3,), float(processes if rank == 0 else 0))), values.grad
    [mean] = mean_over_samples([torch.tensor(float("nan") if rank else 5.0)], 0 if rank else 4)  # of no sample
    assert mean == 5
    leave(accelerator)


class single_process:
    """Make the package believe that there is one process."""

    def __enter__(self):
        import hf_diversity.distributed as module

        self.module, self.original = module, module.dist.is_initialized
        module.dist.is_initialized = lambda: False

    def __exit__(self, *error):
        self.module.dist.is_initialized = self.original


if __name__ == "__main__":
    main(*sys.argv[2:3])
