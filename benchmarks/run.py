"""Measure every bar of the performance table in one run on one thread; exits with 1 where a bar is missed.

python benchmarks/run.py                        # everything, about 10 minutes: `make bench`
python benchmarks/run.py --only direct memory   # some parts
python benchmarks/run.py --readme               # also put the table into benchmarks/README.md
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

torch.set_num_threads(1)

import accuracy  # noqa: E402
import direct  # noqa: E402
import gpu  # noqa: E402
import import_time  # noqa: E402
import memory  # noqa: E402
import report  # noqa: E402
import similarity  # noqa: E402

HERE = Path(__file__).parent


def parts(options):
    """Name -> function that returns rows, or rows and curves."""
    import steps

    return {
        "direct": lambda: direct.against_peers(options.rounds, options.quick),
        "sweeps": lambda: direct.gamma_and_outliers(options.rounds),
        "curves": lambda: direct.curves(options.rounds),
        "logdet": lambda: similarity.logdet_against_naive(max(3, options.rounds // 4)),
        "memory": memory.peaks,
        "accuracy": lambda: accuracy.sweep(large=not options.quick),
        "steps": lambda: steps.shares(5 if options.quick else 16),
        "import": import_time.against_trainer,
        "gpu": lambda: gpu.compare(options.rounds),
    }


def main(arguments=None):
    """Run, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="direct sweeps curves logdet memory accuracy steps import gpu"
    )
    parser.add_argument("--rounds", type=int, default=15, help="repetitions of which the median is taken")
    parser.add_argument("--quick", action="store_true", help="fewer steps and no 8,192-wide accuracy cases")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="folder for JSON and plot")
    parser.add_argument("--readme", action="store_true", help="update benchmarks/README.md, its plot and its JSON")
    options = parser.parse_args(arguments)
    available = parts(options)
    chosen = options.only or list(available)
    if unknown := set(chosen) - set(available):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {' '.join(available)}")

    rows, curves = [], {}
    for name in chosen:
        start = time.perf_counter()
        result = available[name]()
        new, found = result if isinstance(result, tuple) else (result, {})
        rows += new
        curves.update(found)
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)\n{report.table(new)}", flush=True)

    options.output.mkdir(parents=True, exist_ok=True)
    for folder in [options.output] + ([HERE] if options.readme else []):
        report.write_json(folder / "results.json", rows, curves)
        if "width" in curves:
            report.plot(folder / "time_against_width.png", curves)
    if options.readme:
        report.write_readme(HERE / "README.md", rows)
    missed = [row.what for row in rows if not row.met]
    print(f"\n{sum(bool(row.bar) for row in rows)} bars, {len(missed)} missed", *missed, sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
