"""What libraries may write into the terminal."""

from __future__ import annotations

import datasets
import transformers


def quiet() -> None:
    """Leave the terminal to a recipe's own lines."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
