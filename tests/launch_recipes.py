"""Started by `accelerate launch` in test_recipes_processes.py: several recipe runs in one set of processes.

accelerate launch ... tests/launch_recipes.py RECIPE words of run 1 :: RECIPE words of run 2
"""

import importlib
import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

if __name__ == "__main__":
    script, *words = sys.argv
    for is_separator, group in groupby(words, lambda word: word == "::"):
        if not is_separator:
            recipe, *line = group
            sys.argv = [script, *line]
            importlib.import_module(recipe).main()
