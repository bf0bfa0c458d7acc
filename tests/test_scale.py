"""docs/scale.md: the formula of its bytes against what really goes through torch.distributed, and its tables."""

import json
import sys
from pathlib import Path

import pytest
from launch import launch

from hf_diversity import DiversityConfig

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import collectives  # noqa: E402
import scale  # noqa: E402


def test_bytes_of_the_collectives_are_those_of_the_formula():
    output = launch(ROOT / "benchmarks" / "collectives.py", processes=2)
    records = [json.loads(line.removeprefix("RESULT ")) for line in output.splitlines() if line.startswith("RESULT ")]
    wire = [record for record in records if record["what"] == "wire"]
    compared = [record for record in records if record["what"] != "wire"]
    assert len(compared) == len(collectives.CONFIGS) + len(collectives.IN_TRAINER)
    for record in compared:
        assert record["counted"] == record["formula"], record
        silent = record.get("sync") == "local" and record["what"] == "regularizer"
        assert any(record["counted"][0] if record["what"] == "regularizer" else record["counted"]) != silent, record
    if wire:  # other processes may use the loopback device meanwhile
        assert wire[0]["counted"] > 0.99 * wire[0]["formula"]


@pytest.mark.parametrize(
    ("settings", "bytes_of_a_micro_batch"),
    [
        ({"measure": "direct", "gamma": 1.0}, [12]),
        ({"measure": "direct"}, [65536, 12]),
        ({"measure": "direct", "gamma": 1.0, "sync": "local"}, []),
        ({"measure": "logdet", "gamma": 1.0}, [4 * 4096**2 + 8]),
        ({"measure": "decov"}, [4 * 4097, 4 * (4097 * 4096 + 2), 4]),
    ],
)
def test_the_formula_at_4096_units(settings, bytes_of_a_micro_batch):
    """The figures that the page names, written out."""
    assert collectives.of_micro_batch(DiversityConfig(**settings), [4096], step=0) == bytes_of_a_micro_batch


@pytest.mark.parametrize("name", scale.COMPUTED)
def test_the_page_holds_the_computed_tables(name):
    made = scale.COMPUTED[name]()
    assert len(made.splitlines()) > 4
    assert f"<!-- {name} -->\n{made}\n<!-- end of {name} -->" in scale.PAGE.read_text(encoding="utf-8"), (
        "type python benchmarks/scale.py --page, and read the page's text against its tables"
    )


def test_measured_tables_are_there():
    page = scale.PAGE.read_text(encoding="utf-8")
    for name in scale.MEASURED:
        assert len(page.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0].splitlines()) > 4, name
