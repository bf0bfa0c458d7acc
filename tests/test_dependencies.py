"""What the package imports is what pyproject.toml declares; what is optional or slow is imported only where used."""

import ast
import builtins
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import study

from hf_diversity import load_run
from hf_diversity.cli import main
from hf_diversity.metrics.page import import_gradio

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_diversity"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions that the package runs without, and the extras that bring them; torch brings Triton, a Space gradio
OPTIONAL = {"matplotlib": "plots", "peft": "peft", "gradio": None, "triton": None}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements):
    return {canonical(re.match(r"[\w.-]+", line).group()) for line in requirements}


def imported_modules(path):
    """First parts of the absolute imports in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]


def imported_distributions(folder):
    modules = {name for path in folder.rglob("*.py") for name in imported_modules(path)}
    known = packages_distributions()
    outside = modules - set(sys.stdlib_module_names) - {"hf_diversity"}
    return {canonical(known.get(name, [name])[0]) for name in outside}


def test_every_import_is_declared_and_every_dependency_is_imported():
    imported = imported_distributions(PACKAGE)
    assert {"torch", "pyyaml", "jinja2"} <= imported
    assert imported - OPTIONAL.keys() == names_of(PROJECT["dependencies"])
    for name, extra in OPTIONAL.items():
        assert name in imported and (extra is None or name in names_of(PROJECT["optional-dependencies"][extra]))


def test_extras():
    extras = PROJECT["optional-dependencies"]
    assert {"plots", "recipes", "peft", "integrations", "dev"} <= extras.keys()
    assert all(">=" in line or line.startswith("hf-diversity[") for lines in extras.values() for line in lines)


# A fresh process: this one has imported everything already
FRESH = """
import importlib, pkgutil, sys

MISSING = {"matplotlib", "peft", "gradio"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import transformers.trainer  # imports PEFT by itself where it is installed
before = set(sys.modules)
for name in [name for name in sys.modules if name.partition(".")[0] in MISSING]:
    del sys.modules[name]
sys.meta_path.insert(0, Missing())
import hf_diversity
slow = {"timm", "evaluate", "matplotlib", "pyarrow.parquet", "scipy.stats", "sklearn", "IPython"}
print("new:", *sorted(slow & (set(sys.modules) - before)))
names = [m.name for m in pkgutil.walk_packages(hf_diversity.__path__, "hf_diversity.")]
names = [n for n in names if not n.endswith((".app", ".__main__")) and ".triton_" not in n]
for name in names:
    importlib.import_module(name)
print("imported:", len(names))
"""


def test_nothing_slow_is_imported_and_nothing_optional_is_needed():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [new, imported] = [line for line in result.stdout.splitlines() if line.startswith(("new:", "imported:"))]
    assert new == "new:"
    assert int(imported.split()[1]) > 80


@pytest.fixture
def without(monkeypatch):
    """Have the imports of a package fail."""
    original = builtins.__import__

    def remove(package):
        def refuse(name, *args, **kwargs):
            if name.partition(".")[0] == package:
                raise ImportError(f"No module named {name!r}")
            return original(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return remove


def test_probe_without_matplotlib_says_what_to_type(without, capsys, tmp_path):
    without("matplotlib")
    assert main(["probe", str(tmp_path), "--dataset", "embedded", "--out", str(tmp_path / "out")]) == 1
    assert 'pip install "hf_diversity[plots]"' in capsys.readouterr().err


def test_the_report_of_a_study_without_scipy_says_what_to_type(without, monkeypatch):
    for name in ("studies.report", "studies.analysis", "studies.figures", "studies.inference"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    without("scipy")
    with pytest.raises(ValueError, match=r'pip install -e "\.\[recipes\]"'):
        study.write_report(None)


def test_an_adapter_is_no_run_and_the_error_says_what_to_type(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r'AutoPeftModel.*pip install "hf_diversity\[peft\]"'):
        load_run(tmp_path)


def test_the_page_of_a_measurement_without_gradio_says_what_to_type(without):
    without("gradio")
    with pytest.raises(ImportError, match="pip install gradio"):
        import_gradio()
