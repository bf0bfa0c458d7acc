"""The Space's page: paste activations, read how redundant their units are. `python app.py` opens it locally."""

import json
from pathlib import Path
from typing import Any

import evaluate

from hf_diversity.metrics.page import build_page, import_gradio, json_values

EXAMPLE = "0.9, 1.0, 0.1\n0.2, 0.3, 0.8\n0.5, 0.4, 0.7\n0.1, 0.2, 0.9"
measurement = evaluate.load(str(Path(__file__).with_name("within_layer_diversity.py")), keep_in_memory=True)


def parse(text: str) -> Any:
    """Read rows of numbers: a JSON list of lists, or one sample a line."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    lines = [line for line in text.splitlines() if line.strip()]
    return [[float(number) for number in line.replace(",", " ").split()] for line in lines]


def measure(text: str, gamma: str, kind: str, reduction: str) -> dict[str, float | None]:
    """The results as JSON can hold them."""
    results = measurement.compute(features=parse(text), gamma=gamma.strip(), measure=kind, reduction=reduction)
    return json_values(results)


def build() -> Any:
    """The page."""
    gradio = import_gradio()
    inputs = [
        gradio.Textbox(EXAMPLE, lines=8, label="Activations: one sample a line, one number per unit"),
        gradio.Textbox("median", label='gamma: a positive number, or "median"'),
        gradio.Dropdown(["direct", "det", "logdet"], value="direct", label="Measure"),
        gradio.Radio(["mean", "sum"], value="mean", label="Reduction over pairs (direct)"),
    ]
    return build_page(measure, inputs, "Within-layer diversity", measurement.description)


if __name__ == "__main__":
    build().launch()
