"""Whether a command of a page would start: through the very parser of what it starts, and without its work."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from common.arguments import parse_arguments
from shorten import NOT_STARTED
from studies.plan import read_study


def check(words, patch):
    """Fail unless the command would start in the current folder; `patch` is pytest's monkeypatch."""
    program, *rest = words
    if program in NOT_STARTED and program != "pip":
        return
    known = {"accelerate": _accelerate, "make": _make, "pip": _pip, "python": _python, "ruff": _ruff}
    known[program.rpartition("/")[2]](rest, patch)


def launch_settings(words):
    """What `accelerate launch` makes of the words after it, and the nested settings of its configuration file."""
    parser = launch_command_parser()
    arguments, defaults, _ = _validate_launch_command(parser.parse_args(words))
    nested = {**(getattr(defaults, "fsdp_config", None) or {}), **(getattr(defaults, "deepspeed_config", None) or {})}
    # The launcher takes any nested key without a word; it only acts on those that are options of its own
    unknown = nested.keys() - {action.dest for action in parser._actions}
    assert not unknown, f"{arguments.config_file} has unknown keys {unknown}"
    return arguments, nested


def _accelerate(words, patch):
    assert words[0] == "launch"
    arguments, _ = launch_settings(words[1:])
    _python([arguments.training_script, *arguments.training_script_args], patch)


def _make(words, patch):
    """The target exists, and so does what it runs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "--dry-run", *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    started = [line[1:] for line in lines if line and line[0].endswith("/bin/python")]
    for line in started:
        _python([word.strip("'") for word in line], patch)
    assert started


def _pip(words, patch):
    """The extras of this package that are asked for exist."""
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"\.\[([^]]+)\]", " ".join(words))
    assert words[0] == "install" and asked and set(",".join(asked).split(",")) <= set(extras)


def _ruff(words, patch):
    assert words == ["format", "."]


def _python(words, patch):
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), f"there is no module {words[1]}"
        return
    script = Path(words[0])
    assert script.is_file(), f"there is no {script}"
    check_of_script = {
        "recipes/demo.py": _demo, "recipes/study.py": _study, "recipes/compare.py": _compare,
        "benchmarks/run.py": _benchmarks, "benchmarks/scale.py": _scale,
        "scripts/model_cards.py": _model_cards,
    }  # fmt: skip
    if script.parent.as_posix() == "examples/by_feature":
        assert not words[1:], "examples take no arguments"  # test_examples.py runs them
    else:
        check_of_script.get(str(script), lambda rest, _: _recipe(script.stem, rest))(words[1:], patch)


def _recipe(name, words):
    parse_arguments(import_module(name).TYPES, [*words, "--use_cpu", "true"])


def _demo(words, patch):
    """All its runs are planned before the first begins."""
    import demo

    def begin(*arguments, callbacks):
        raise InterruptedError

    patch.setattr(demo, "run", begin)
    with pytest.raises(InterruptedError):
        demo.main([*words, "--use_cpu", "true"])


def _study(words, patch):
    import study

    asked = []
    for name in ("run", "show_status", "write_report"):
        patch.setattr(study, name, asked.append)
    study.main(words)
    [options] = asked
    assert read_study(options.config) if hasattr(options, "config") else options.folder


def _compare(words, patch):
    import compare

    class Asked(Exception):
        """The parser is done."""

    def read(folders):
        raise Asked(folders)

    patch.setattr(compare, "read_methods", read)
    with pytest.raises(Asked):
        compare.main(words)


def _benchmarks(words, patch):
    """The parts are found before the first begins."""
    patch.syspath_prepend("benchmarks")
    patch.setenv("OMP_NUM_THREADS", "1")
    before = set(sys.modules)
    try:
        run = import_module("run")
        names = list(run.parts(None))

        def begin():
            raise InterruptedError

        patch.setattr(run, "parts", lambda options: dict.fromkeys(names, begin))
        with pytest.raises(InterruptedError):
            run.main(words)
    finally:  # their names are of everyday words
        for name in set(sys.modules) - before:
            if Path("benchmarks").resolve() in Path(getattr(sys.modules[name], "__file__", None) or "/").parents:
                del sys.modules[name]


def _scale(words, patch):
    """The options are read before the first table is made."""
    patch.syspath_prepend("benchmarks")
    scale = import_module("scale")

    def begin():
        raise InterruptedError

    patch.setattr(scale, "COMPUTED", {"begin": begin})
    with pytest.raises(InterruptedError):
        scale.main(words)


def _model_cards(words, patch):
    runpy.run_path("scripts/model_cards.py")
    assert len(words) == 1
