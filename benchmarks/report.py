"""The table of bars, the JSON file, the plot, and the machine they were measured on."""

import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass
class Row:
    """One figure; with a bar it passes or misses, without one it informs."""

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self):
        if self.at_most is not None and not self.value <= self.at_most:
            return False
        return not (self.at_least is not None and not self.value >= self.at_least)

    @property
    def bar(self):
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else ""

    def cells(self):
        verdict = "" if not self.bar else "met" if self.met else "MISSED"
        return [self.what, f"{self.value:.3g} {self.unit}".strip(), self.bar, verdict]


def table(rows):
    """A Markdown table, its columns aligned for the terminal too."""
    lines = [["figure", "measured", "bar", ""], *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    text = ["| " + " | ".join(line) + " |" for line in padded]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def machine():
    """Hardware and versions in words."""
    import numpy
    import timm
    import transformers

    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        processor = found.group(1)
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        **gpu,
        "processor": f"{processor}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "timm": timm.__version__,
        "numpy": numpy.__version__,
    }


def write_json(path, rows, curves):
    content = {
        "machine": machine(),
        "rows": [{**asdict(row), "met": row.met if row.bar else None} for row in rows],
        "curves": curves,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def plot(path, curves):
    """Time against D, log-log, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 5))
    for name, points in curves["width"].items():
        widths = sorted(points, key=int)
        axis.plot([int(w) for w in widths], [1e3 * points[w] for w in widths], marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("units D")
    axis.set_ylabel("ms, value and gradient")
    axis.set_title("N = 128, float32, one thread")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return figure, axis


def write_readme(path, rows):
    """Put table and machine between the markers of benchmarks/README.md."""
    words = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = path.read_text()
    begin, end = "<!-- table -->", "<!-- end of table -->"
    head, rest = text.split(begin)
    path.write_text(f"{head}{begin}\n{table(rows)}\n\nMeasured on: {words}.\n{end}{rest.split(end)[1]}")
