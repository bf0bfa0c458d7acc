"""Started by `accelerate launch` in test_recipes_processes.py: several recipe runs in one set of processes.

accelerate launch ... tests/launch_recipes.py words of run 1 :: words of run 2
"""

import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))

import image_classification  # noqa: E402

if __name__ == "__main__":
    script, *words = sys.argv
    for is_separator, group in groupby(words, lambda word: word == "::"):
        if not is_separator:
            sys.argv = [script, *group]
            image_classification.main()
