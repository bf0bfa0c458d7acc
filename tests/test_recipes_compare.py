"""Finished runs side by side."""

import json

import compare
import pytest


def finished(folder, name, seed, accuracy, perplexity=None):
    values = {
        split: {"loss": 1.0 + place, "accuracy": accuracy - place / 10}
        for place, split in enumerate(("train", "validation", "test"))
    }
    gaps = {"test": {"loss": 2.0, "accuracy": 0.2}}
    if perplexity is not None:
        for split in values:
            values[split]["perplexity"] = perplexity
        gaps["test"]["perplexity"] = 0.0
    results = {
        "name": name, "seeds": {"seed": seed}, "metrics": values, "gaps": gaps, "similarity": {},
        "training": {"seconds": 3.0},
    }  # fmt: skip
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def test_runs_are_paired_by_seed_whatever_the_order(tmp_path, capsys):
    folders = [
        finished(tmp_path / "a", "baseline", 1, 0.6),
        finished(tmp_path / "b", "direct 1", 0, 0.9),
        finished(tmp_path / "c", "baseline", 0, 0.8),
        finished(tmp_path / "d", "direct 1", 1, 0.9),
    ]
    compare.main(folders)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | baseline | direct 1 | direct 1 - baseline, paired |"
    (row,) = (line for line in lines if line.startswith("| test accuracy"))
    # .4 and .6 against .7 and .7: differences .3 and .1
    assert row == "| test accuracy | 0.5000 ± 0.1414 | 0.7000 ± 0.0000 | +0.2000 ± 0.1414 |"
    titles = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    assert "accuracy gap (train - test)" in titles and "loss gap (test - train)" in titles


def test_other_metrics_have_rows(tmp_path, capsys):
    compare.main([finished(tmp_path / "a", "baseline", 1, 0.6, perplexity=9.5)])
    out = capsys.readouterr().out
    assert "| test perplexity | 9.5000 |" in out and "| perplexity gap (test - train) | 0.0000 |" in out


def test_what_cannot_be_compared_is_said(tmp_path):
    one, two = finished(tmp_path / "a", "baseline", 1, 0.6), finished(tmp_path / "b", "direct 1", 2, 0.6)
    with pytest.raises(ValueError, match="the seeds are {'baseline': \\[1\\], 'direct 1': \\[2\\]}.*the same ones"):
        compare.main([one, two])
    with pytest.raises(ValueError, match="holds no results.json"):
        compare.main([str(tmp_path)])
