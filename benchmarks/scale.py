"""What the regulariser costs at many GPUs and large widths: the tables of docs/scale.md.

    python benchmarks/scale.py             # print the computed tables
    python benchmarks/scale.py --measure   # also measure on this CPU what can be (3 to 6 minutes)
    python benchmarks/scale.py --page      # write what was printed into docs/scale.md

Computed is what follows from the bytes of `collectives.py`, from counting the operations in the kernels, and from the
rates below. The rates are those of an H200 on paper and of a network that is assumed; none was measured here.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from collectives import of_evaluation, of_log_record, of_micro_batch, of_step
from torch.nn.functional import gelu

from hf_diversity import DiversityConfig, functional
from hf_diversity.bandwidth import estimate_gamma
from hf_diversity.kernels.chebyshev import reach
from hf_diversity.kernels.dispatch import estimated_cost

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
PROCESSES, MEASURES = (8, 256, 4096), ("direct", "logdet", "decov")
LAYERS = {4096: 32, 8192: 80, 16384: 126}  # of dense decoders of these widths: 6, 64 and 406 billion weights
# Per second
EXP2, FLOAT32, FLOAT32_MATMUL, FLOAT64, BYTES = 3.9e12, 3.0e13, 5e13, 3e13, 4.3e12
CALL = 90 * 6e-6  # the small operations around the kernels, at 6 us each
TRAINING = 4e14  # bfloat16 operations of the model's own step, 40 % of the peak
# An all-reduce: 2 log2(P) hops, and 2 (P - 1) / P times its bytes through each GPU's port
HOP, IN_NODE, BETWEEN_NODES = 6e-6, 300e9, 50e9
GPUS_A_NODE = 8


def all_reduce_seconds(size, processes):
    """Of `size` bytes over so many GPUs."""
    rate = IN_NODE if processes <= GPUS_A_NODE else BETWEEN_NODES
    return 2 * math.log2(processes) * HOP + 2 * (processes - 1) / processes * size / rate


def spread(units):
    """sqrt(gamma) times the range of a row of so many N(0, 1) activations at gamma = median."""
    largest = torch.special.ndtri(torch.tensor(1 - 0.5615 / units, dtype=torch.float64))
    return 2 * float(largest) / (2 * 0.6745)  # the median distance of two is 0.6745 sqrt(2)


def kernel_seconds(measure, samples, units):
    """Of value and gradient on one GPU, at gamma = median and for rows without large outliers."""
    elements = samples * units
    if measure == "direct":
        # Per element: 64 bytes in 13 passes; sine and cosine twice, 13 operations for each term of the series
        delta = reach(torch.float32)
        terms = math.ceil((spread(units) + delta) * delta / math.pi)  # as in `kernels.triton_direct`
        return CALL + elements * (64 / BYTES + (80 + 13 * terms) / FLOAT32)
    if measure == "logdet":  # S from half of the pairs, its gradient from all; Cholesky and inverse
        return CALL + 1.5 * elements * units / EXP2 + units**3 / FLOAT64
    return CALL + 3 * 2 * elements * units / FLOAT32_MATMUL  # three matrix products


def outlier_seconds(samples, units):
    """Of Direct where every row has an outlier beyond the series' 128 terms: all pairs, exactly."""
    return CALL + samples * units**2 / EXP2


def memory_bytes(measure, samples, units):
    """Kept for the backward pass, and the peak, beside the activations themselves."""
    elements, matrix = samples * units, units**2
    if measure == "direct":  # the gradient; an upcast copy, and 129 pairs of sums for each 1,024 units
        return 4 * elements, 8 * elements + 8 * 129 * samples * math.ceil(units / 1024)
    if measure == "logdet":  # the Cholesky factor in float64; averaged S, its copy and factor in float64
        return 8 * matrix, 20 * matrix + 4 * elements
    return 4 * elements + 8 * matrix, 4 * elements + 20 * matrix  # centred rows; moments, payload and copies


def step_seconds(units, tokens):
    """Of one process's tokens through a dense decoder of this width, forward and backward."""
    return 6 * 12 * units**2 * LAYERS[units] * tokens / TRAINING


# ---- tables


def _size(number):
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f} B"


def _time(seconds):
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def bytes_table():
    """What is summed over processes, by setting."""
    settings = [
        ("`direct`; `none` has 8 B", {"gamma": 1.0}),
        ("`direct`, gamma measured", {}),
        ("`direct`, `scale_invariant=True`, gamma measured", {"scale_invariant": True}),
        ("`det`, `logdet`", {"measure": "logdet", "gamma": 1.0}),
        ("`decov`, `vcreg`, `correlation`", {"measure": "decov"}),
        ('any, `sync="local"`', {"sync": "local"}),
    ]
    rows = []
    for what, values in settings:
        found = [of_micro_batch(DiversityConfig(**values), [units], 0) for units in LAYERS]
        rows.append([what, len(found[0]), *(_size(sum(sizes)) for sizes in found)])
    config = DiversityConfig(gamma=1.0)
    for what, of in (
        ("once a step: the window of 8 micro-batches", lambda units: of_step(config, units, 1, 8)[:1]),
        ("once a record of the log", lambda units: of_log_record(config, units)),
        ("once an evaluation, `direct`", lambda units: of_evaluation(config, units)),
        ("once an evaluation, `logdet`", lambda units: of_evaluation(DiversityConfig(measure="logdet"), units)),
    ):
        found = [of([units]) for units in LAYERS]
        rows.append([what, len(found[0]), *(_size(sum(sizes)) for sizes in found)])
    return _table(["layer and micro-batch", "all-reduces", *(f"D = {units:,}" for units in LAYERS)], rows)


def network_table():
    """Seconds of a layer's collectives in one micro-batch."""
    rows = []
    for measure in MEASURES:
        config = (
            DiversityConfig(measure=measure) if measure == "decov" else DiversityConfig(measure=measure, gamma=1.0)
        )
        for units in LAYERS:
            sizes = of_micro_batch(config, [units], 1)
            times = [sum(all_reduce_seconds(size, p) for size in sizes) for p in PROCESSES]
            rows.append([f"`{measure}`", f"{units:,}", _size(sum(sizes)), *map(_time, times)])
            if measure == "direct":
                rows[-1][1] = "any"
                break
    return _table(["measure", "D", "bytes", *(f"{p:,} GPUs" for p in PROCESSES)], rows)


CASES = [(8192, 8192), (32768, 32768), (8192, 1024), (8192, 4)]  # tokens, samples N of a process and micro-batch


def compute_table():
    """Seconds of one layer beside those of the model."""
    rows = []
    for units in LAYERS:
        for tokens, samples in CASES:
            step = step_seconds(units, tokens)
            times = [kernel_seconds(measure, samples, units) for measure in MEASURES]
            cells = [f"{_time(seconds)} ({100 * seconds / step:.1g} %)" for seconds in times]
            rows.append([f"{units:,}", f"{samples:,} of {tokens:,}", _time(step), *cells])
    return _table(["D", "N of tokens", "model's step", *(f"`{measure}`" for measure in MEASURES)], rows)


def memory_table():
    """Bytes of one layer on each GPU."""
    rows = []
    for units in LAYERS:
        for _, samples in CASES:
            pairs = [memory_bytes(measure, samples, units) for measure in MEASURES]
            rows.append([f"{units:,}", f"{samples:,}", *(f"{_size(peak)}, {_size(kept)}" for kept, peak in pairs)])
    return _table(["D", "N", *(f"`{measure}`: peak, kept" for measure in MEASURES)], rows)


def outlier_table():
    """Direct where rows have outliers."""
    rows = []
    for units in LAYERS:
        for samples in (8192, 1024):
            usual, exact = kernel_seconds("direct", samples, units), outlier_seconds(samples, units)
            share = f"{100 * exact / step_seconds(units, 8192):.1g} %"
            rows.append([f"{units:,}", f"{samples:,}", _time(usual), _time(exact), share])
    return _table(["D", "N", "usual rows", "an outlier in every row", "of a step of 8,192 tokens"], rows)


# ---- measured on this machine's CPU


def _relative(found, exact):
    return float((found - exact).norm() / exact.norm())


def _gradient(weight, inputs, loss):
    """dJ/dW of J of the activations GELU(inputs W): samples are correlated, as a network's are."""
    weight = weight.detach().requires_grad_()
    return torch.autograd.grad(loss(gelu(inputs @ weight)), weight)[0]


def approximation_table():
    """How far shards' gradients, averaged, and gradients from some of the samples are from those of all samples."""
    torch.manual_seed(0)
    latent, units, total = 64, 512, 4096
    inputs, weight = torch.randn(total, latent), torch.randn(latent, units) / latent**0.5
    gamma = float(estimate_gamma(gelu(inputs @ weight)))
    losses = {
        "`direct`, gamma fixed": lambda a: functional.direct(a, gamma),
        '`direct`, `gamma="median"`': lambda a: functional.direct(a, estimate_gamma(a.detach())),
        "`logdet`, gamma fixed": lambda a: functional.logdet(a, gamma),
        "`decov`": functional.decov,
        "`correlation`": functional.correlation,
    }
    rows = []
    for name, loss in losses.items():
        exact = _gradient(weight, inputs, loss)
        local = [sum(_gradient(weight, part, loss) for part in inputs.split(n)) / (total // n) for n in (4, 64, 512)]
        drawn = [_gradient(weight, inputs[torch.randperm(total)[:n]], loss) for n in (64, 256, 1024)]
        rows.append([name, *(f"{float(f'{_relative(found, exact):.1g}'):g}" for found in [*local, *drawn])])
    head = ["", *(f"local, N = {n}" for n in (4, 64, 512)), *(f"{n:,} drawn" for n in (64, 256, 1024))]
    return _table(head, rows)


def cost_table():
    """The cost model of `kernels.dispatch` at large widths."""
    from timing import forward_backward, interleaved, normal

    torch.set_num_threads(1)
    rows = []
    for units in LAYERS:
        samples = 2**21 // units
        activations = normal(samples, units)
        gamma = float(estimate_gamma(activations))
        run = forward_backward(lambda a, gamma=gamma: functional.direct(a, gamma), activations)
        measured = interleaved({"direct": run}, 5)["direct"]
        expected = estimated_cost(samples, units, spread(units)) / 1e9
        rows.append([f"{samples:,} x {units:,}", _time(measured), _time(expected), f"{measured / expected:.2f}"])
    return _table(["N x D, one CPU thread", "measured", "`estimated_cost`", "ratio"], rows)


def peak_table():
    """Peaks of one micro-batch and its gradient in two gloo processes."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("scale_memory.py"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    rows = [
        [r["what"], f"{r['samples']:,} x {r['units']:,}", _size(r["peak"]), r["in_words"]]
        for r in map(json.loads, lines)
    ]
    return _table(["", "N x D", "peak beside the activations", "that is"], rows)


COMPUTED = {
    "bytes": bytes_table,
    "network": network_table,
    "compute": compute_table,
    "outliers": outlier_table,
    "memory": memory_table,
}
MEASURED = {"approximation": approximation_table, "cost": cost_table, "peak": peak_table}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="also measure what can be measured on this CPU")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/scale.md")
    options = parser.parse_args(arguments)
    text = PAGE.read_text(encoding="utf-8") if options.page else ""
    for name, table in {**COMPUTED, **(MEASURED if options.measure else {})}.items():
        made = table()
        print(f"\n{name}\n{made}", flush=True)
        if options.page:
            begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
            head, rest = text.split(begin)
            text = f"{head}{begin}{made}\n{end}{rest.split(end)[1]}"
    if options.page:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
