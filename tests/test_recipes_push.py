"""A recipe that publishes: its own card, results and figures; and when that fails, everything is on the disk."""

import json

import language_modeling
import pytest
import text_classification
from image_classification import main
from test_recipes import RECIPES, SMALL, train

from hf_diversity.publishing.commit import HERE, PushError

REPO = "someone/run"
PUSHING = ["--max_steps", "2", "--push_to_hub", "true", "--hub_model_id", REPO, "--hub_token", "hf_loopbackwrite"]
PUSHING += ["--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
WRITTEN = {"README.md", "results.json", "training.png", "similarity.png", "model.safetensors"}


def test_its_own_card_and_results_are_published_last(hub, tmp_path):
    results = train(tmp_path / "run", *PUSHING)
    files = hub.repositories[REPO].files()
    assert WRITTEN <= files.keys() and not any(name.endswith(".npz") for name in files)
    card = files["README.md"].decode()
    assert f'folder = "{REPO}"' in card and "license: apache-2.0" in card and "| accuracy |" in card
    assert json.loads(files["results.json"])["metrics"] == results["metrics"]
    assert b"hf_loopbackwrite" not in b"".join(files.values())


def test_the_code_of_every_recipe_is_told_where_the_model_is():
    """What `publishing` replaces by the repository's name."""
    usages = (text_classification.USAGE, language_modeling.CAUSAL_USAGE, language_modeling.MASKED_USAGE)
    assert all(f"folder = {HERE}\n" in usage for usage in usages)


def test_a_failed_push_leaves_everything_on_the_disk(hub, tmp_path, capsys, monkeypatch):
    hub.fail("POST .*/commit/", 403, times=50)
    with pytest.raises(PushError, match="hf-diversity push") as raised:
        train(tmp_path / "run", *PUSHING)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= WRITTEN
    assert raised.value.train_output["metrics"]["test"]["accuracy"] > 0
    line = [
        "--config",
        str(RECIPES / "configs" / "demo.yaml"),
        *SMALL,
        "--output_dir",
        str(tmp_path / "two"),
        *PUSHING,
    ]
    monkeypatch.setattr("sys.argv", ["image_classification.py", *line])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert stopped.value.code == 1 and "| accuracy |" in told.out and "hf-diversity push" in told.err
