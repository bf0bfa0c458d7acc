"""Peak memory of one call in a fresh process: `python benchmarks/memory.py direct` prints it in bytes.

The high-water mark of resident memory is reset before the call; with a low mmap threshold every large buffer is a
mapping of its own, so that what was freed before does not hide what is taken now.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path

FLOAT = 4


def _status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def _measure(call):
    from hf_diversity.kernels.polynomials import release_memory

    call()  # the libraries load pages of code at the first call
    release_memory()  # what is kept between calls counts as taken by this one
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _cases():
    import torch
    from timing import forward_backward, normal

    from hf_diversity import functional

    torch.set_num_threads(1)
    return {
        "direct": forward_backward(lambda a: functional.direct(a, 1.0), normal(128, 2048)),
        "similarity": forward_backward(
            lambda a: functional.similarity_matrix(a, 1.0).square().sum(), normal(16, 2048)
        ),
        "logdet": forward_backward(lambda a: functional.logdet(a, 1.0), normal(16, 2048)),
    }


def in_fresh_process(name):
    """Peak extra memory of a case, in bytes."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, name], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.strip().splitlines()[-1])


def peaks():
    """Rows of the table."""
    from report import Row

    activations, matrix = 128 * 2048 * FLOAT, 2048 * 2048 * FLOAT
    return [
        Row(
            "peak extra memory of Direct 128x2048, gradient included", in_fresh_process("direct") / activations, "A", 4
        ),
        Row(
            "peak extra memory of S at D = 2048, gradient included",
            in_fresh_process("similarity") / matrix,
            "D^2",
            4.5,
        ),
        Row("peak extra memory of Logdet at D = 2048, float64 Cholesky", in_fresh_process("logdet") / matrix, "D^2"),
    ]


if __name__ == "__main__":
    print(_measure(_cases()[sys.argv[1]]))
