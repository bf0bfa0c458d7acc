"""The accuracy sweep of tests/test_kernels_accuracy.py, as two figures."""

import sys
from pathlib import Path

from report import Row


def sweep(large):
    """Largest errors over all cases; `large` adds those of up to 8,192 samples or units."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import test_kernels_accuracy as cases

    sizes = cases.SIZES + (cases.LARGE if large else [])
    errors = [cases.errors(kind, size, gamma) for size in sizes for kind in cases.KINDS for gamma in cases.GAMMAS]
    count = f"largest of {len(errors)} cases"
    return [
        Row(f"error of J over J + D, {count}", max(e[0] for e in errors), at_most=1e-5),
        Row(f"error of the gradient, {count}", max(e[1] for e in errors), at_most=1e-4),
    ]
