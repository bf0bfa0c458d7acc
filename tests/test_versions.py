"""The oldest versions that are tested are those that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_constraints_of_make_test_min_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = dict(line.split(">=") for lines in lists for line in lines if not line.startswith("hf-diversity"))
    lines = (ROOT / "tests" / "constraints-min.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.keys() == bounds.keys() and len(pins) > 10
    for name, bound in bounds.items():
        assert re.sub(r"(\.0)+$", "", pins[name]) == re.sub(r"(\.0)+$", "", bound), name
