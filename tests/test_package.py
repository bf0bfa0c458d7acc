"""The sdist and the wheel hold what they need to be installed, used and tested elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

pytest.importorskip("build")
ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What git ignores
UNWANTED = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")


def run(*command, **options):
    """Run a command and return its standard output; fail with its output if it fails."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with what `python -m build` makes: the sdist, and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", ignore=UNWANTED)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source")
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def files_below(*folders):
    """What is in folders of the repository, relative to it."""
    paths = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    return {str(p.relative_to(ROOT)) for p in paths if "__pycache__" not in p.parts and not p.name.startswith(".")}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files_below("hf_diversity")
    assert {Path(name).suffix for name in names} >= {".py", ".j2", ".parquet", ".md", ".txt", ".typed"}


def test_metadata_of_the_wheel(wheel):
    [place] = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = message_from_bytes(wheel.read(f"{place}/METADATA"))
    assert metadata["Name"] == "hf-diversity" and metadata["Version"] == PROJECT["version"]
    assert set(metadata.get_all("Provides-Extra")) == PROJECT["optional-dependencies"].keys()
    assert len([line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]) == len(
        PROJECT["dependencies"]
    )
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "hf_diversity/data/NOTICE"]
    for name in metadata.get_all("License-File"):
        assert wheel.read(f"{place}/licenses/{name}") == (ROOT / name).read_bytes()
    assert "hf-diversity = hf_diversity.cli:main" in wheel.read(f"{place}/entry_points.txt").decode()
    assert "# hf_diversity" in metadata.get_payload()


def test_the_version_is_the_same_everywhere():
    import hf_diversity

    citation = (ROOT / "CITATION.cff").read_text()
    assert hf_diversity.__version__ == PROJECT["version"]
    assert f"\nversion: {PROJECT['version']}\n" in citation


def test_the_sdist_holds_all_that_its_tests_read(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("hf_diversity", "tests", "recipes", "docs", "benchmarks", "examples", "model_cards", "scripts")
    wanted = {"Makefile", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml"}
    assert not (wanted | files_below(*folders)) - names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith(("outputs", ".git"))]


# Templates, embedded data, metrics' pages, commands and subprocesses: what could be missing from an installation
CHECKED = (
    "test_data.py", "test_measurements.py", "test_probe_page.py", "test_cards.py", "test_environment.py",
    "test_dependencies.py", "test_versions.py", "test_functional.py",
)  # fmt: skip


@pytest.mark.slow
def test_the_installed_wheel_passes_the_tests_of_the_sdist(built, tmp_path):
    """In an environment of its own, which sees the packages of this one and not this repository."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    installed = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    [path] = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", path, env=environment)
    # An editable installation there is not seen: .pth files of a folder that a .pth file names are not read
    (installed / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.glob("hf_diversity-*")
    options = {"cwd": source, "env": environment}
    # -P: the current folder, which has the sources, is not looked at
    assert run(python, "-P", "-c", "import hf_diversity; print(hf_diversity.__file__)", **options).startswith(
        str(installed)
    )
    assert "layers" in run(python.with_name("hf-diversity"), "--help", **options)
    print(run(python, "-P", "-m", "pytest", "-q", *(f"tests/{name}" for name in CHECKED), **options))
