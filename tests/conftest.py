"""Settings of the whole suite: offline, few threads, quiet."""

import gc
import os
from logging import NOTSET, getLogger

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("HF_DIVERSITY_TEST_GPU", ""))

import pytest  # noqa: E402
import torch  # noqa: E402
from hub_server import hub  # noqa: E402, F401
from named_machine import machine  # noqa: E402, F401
from transformers.utils import logging  # noqa: E402

# Two threads on small eager operations can be ten times slower than one
torch.set_num_threads(1)


def pytest_collection_finish():
    """Take what the imports made out of every later collection; Trainer collects at each start, most of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _verbosity():
    """Each test listens again to libraries that a recipe silenced before it, perhaps in a fixture of its module."""
    logging.set_verbosity_warning()
    logging.enable_progress_bar()
    getLogger("hf_diversity").setLevel(NOTSET)
