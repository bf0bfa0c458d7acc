"""Choose the embedded images from the full FashionMNIST.

    python scripts/make_embedded_data.py SOURCE [--destination FOLDER]

SOURCE is a folder with the files of `zalando-datasets/fashion_mnist` (data/train-*.parquet, data/test-*.parquet). The
same source gives the same rows in the same order; the PNG bytes are copied as they are.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import datasets
import numpy as np

from hf_diversity.data import stratified_subset
from hf_diversity.data.embedded import FILES

SIZES = {"train": 2000, "test": 1000}
SEED = 0


def choose(source: datasets.Dataset, size: int, seen: set[bytes]) -> datasets.Dataset:
    """Choose `size` rows, class by class, of images that are not in `seen`; add theirs to it."""
    pixels = [hashlib.sha256(np.asarray(image).tobytes()).digest() for image in source["image"]]
    # FashionMNIST has a few identical images, also across its training and test set: keep the first of each.
    unique = [row for row, digest in enumerate(pixels) if digest not in seen and not seen.add(digest)]
    candidates = source.select(unique)
    rows = stratified_subset(candidates["label"], size, SEED)
    # In random order, so that the first n rows are a fair sample too.
    return candidates.select(np.random.default_rng(SEED).permutation(rows))


def main() -> None:
    """Write one parquet file for each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the full data set in the Hub's layout")
    parser.add_argument("--destination", type=Path, default=FILES["train"].parent, help="folder for the two files")
    arguments = parser.parse_args()
    seen: set[bytes] = set()
    for split, size in SIZES.items():
        files = sorted(str(path) for path in (arguments.source / "data").glob(f"{split}-*.parquet"))
        if not files:
            parser.error(f"no data/{split}-*.parquet below {arguments.source}")
        chosen = choose(datasets.Dataset.from_parquet(files), size, seen)
        destination = arguments.destination / FILES[split].name
        chosen.flatten_indices().to_parquet(destination)
        print(f"{destination.name}: {len(chosen)} rows, {destination.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
