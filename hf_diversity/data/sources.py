"""Data sets by name: the embedded images, local folders and files, and the Hub."""

from __future__ import annotations

import re
from pathlib import Path

import datasets

from ..paths import is_path
from .embedded import load_embedded

FILE_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
SLICE = re.compile(r"(?P<name>.+)\[(?P<start>\d*%?):(?P<stop>\d*%?)\]")


def load_source(name: str, config: str | None = None) -> dict[str, datasets.Dataset]:
    """Load all splits of a data set.

    Args:
        name: "embedded" for the images inside this package, a local folder (in the Hub's layout, of images by class,
            or written by `save_to_disk`) or file (.parquet, .csv, .json or .jsonl), or a Hub id.
        config: configuration of a data set that has several, say "sst2" of GLUE.

    Raises:
        ValueError: there is no such data set, or it cannot be loaded.
    """
    if not name:
        raise ValueError("dataset is missing: type dataset: NAME, a path or a Hub id")
    if name == "embedded":
        return dict(load_embedded())
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in FILE_FORMATS:
            raise ValueError(f"dataset {name}: unknown kind of file; known: {', '.join(FILE_FORMATS)}")
        return dict(datasets.load_dataset(FILE_FORMATS[path.suffix], data_files=str(path)))
    if (path / "dataset_dict.json").is_file():
        return dict(datasets.load_from_disk(path))
    if not path.is_dir() and (is_path(name) or path.suffix in FILE_FORMATS):
        raise ValueError(f"dataset {name}: no such folder or file; type a path that exists, a Hub id or `embedded`")
    try:
        return dict(datasets.load_dataset(str(path) if path.is_dir() else name, config))
    except Exception as error:
        # A dozen exception types, with and without a network: the user's question is the same.
        raise ValueError(
            f"dataset {name}: it can be loaded neither as a local path nor from the Hub; type a path that exists, "
            f"a Hub id or `embedded` ({type(error).__name__}: {error})"
        ) from error


def select_split(data: dict[str, datasets.Dataset], name: str) -> datasets.Dataset | None:
    """Return a split, or a slice of one written as datasets writes it: train[:40000], train[80%:]; None without it."""
    if name in data:
        return data[name]
    found = SLICE.fullmatch(name)
    if found is None or found["name"] not in data:
        return None
    whole = data[found["name"]]

    def position(text: str, default: int) -> int:
        if not text:
            return default
        return min(len(whole), len(whole) * int(text[:-1]) // 100 if text.endswith("%") else int(text))

    chosen = range(position(found["start"], 0), position(found["stop"], len(whole)))
    return whole.select(chosen if len(chosen) else [])
