"""Run transformers' own tests of Trainer three times: with Trainer, and with DiversityTrainer in its place.

    python scripts/upstream_tests.py path/to/a/transformers/checkout [arguments of pytest]

With both weights 0 every test that passes with Trainer has to pass. With a weight above 0 only those may differ that
assert that the training loss is the task loss. The tests' models of one number (y = a x + b, say) have no layer of two
units, so there they are given one without parameters, whose units are y and 2 y; where the head is all there is, its
output is regularised.

pytest loads this file as a plugin in each run (`-p upstream_tests`), before the tests import Trainer.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

VARIANTS = ("trainer", "weights 0", "regularised")
VARIABLE = "HF_DIVERSITY_UPSTREAM_VARIANT"


def replacements(variant: str) -> dict[str, type]:
    """The classes that stand for transformers' own."""
    import torch
    from torch import nn

    from hf_diversity import DiversityConfig, DiversitySeq2SeqTrainer, DiversityTrainer

    class Pair(nn.Module):
        """The units y and 2 y."""

        def forward(self, y):
            """From any shape to (N, 2)."""
            return torch.stack([y.flatten(), 2 * y.flatten()], dim=1)

    def run_pair(forward):
        @functools.wraps(forward)
        def wrapped(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            if hasattr(self, "pair"):
                self.pair(output["output"] if isinstance(output, dict) else output[-1])
            return output

        wrapped.runs_pair = True
        return wrapped

    def with_a_layer(model, config):
        """The model, which has a layer now if it had none, and the configuration, which names it."""
        if not isinstance(model, nn.Module):
            return model
        children = [name for name, _ in model.named_children() if name != "pair"]
        if not children or getattr(getattr(model, "config", None), "hidden_size", 2) == 1:
            model.pair = Pair()
            if not hasattr(type(model).forward, "runs_pair"):
                type(model).forward = run_pair(type(model).forward)
            config.layers = ["pair"]
        elif len(children) == 1 and isinstance(model.get_submodule(children[0]), nn.Linear):
            config.layers = children  # its only layer is the head, whose input is the data
        return model

    def make(base):
        class Replacement(base):
            diversity_of_run = variant

            def __init__(self, model=None, *args, **kwargs):
                weight = 0.0 if variant == "weights 0" else 1e-3
                config = DiversityConfig(diversity_weight=weight, gamma=1.0)
                model = with_a_layer(model, config) if config.is_active else model
                super().__init__(model, *args, diversity=config, **kwargs)

            def call_model_init(self, trial=None):
                model = super().call_model_init(trial)
                return with_a_layer(model, self.diversity) if self.diversity.is_active else model

        return Replacement

    return {"Trainer": make(DiversityTrainer), "Seq2SeqTrainer": make(DiversitySeq2SeqTrainer)}


def pytest_configure() -> None:
    """Put the classes of this run where the tests import them from."""
    if (variant := os.environ[VARIABLE]) != VARIANTS[0]:
        import transformers
        import transformers.testing_utils  # noqa: F401  (imported later, it would put the originals back)

        for name, replacement in replacements(variant).items():
            setattr(transformers, name, replacement)


def pytest_collection_finish(session) -> None:
    """Stop where a test module has another Trainer than the one that this run is about."""
    wanted = os.environ[VARIABLE] != VARIANTS[0]
    for module in [
        m for name, m in sys.modules.items() if name.startswith("tests.trainer.") and hasattr(m, "Trainer")
    ]:
        if hasattr(module.Trainer, "diversity_of_run") != wanted:
            raise session.Failed(f"{module.__name__} has not the Trainer of the run {os.environ[VARIABLE]!r}")


def run(checkout: Path, variant: str, arguments: list[str]) -> dict[str, str]:
    """The outcome of every test: passed, skipped, or the first line of what failed."""
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, VARIABLE: variant, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # Without upstream's conftest, which reports to its own CI
        command = [
            sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "upstream_tests",
            "--continue-on-collection-errors", f"--junitxml={report}", *arguments,
        ]  # fmt: skip
        subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {f"{case.get('classname')}.{case.get('name')}": outcome(case) for case in cases}


def outcome(case: ElementTree.Element) -> str:
    """The outcome of one test of a JUnit report."""
    for kind in ("failure", "error"):
        if (found := case.find(kind)) is not None:
            return f"{kind}: {(found.get('message') or '').splitlines()[0][:200]}"
    return "skipped" if case.find("skipped") is not None else "passed"


def main() -> int:
    """Run, compare and print; the exit status is 1 if weights 0 lose a test."""
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "tests" / "trainer").is_dir():
        print(f"usage: python {sys.argv[0]} CHECKOUT [PYTEST_ARGUMENTS]; CHECKOUT must hold tests/trainer")
        return 2
    arguments = sys.argv[2:] or ["tests/trainer"]
    outcomes = {variant: run(Path(sys.argv[1]), variant, arguments) for variant in VARIANTS}
    for variant, results in outcomes.items():
        counts = Counter(result.split(":")[0] for result in results.values())
        print(f"{variant}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    lost = {}
    for variant in VARIANTS[1:]:
        passed = [test for test, result in outcomes[VARIANTS[0]].items() if result == "passed"]
        lost[variant] = [test for test in passed if outcomes[variant].get(test) != "passed"]
        print(f"\npassed with Trainer and not with {variant}: {len(lost[variant])}")
        for test in lost[variant]:
            print(f"  {test}\n      {outcomes[variant].get(test, 'not run')}")
    return 1 if lost["weights 0"] else 0


if __name__ == "__main__":
    sys.exit(main())
