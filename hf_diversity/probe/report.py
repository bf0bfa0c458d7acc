"""`ProbeReport`: what a probe found, as JSON, figures and one page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .figures import Figure
from .findings import THRESHOLDS, Finding, as_dicts
from .measuring import ModelReport
from .page import render_page

FORMAT = "hf_diversity.probe/1"
JSON_NAME, PAGE_NAME, FIGURES_NAME = "report.json", "report.html", "figures"


@dataclass
class ProbeReport:
    """What a probe found.

    Attributes:
        models: the models in the order given.
        findings: in plain words.
        advice: what to do.
        data: name, splits, columns and numbers of examples.
        how: command, versions, seed and settings.
        figures: drawn; empty without matplotlib.
    """

    models: list[ModelReport]
    findings: list[Finding]
    advice: list[str]
    data: dict[str, Any]
    how: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: everything but the matrices."""
        return {
            "format": FORMAT,
            "findings": as_dicts(self.findings),
            "advice": self.advice,
            "thresholds": THRESHOLDS,
            "data": self.data,
            "models": [_model(model) for model in self.models],
            "how": self.how,
            "figures": [f"{FIGURES_NAME}/{figure.name}" for figure in self.figures],
        }

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write `report.json`, `report.html` and the figures.

        Args:
            folder: made if it is not there.
            overwrite: write into a folder that holds something else too.

        Returns:
            The page.

        Raises:
            FileExistsError: see `check_folder`.
        """
        folder = Path(folder).expanduser()
        check_folder(folder, overwrite)
        figures = folder / FIGURES_NAME
        if is_report(folder):
            shutil.rmtree(figures, ignore_errors=True)
        figures.mkdir(parents=True, exist_ok=True)
        for figure in self.figures:
            (figures / figure.name).write_bytes(figure.png)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")
        page = folder / PAGE_NAME
        page.write_text(render_page(self), encoding="utf-8")
        return page


def check_folder(folder: str | Path, overwrite: bool = False) -> None:
    """Refuse a folder with other things in it than an earlier report, which may be replaced.

    Raises:
        FileExistsError: says what is there and what to type.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: type --out with a folder")
    if overwrite or not folder.exists() or is_report(folder):
        return
    there = sorted(path.name for path in folder.iterdir())
    if there:
        raise FileExistsError(
            f"{folder} holds {', '.join(there[:3])}{', ...' if len(there) > 3 else ''} and is no earlier report; type "
            "--out with another folder, or --overwrite to write into this one"
        )


def is_report(folder: Path) -> bool:
    """Whether a folder holds an earlier report and nothing else."""
    try:
        found = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or not str(found.get("format", "")).startswith("hf_diversity.probe/"):
        return False
    return {path.name for path in folder.iterdir()} <= {JSON_NAME, PAGE_NAME, FIGURES_NAME}


def _model(model: ModelReport) -> dict[str, Any]:
    return {
        "name": model.name,
        "class": model.kind,
        "parameters": model.parameters,
        "scores": model.scores,
        "scored": model.counts,
        "why_no_scores": model.why_no_scores,
        "layers": {
            name: {"activations": model.where[name], **{role: d.to_dict() for role, d in by_role.items()}}
            for name, by_role in model.layers.items()
        },
        "left_out": model.left_out,
        "training": None if model.training is None else model.training.to_dict(),
        "notes": list(model.notes),
    }


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique
