"""The commands of pages that take long, as they are typed and short: what is added to each, and what it must leave.

Nothing of a command is taken away or replaced.
"""

from __future__ import annotations

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

from common.arguments import parse_arguments
from documents import commands
from studies.plan import read_study

# Commands that no test starts, and why
NOT_STARTED = {
    "cd": "the shell's own",
    "git": "needs the network, and an address that is not given",
    "hf": "asks for a token, or for a model on the Hub",
    "pip": "installs from the network; test_package.py installs the wheel",
    "pytest": "make test-slow runs it",
    "source": "the shell's own",
}
# Of make: what runs is the target with this repository's interpreter; nothing is installed
MAKE = {
    "bench": "--quick --rounds 1",
    "demo": "--seeds 0 --num_train_epochs 2 --max_train_samples 160",
    "docs": "",
    "env": "",
    "lint": "",
    "test": "tests/test_config.py",
    "test-gpu": "tests/test_replicas.py",
    "test-min": "tests/test_config.py",
    "test-slow": "tests/test_study.py",
}
RECIPE = "--max_steps 2 --max_train_samples 24 --max_validation_samples 16 --max_test_samples 16 --logging_steps 1"
RECIPE += " --disable_tqdm true"
BENCHMARKS = "--quick --rounds 1"
DEMO = "--num_train_epochs 2 --max_train_samples 160"
LEFT_BY_A_RECIPE = ("config.json", "diversity_config.json", "model.safetensors", "predictions.npz", "similarity.npz")
LEFT_BY_A_RECIPE += ("README.md", "training.png", "gap.png", "similarity.png")


def script_of(words):
    """The Python script or module that a command starts, with its arguments; and the words before it."""
    place = next((i for i, word in enumerate(words) if word.endswith(".py") or word == "-m"), None)
    if place is None:
        return words[0], list(words[1:]), []
    if words[place] == "-m":
        return words[place + 1], list(words[place + 2 :]), list(words[: place + 2])
    return words[place], list(words[place + 1 :]), list(words[: place + 1])


def is_run_at_once(words):
    """Whether test_documents.py runs the command, whole: it takes no more than seconds."""
    return words[0] == "hf-diversity" or words[1:3] in [("recipes/study.py", "report"), ("recipes/study.py", "status")]


def is_known(words):
    """Whether `shortened` knows what to do; asked of a command that takes long."""
    script, rest, _ = script_of(words)
    return script == "recipes/study.py" and rest[0] == "run" or shortened(words) is not None


def shortened(words):
    """The words to start in the current folder, or None if it is not known how to make the command short."""
    script, rest, start = script_of(words)
    if words[0] == "accelerate":
        start[2:2] = ["--main_process_port", "0"]  # any that is free
    match script:
        case "make":
            return list(words) if words[1] in MAKE else None
        case "recipes/demo.py":
            seeds = [] if "--seeds" in rest else ["--seeds", "0", "1"]
            return [*start, *rest, *seeds, *DEMO.split()]
        case "recipes/study.py" if rest[0] == "run":
            return [*start, *rest, *_part_of_study(rest)]
        case "recipes/compare.py" | "scripts/model_cards.py" | "benchmarks/scale.py" | "ruff":
            return list(words)
        case "benchmarks/run.py":
            only = [] if "--only" in rest else ["--only", "logdet"]
            return [*start, *rest, *only, *BENCHMARKS.split()]
        case "build":
            return [*start, *rest, "--no-isolation"]
        case "pytest" if words[0] != "pytest":
            return list(words)
        case _ if script.startswith("examples/"):
            return list(words)
        case "recipes/image_classification.py" | "recipes/text_classification.py" | "recipes/language_modeling.py":
            # Without a GPU bf16 is refused unless the CPU is asked for
            on_cpu = ["--use_cpu", "true"] if "--bf16" in rest else []
            return [*start, *rest, *RECIPE.split(), *on_cpu]
    return None


def _part_of_study(rest):
    """The first and the last method, and of several conditions two."""
    study, _ = read_study(Path(rest[rest.index("--config") + 1]))
    methods, conditions = list(study.methods), list(study.conditions)
    part = ["--methods", methods[0], methods[-1], "--conditions", *conditions[:2]]
    return part if study.recipe == "image_classification" else [*part, "--data_root", "data"]


def good_ends(words):
    """Exit statuses of success: benchmarks also end with 1, and make then with 2, where a bar is missed."""
    return {"benchmarks/run.py": (0, 1), "make bench": (0, 2)}.get(" ".join(words[:2]).removeprefix("python "), (0,))


# ---- what has to be there before


def needed(words):
    """Commands whose outputs a command reads, as they are typed."""
    script, rest, _ = script_of(words)
    if script == "scripts/model_cards.py":
        return [("python", "recipes/demo.py", "--output_dir", *rest)]
    if script == "recipes/compare.py":
        folders = {re.sub(r"-[1-9]$", "-0", folder) for folder in rest}
        return [words for words in commands() if output_of(words) in folders]
    return []


def copy_seeds(folders):
    """Runs with other seeds than 0, of which a page tells no command: copies, which say that they have another."""
    for folder in map(Path, folders):
        if found := re.fullmatch(r"(.+)-([1-9])", folder.name):
            shutil.copytree(folder.with_name(f"{found[1]}-0"), folder)
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            results["seeds"]["seed"] = int(found[2])
            (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def output_of(words):
    """The output folder of a recipe's command; None for other commands."""
    script, rest, _ = script_of(words)
    if not re.fullmatch(r"recipes/\w+_(classification|modeling)\.py", script) or "--config" not in rest:
        return None
    return parse_arguments(import_module(Path(script).stem).TYPES, [*rest, "--use_cpu", "true"])[-1].output_dir


# ---- what a command leaves


def check_outputs(words, printed):
    """Fail unless a command that ended well in the current folder left what its page promises."""
    script, rest, _ = script_of(words)
    if output := output_of(words):
        _recipe(Path(output), words)
    elif script == "recipes/demo.py":
        _demo(Path(rest[rest.index("--output_dir") + 1]), rest, printed)
    elif script == "recipes/study.py":
        _study(rest, printed)
    elif script == "recipes/compare.py":
        assert "test accuracy" in printed and ("paired" in printed or len(rest) == 1)
    elif script == "scripts/model_cards.py":
        assert printed.split() and all(Path(card).is_file() for card in printed.split())
    elif script == "benchmarks/scale.py":
        assert {"bytes", "outliers", "approximation", "cost", "peak"} <= set(printed.splitlines())
    elif script == "benchmarks/run.py":
        _benchmarks(printed)
    elif script == "build":
        assert {path.suffix for path in Path("dist").iterdir()} == {".whl", ".gz"}
    elif script == "make":
        _make(words[1], printed)


def _recipe(folder, words):
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    never = {"predictions.npz"} if "perplexity" in results["metrics"]["test"] else set()
    if not any("eval_train_loss" in record for record in results["history"]):
        never.add("gap.png")  # there was no evaluation while training
    missing = {name for name in LEFT_BY_A_RECIPE if not (folder / name).is_file()}
    assert missing == never, missing
    assert results["training"]["steps"] == 2
    launched = dict(zip(words, words[1:], strict=False))
    alone = "2" if launched.get("--config_file", "").endswith("cpu_2.yaml") else "1"
    assert results["hardware"]["processes"] == int(launched.get("--num_processes", alone))


def _demo(folder, rest, printed):
    assert {"table.md", "results.json", "similarity.png", "gap.png"} <= {path.name for path in folder.iterdir()}
    assert (folder / "table.md").read_text(encoding="utf-8").strip() in printed


def _study(rest, printed):
    config = Path(rest[rest.index("--config") + 1])
    folder = Path("outputs/study") / config.stem
    study, _ = read_study(config)
    runs = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    each = study.budget * len(study.tuning_seeds) + len(study.seeds)
    assert len(runs) == 2 * len(list(study.conditions)[:2]) * each and (folder / "study.yaml").is_file()
    assert {run["status"] for run in runs} <= {"done", "diverged"} and "\ndone; python" in printed


def _benchmarks(printed):
    """Every bar is looked at, whether this machine, busy as it is, meets it or not."""
    found = json.loads(Path("outputs/benchmarks/results.json").read_text(encoding="utf-8"))["rows"]
    assert found and all(f"| {row['what']}" in printed for row in found)
    assert re.search(r"^\d+ bars, \d+ missed", printed, re.MULTILINE)


def _make(target, printed):
    if target == "demo":
        _demo(Path("outputs/demo"), [], printed)
    elif target == "bench":
        _benchmarks(printed)
    elif target == "docs":
        assert Path("outputs/site/index.html").is_file()
    elif target == "lint":
        assert "All checks passed!" in printed and "Success: no issues found" in printed
    elif target.startswith("test"):
        assert re.search(r"\d+ (passed|skipped)", printed)
