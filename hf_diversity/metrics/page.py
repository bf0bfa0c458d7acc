"""The page of a measurement's Space. Needs gradio, which Spaces have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def json_values(results: Mapping[str, float]) -> dict[str, float | None]:
    """Results as JSON can hold them: None for what is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in results.items()}


def import_gradio() -> Any:
    """Return gradio.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the page of a measurement needs gradio, which is not installed; type: pip install gradio"
        ) from error
    return gradio


def build_page(
    measure: Callable[..., dict[str, float | None]], inputs: Sequence[Any], title: str, description: str
) -> Any:
    """A gradio interface that shows what `measure` gives for `inputs`, and what it says to bad ones."""
    gradio = import_gradio()

    def shown(*values: Any) -> dict[str, float | None]:
        try:
            return measure(*values)
        except (TypeError, ValueError) as error:
            raise gradio.Error(str(error)) from error

    outputs = gradio.JSON(label="Results")
    return gradio.Interface(shown, list(inputs), outputs, title=title, description=description)
