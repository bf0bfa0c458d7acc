"""A small real data set that travels with the package: FashionMNIST images for demos and tests without a network."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, DatasetDict

FILES = {
    "train": Path(__file__).parent / "fashion_mnist_train.parquet",
    "test": Path(__file__).parent / "fashion_mnist_test.parquet",
}


def load_embedded() -> DatasetDict:
    """Load 2,000 training and 1,000 test images of FashionMNIST (28 x 28, grey, 10 classes, as many of each).

    The rows were drawn from the official training and test sets by `scripts/make_embedded_data.py`, without
    duplicates. Nothing is downloaded and no cache is written.

    Returns:
        The splits "train" and "test", with the features of `zalando-datasets/fashion_mnist` on the Hub: `image`
        (`datasets.Image`, PNG) and `label` (`datasets.ClassLabel`).

    References:
        Xiao, Rasul, Vollgraf: Fashion-MNIST (arXiv 1708.07747, 2017), MIT licence: see NOTICE in this folder.

    Example:
        >>> load_embedded()["train"].num_rows
        2000
    """
    # Read as a table: load_dataset would copy the file into the user's cache and look for a lock there.
    import pyarrow.parquet

    return DatasetDict({split: Dataset(pyarrow.parquet.read_table(path)) for split, path in FILES.items()})
