"""Import time in fresh processes, of Trainer and of hf_diversity in turns: `python benchmarks/import_time.py`."""

import statistics
import subprocess
import sys

STATEMENTS = {"Trainer": "from transformers import Trainer", "ours": "from hf_diversity import DiversityTrainer"}
# CPU time, as in the other parts
_TIMED = "import time; start = time.process_time(); {}; print(time.process_time() - start)"


def _seconds(statement):
    command = [sys.executable, "-c", _TIMED.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def against_trainer(rounds=7):
    """Rows of the table; one more round goes before, to fill the caches of files and byte code."""
    from report import Row

    times = {name: [] for name in STATEMENTS}
    for _ in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            times[name].append(_seconds(statement))
    trainer, ours = (statistics.median(times[name][1:]) for name in ("Trainer", "ours"))
    return [
        Row("import of transformers.Trainer", 1e3 * trainer, "ms"),
        Row("import of DiversityTrainer over that", 100 * (ours / trainer - 1), "%", at_most=20),
    ]


if __name__ == "__main__":
    from report import table

    print(table(against_trainer()))
