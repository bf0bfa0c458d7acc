"""The Space's page: two lists of values in, their generalisation gap out. `python app.py` opens it locally."""

from pathlib import Path
from typing import Any

import evaluate

from hf_diversity.metrics.page import build_page, import_gradio, json_values

SIGNS = {"told by the name": None, "lower is better": True, "higher is better": False}
measurement = evaluate.load(str(Path(__file__).with_name("generalization_gap.py")), keep_in_memory=True)


def parse(text: str) -> list[float]:
    """Read numbers divided by commas, spaces or line ends."""
    return [float(number) for number in text.replace(",", " ").split()]


def measure(train: str, held_out: str, metric: str, sign: str) -> dict[str, float | None]:
    """The results as JSON can hold them."""
    results = measurement.compute(
        train=parse(train), held_out=parse(held_out), metric=metric.strip(), lower_is_better=SIGNS[sign]
    )
    return json_values(results)


def build() -> Any:
    """The page."""
    gradio = import_gradio()
    inputs = [
        gradio.Textbox("1.0, 0.99, 1.0", label="On training examples: one value per run"),
        gradio.Textbox("0.83, 0.81, 0.85", label="On held-out examples, in the same order"),
        gradio.Textbox("accuracy", label="Name of the metric"),
        gradio.Radio(list(SIGNS), value="told by the name", label="Which is better"),
    ]
    return build_page(measure, inputs, "Generalisation gap", measurement.description)


if __name__ == "__main__":
    build().launch()
