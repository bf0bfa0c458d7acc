"""On a GPU: the Triton kernels against the same in torch operations. No bars yet: no figure was measured on a GPU."""

import functools
import statistics

import torch
from report import Row

from hf_diversity.kernels import tiles


def _milliseconds(run, rounds):
    """Median of single calls, by the device's clock."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def compare(rounds):
    """Rows of the table; none without a GPU or without Triton."""
    if not torch.cuda.is_available():
        print("gpu: no CUDA device, nothing measured")
        return []
    from hf_diversity.kernels.triton_direct import pair_sum_triton
    from hf_diversity.kernels.triton_similarity import similarity_backward_triton, similarity_forward_triton

    name, rows = torch.cuda.get_device_name(), []
    for samples, units in ((128, 2048), (4096, 1024), (8192, 4096)):
        a = torch.randn(samples, units, device="cuda")
        gamma, gradient = torch.ones((), device="cuda"), torch.empty_like(a)
        for how, kernel in (("Triton", pair_sum_triton), ("exact tiles in torch", tiles.pair_sum_tiles)):
            if how != "Triton" and samples * units > 2**22:
                continue
            run = functools.partial(kernel, a, gamma, gradient)
            rows.append(Row(f"{name}, Direct {samples}x{units}, {how}", _milliseconds(run, rounds), "ms"))
    a, upstream = torch.randn(128, 2048, device="cuda"), torch.randn(2048, 2048, device="cuda")
    gamma = torch.ones((), device="cuda")
    for how, forward, backward in (
        ("Triton", similarity_forward_triton, similarity_backward_triton),
        ("exact tiles in torch", tiles.similarity_forward, tiles.similarity_backward),
    ):
        rows += [
            Row(f"{name}, S 128x2048, {how}", _milliseconds(functools.partial(forward, a, gamma), rounds), "ms"),
            Row(
                f"{name}, gradient through S, {how}",
                _milliseconds(functools.partial(backward, a, gamma, upstream), rounds),
                "ms",
            ),
        ]
    return rows
