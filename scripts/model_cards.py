"""Write model_cards/ from a finished `make demo`: cards with figures, and the numbers that tests render them from.

python scripts/model_cards.py outputs/demo
"""

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

from common.report import make_card, read_results  # noqa: E402

from hf_diversity.cards import render  # noqa: E402

CARDS = {"demo_direct": "diversity-0", "demo_norm_only": "norm_only-0", "demo_baseline": "baseline-0"}


def main(demo: Path) -> None:
    """Render the cards of seed 0."""
    for name, run in CARDS.items():
        results = read_results(demo / run)
        figures = ROOT / "model_cards" / name
        figures.mkdir(exist_ok=True)
        for figure in results["figures"]:
            shutil.copy(demo / run / figure, figures)
        results["figures"] = [f"{name}/{figure}" for figure in results["figures"]]
        [usage] = re.findall(r"```python\n(.*?)\n```", (demo / run / "README.md").read_text(encoding="utf-8"), re.S)
        made = {"results": results, "usage": usage}
        path = ROOT / "model_cards" / f"{name}.json"
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(render(make_card(results, usage)), encoding="utf-8")
        print(path.with_suffix(".md"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
