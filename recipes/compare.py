"""Print finished runs of any recipe side by side: mean ± standard deviation over seeds, and paired differences.

    python recipes/compare.py outputs/baseline-0 outputs/baseline-1 outputs/direct-0 outputs/direct-1

The method of the first folder is what the others are compared with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.comparison import compare, rows_of
from common.report import read_results


def read_methods(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Return the results by method, each in the order of its seeds.

    Raises:
        ValueError: a folder holds no finished run, or the methods were not run with the same seeds.
    """
    methods: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        if not (folder / "results.json").is_file():
            raise ValueError(f"{folder} holds no results.json: name folders of finished runs")
        results = read_results(folder)
        methods.setdefault(results["name"], []).append(results)
    seeds = {}
    for method, found in methods.items():
        found.sort(key=lambda results: results["seeds"]["seed"])
        seeds[method] = [results["seeds"]["seed"] for results in found]
    if len({tuple(found) for found in seeds.values()}) > 1:
        raise ValueError(f"the seeds are {seeds}: differences are paired, so every method needs the same ones")
    return methods


def main(words: Sequence[str] | None = None) -> None:
    """Read the folders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of finished runs")
    methods = read_methods(parser.parse_args(words).folders)
    first = next(iter(methods.values()))[0]
    print(compare(methods, rows_of(first)))


if __name__ == "__main__":
    main()
