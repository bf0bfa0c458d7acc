"""`hf-diversity probe MODEL --dataset NAME --out DIR`: a report on the layers of a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from .probe.settings import ProbeSettings


def add_parser(subparsers: Any) -> None:
    """Add the sub-command, with an option for each field of `ProbeSettings`."""
    parser = subparsers.add_parser(
        "probe",
        help="report on redundancy, dead units and train-test differences of a checkpoint's layers",
        description="Measure layers of a checkpoint on training and test examples, and write report.json, figures and "
        "one page, report.html.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a folder of transformers, timm or a training run, a Hub id, or a timm name with pretrained weights",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the report")
    parser.add_argument("--compare", metavar="MODEL", nargs="+", default=[], help="more models, side by side")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that holds other things")
    for field in dataclasses.fields(ProbeSettings):
        _add_option(parser, field)
    parser.set_defaults(run=run)


def _add_option(parser: argparse.ArgumentParser, field: dataclasses.Field[Any]) -> None:
    option: dict[str, Any] = {"help": field.metadata["help"], "dest": field.name}
    kind = str(field.type)
    if kind == "bool":
        option["action"] = "store_true"
    else:
        required = field.default is dataclasses.MISSING
        option |= {"required": True} if required else {"default": field.default}
        option["metavar"] = "NAME" if kind != "int" else "N"
        if kind == "int":
            option |= {"type": int, "help": option["help"] + " (default: %(default)s)"}
        elif kind.startswith("tuple"):
            option |= {"nargs": "+"}
        elif kind == "str" and not required:
            option["help"] += " (default: %(default)s)"
        if "choices" in field.metadata:
            option |= {"choices": field.metadata["choices"], "metavar": None}
    parser.add_argument(f"--{field.name.replace('_', '-')}", **option)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write and say what was found."""
    from .plots.style import import_pyplot
    from .probe.report import is_report
    from .probe.run import probe

    import_pyplot().switch_backend("Agg")
    models = [*([] if arguments.model is None else [arguments.model]), *arguments.compare]
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ProbeSettings):
        value = getattr(arguments, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    settings = ProbeSettings(**values)
    if is_report(Path(arguments.out).expanduser()):
        print(f"{arguments.out} holds an earlier report, which will be replaced.")
    report = probe(models, settings, arguments.out, overwrite=arguments.overwrite, command=_command(arguments, values))
    for finding in report.findings:
        about = f"{finding.model}, {finding.about}" if finding.model and len(models) > 1 else finding.about
        print(f"- {about}: {finding.text}")
    print("\n".join(f"> {line}" for line in report.advice))
    print(f"\n{Path(arguments.out) / 'report.html'}")
    return 0


def _command(arguments: argparse.Namespace, values: dict[str, Any]) -> str:
    """What to type for this report again, without the machine's folders."""
    from .cards.settings import without_paths

    words = ["hf-diversity", "probe", *([arguments.model] if arguments.model else [])]
    if arguments.compare:
        words += ["--compare", *arguments.compare]
    for field in dataclasses.fields(ProbeSettings):
        value = values[field.name]
        if value == field.default or not value and value != 0:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return " ".join(shlex.quote(without_paths(word)) for word in [*words, "--out", arguments.out])
