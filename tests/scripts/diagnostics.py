"""Run in several processes: diagnostics of unequal shares. Prints them as JSON, with exact and counted quantiles."""

import json
import sys

import torch
from accelerate import Accelerator
from launch import leave

from hf_diversity.diagnostics import DiagnosticsMeter


def main():
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    rows = (torch.randn(40, 6) @ torch.randn(6, 6)).double()
    rows[:, 2] = 1.5
    start, end = ((0, 27), (27, 40))[accelerator.process_index]
    mine = rows[start:end]
    for meter in (DiagnosticsMeter({"layer": 0.3}), DiagnosticsMeter({"layer": 0.3}, exact_samples=20)):
        for batch in (mine[:5], mine[5:9], mine[9:] if accelerator.process_index == 0 else mine[9:9]):
            meter.update({"layer": batch})
        found = meter.compute()["layer"].to_dict()
        if accelerator.is_main_process:
            print("RESULT " + json.dumps(found))
    leave(accelerator)


def seen():
    """The rows that both processes see."""
    torch.manual_seed(0)
    rows = (torch.randn(40, 6) @ torch.randn(6, 6)).double()
    rows[:, 2] = 1.5
    return torch.cat([rows[:27], rows[27:36]])


if __name__ == "__main__":
    sys.exit(main())
