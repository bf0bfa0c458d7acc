"""The demo in a small form."""

import json

import demo
import numpy as np
import pytest
from PIL import Image

SMALL = [
    "--max_train_samples",
    "64",
    "--max_validation_samples",
    "40",
    "--num_train_epochs",
    "1",
    "--warmup_steps",
    "0",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    results = demo.main(["--output_dir", str(folder), "--seeds", "3", "4", *SMALL])
    return folder, results


def test_twins_share_everything_but_the_regulariser(finished):
    _, results = finished
    (name, baseline), (other, diversity), (alone, norm) = results.items()
    assert name == "baseline" and other.startswith("direct") and alone.startswith("norm only")
    weights = [found[0]["diversity"]["config"]["activation_weight"] for found in (norm, diversity)]
    assert norm[0]["diversity"]["config"]["measure"] == "none" and weights[0] == weights[1] > 0
    assert norm[0]["metrics"] != diversity[0]["metrics"] != baseline[0]["metrics"] != norm[0]["metrics"]
    for plain, regularised, seed in zip(baseline, diversity, (3, 4), strict=True):
        assert plain["seeds"] == regularised["seeds"] and plain["seeds"]["seed"] == seed
        # The same start: measured before training, to the last digit.
        assert plain["similarity"]["before"] == regularised["similarity"]["before"]
        assert plain["data"] == regularised["data"]
        assert plain["metrics"] != regularised["metrics"], "the regulariser did nothing"
    assert baseline[0]["similarity"]["before"] != baseline[1]["similarity"]["before"]


def test_the_table_is_what_the_results_are(finished):
    folder, results = finished
    table = (folder / "table.md").read_text()
    assert table.strip() == demo.compare(results, demo.ROWS)
    accuracies = [[r["metrics"]["test"]["accuracy"] for r in found] for found in results.values()]
    row = next(line for line in table.splitlines() if line.startswith("| test accuracy"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    for values, cell in zip(accuracies, cells[1:4], strict=True):
        assert cell == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    difference = np.subtract(accuracies[1], accuracies[0])
    assert cells[4] == f"{np.mean(difference):+.4f} ± {np.std(difference, ddof=1):.4f}"
    assert set(json.loads((folder / "results.json").read_text())["runs"]) == set(results)


def test_figures_and_checkpoints_are_there(finished):
    folder, results = finished
    for name in ("similarity.png", "gap.png"):
        assert np.asarray(Image.open(folder / name)).std() > 10
    for twin in ("baseline", "diversity", "norm_only"):
        for seed in (3, 4):
            assert (folder / f"{twin}-{seed}" / "model.safetensors").is_file()
    assert demo.check_reload(folder / "diversity-3") == (1000, 1000)


def test_a_checkpoint_that_does_not_reload_is_noticed(finished, tmp_path):
    folder, _ = finished
    import shutil

    shutil.copytree(folder / "diversity-4", tmp_path / "other")
    shutil.copy(folder / "diversity-3" / "model.safetensors", tmp_path / "other" / "model.safetensors")
    same, total = demo.check_reload(tmp_path / "other")
    assert same < total


def fake(accuracy, gap, similarity):
    return {
        "metrics": {"train": {"accuracy": accuracy + gap}, "test": {"accuracy": accuracy}},
        "gaps": {"test": {"accuracy": gap, "loss": gap}},
        "similarity": {
            when: {"layer": {"mean_similarity": similarity, "activation_norm": 1.0}} for when in ("before", "after")
        },
        "training": {"seconds": 1.0},
        "data": {"test": 400},
    }


def test_it_says_what_it_found_whatever_it_found():
    worse = {"baseline": [fake(0.8, 0.1, 0.5)] * 3, "direct 9": [fake(0.7, 0.2, 0.4)] * 3}
    said = demo.findings(worse)
    assert said[0].startswith(
        "direct 9: test accuracy -0.1000 against baseline, in the same direction with all 3 seeds"
    )
    assert "accuracy gap (train - test) +0.1000" in said[1] and "similarity after training -0.1000" in said[2]
    mixed = {"baseline": [fake(0.8, 0.1, 0.5)] * 2, "x": [fake(0.7, 0.1, 0.5), fake(0.9, 0.1, 0.5)]}
    assert "higher with 1, lower with 1 of 2 seed(s): not to be told from chance" in demo.findings(mixed)[0]
    assert "standard error of 0.020" in demo.findings(mixed)[-1]


def test_a_mistyped_word_stops_it_before_training(tmp_path, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--output_dir", str(tmp_path / "x"), "--num_train_epoch", "1"])
    assert "did you mean 'num_train_epochs'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
