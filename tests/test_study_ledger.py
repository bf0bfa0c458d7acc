"""The folder of a study: nothing lost, nothing twice, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies.ledger import Ledger

RECIPES = Path(__file__).parent.parent / "recipes"
START = (
    f"import sys; sys.path.insert(0, {str(RECIPES)!r}); from pathlib import Path; from studies.ledger import Ledger;"
)


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(tmp_path / "study")
    made.create()
    return made


def other_process(ledger, code):
    line = f"{START} ledger = Ledger(Path({str(ledger.folder)!r}));\n{code}"
    return subprocess.Popen([sys.executable, "-c", line], stdout=subprocess.PIPE, text=True)


def test_records_come_back_and_the_first_of_two_counts(ledger):
    assert ledger.records() == {}
    ledger.append({"id": "a", "value": [1.5, None]})
    ledger.append({"id": "b"})
    ledger.append({"id": "a", "value": 2})
    assert ledger.records() == {"a": {"id": "a", "value": [1.5, None]}, "b": {"id": "b"}}
    with pytest.raises(ValueError, match="JSON"):
        ledger.append({"id": "c", "value": float("nan")})
    assert len(ledger.records()) == 2


@pytest.mark.parametrize("kept", range(0, 23, 4))
def test_a_torn_line_is_no_result_and_swallows_none(ledger, kept):
    ledger.append({"id": "a", "text": "ä"})
    whole = ledger.results.read_bytes()
    line = json.dumps({"id": "b", "text": "ä"}).encode()
    ledger.results.write_bytes(whole + line[:kept])
    assert list(ledger.records()) == ["a"]
    ledger.append({"id": "c"})
    assert list(ledger.records()) == ["a", "c"]
    assert ledger.results.read_bytes().startswith(whole + line[:kept]), "nothing is ever taken out"


def test_many_processes_append_whole_lines(ledger):
    code = """
text = "x" * 50_000
for number in range(20):
    ledger.append({"id": f"{NAME}-{number}", "text": text})
"""
    running = [other_process(ledger, code.replace("{NAME}", str(name))) for name in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    lines = ledger.results.read_text().splitlines()
    assert len(lines) == 80 and all(len(json.loads(line)["text"]) == 50_000 for line in lines)
    assert len(ledger.records()) == 80


def test_a_claim_holds_in_every_process_and_ends_with_the_block(ledger):
    code = """
with ledger.claim("run") as folder: print(folder is None)
"""
    with ledger.claim("run") as folder:
        assert folder is not None and not folder.exists()
        folder.mkdir()
        assert other_process(ledger, code).communicate(timeout=30)[0].strip() == "True"
        assert list(ledger.running()) == ["run"] and ledger.running()["run"] < 30
        with ledger.claim("another") as second:
            assert second is not None and set(ledger.running()) == {"run", "another"}
        assert folder.is_dir(), "it must not be touched by those that were refused"
    assert not folder.exists() and ledger.running() == {}
    assert other_process(ledger, code).communicate(timeout=30)[0].strip() == "False"


def test_a_claim_ends_with_an_error_too(ledger):
    with pytest.raises(KeyError), ledger.claim("run"):
        raise KeyError
    assert ledger.running() == {}


def test_a_killed_process_leaves_no_claim(ledger):
    code = """
import time
with ledger.claim("run") as folder:
    folder.mkdir(); (folder / "left").touch(); print("claimed", flush=True); time.sleep(60)
"""
    process = other_process(ledger, code)
    assert process.stdout.readline().strip() == "claimed"
    assert list(ledger.running()) == ["run"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    end = time.time() + 5
    while ledger.running() and time.time() < end:
        time.sleep(0.05)
    assert ledger.running() == {}
    with ledger.claim("run") as folder:
        assert folder is not None and not folder.exists(), "what the killed run wrote is gone"
