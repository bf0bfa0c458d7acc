"""The numbers of a report against independent computations, and the page."""

import json
import math
import re
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import special
from studies.analysis import MEASURES, analyse
from studies.figures import accuracy_figure, difference_figure
from studies.inference import holm, mean_interval, paired_difference
from studies.plan import make_study
from studies.progress import status, time_left
from studies.report import write
from tiny_study import tiny

VALUES = [0.81, 0.84, 0.79, 0.83, 0.80, 0.86]
REFERENCE = [0.80, 0.82, 0.80, 0.80, 0.79, 0.83]


def t_quantile(probability, freedom):
    """By bisection of Student's distribution function, an incomplete beta function."""
    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - t_two_sided(middle, freedom) / 2 < probability else (low, middle)
    return low


def t_two_sided(statistic, freedom):
    return special.betainc(freedom / 2, 0.5, freedom / (freedom + statistic**2))


@pytest.mark.parametrize("values", [VALUES, REFERENCE, [1.0, 2.0], [-3.5, 0.25, 8.0]])
def test_the_mean_and_its_interval(values):
    reach = t_quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    found = mean_interval(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach), rel=1e-9)
    assert found.count == len(values)


def test_a_paired_difference():
    found = paired_difference(VALUES, REFERENCE)
    differences = [a - b for a, b in zip(VALUES, REFERENCE, strict=True)]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(6)
    reach = t_quantile(0.975, 5) * error
    assert found.difference.mean == pytest.approx(mean)
    assert (found.difference.low, found.difference.high) == pytest.approx((mean - reach, mean + reach), rel=1e-9)
    assert found.p == pytest.approx(t_two_sided(mean / error, 5), rel=1e-9) and 0.001 < found.p < 0.2
    assert (found.higher, found.lower) == (5, 1)
    # Not the unpaired test, which is blind to what the seeds share
    assert found.p < 0.5 * t_two_sided(
        mean / math.hypot(*(statistics.stdev(v) / 6**0.5 for v in (VALUES, REFERENCE))), 10
    )
    assert paired_difference(REFERENCE, VALUES).difference.mean == -found.difference.mean
    order = [3, 1, 0, 5, 2, 4]
    shuffled = paired_difference([VALUES[i] for i in order], [REFERENCE[i] for i in order])
    assert shuffled.p == pytest.approx(found.p) and shuffled.difference.low == pytest.approx(found.difference.low)


def test_the_bootstrap_is_bias_corrected_and_accelerated():
    """Efron's BCa interval, written out; another stream of random numbers, so to within its noise."""
    # Not on a grid, where quantiles would jump, and skewed
    values, reference = np.random.default_rng(3).exponential(size=(2, 12)) * [[1.5], [0.5]]
    differences = values - reference
    mean, count = differences.mean(), len(differences)
    resampled = np.sort(np.random.default_rng(7).choice(differences, (200_000, count)).mean(axis=1))
    share = ((resampled < mean).mean() + (resampled <= mean).mean()) / 2
    bias = special.ndtri(share)
    left_out = np.array([np.delete(differences, place).mean() for place in range(count)])
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    ends = []
    for probability in (0.025, 0.975):
        z = bias + special.ndtri(probability)
        ends.append(np.quantile(resampled, special.ndtr(bias + z / (1 - acceleration * z))))
    several = [paired_difference(values, reference, seed) for seed in range(16)]
    found = [
        statistics.fmean(one.bootstrap_low for one in several),
        statistics.fmean(one.bootstrap_high for one in several),
    ]
    width = ends[1] - ends[0]
    assert found == pytest.approx(ends, abs=0.015 * width)
    # The plain percentile interval is another one
    assert abs(found[1] - np.quantile(resampled, 0.975)) > 0.06 * width


def test_few_and_equal_values():
    alone = paired_difference([0.5], [0.4])
    assert alone.difference.mean == pytest.approx(0.1) and math.isnan(alone.p) and math.isnan(alone.difference.low)
    same = paired_difference([0.5, 0.6], [0.5, 0.6])
    assert same.p == 1 and same.difference.low == same.difference.high == 0 and same.higher == same.lower == 0
    shifted = paired_difference([1.5, 2.5], [1.0, 2.0])
    assert math.isnan(shifted.p) and shifted.difference.low == shifted.difference.high == 0.5
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_difference([1.0, 2.0], [1.0])


@settings(deadline=None)  # a busy machine
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_holms_correction(p_values):
    known = sorted(((p, place) for place, p in enumerate(p_values) if not math.isnan(p)), key=lambda item: item[0])
    expected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        expected[place] = largest
    assert holm(p_values) == pytest.approx(expected, nan_ok=True)


def filled(study, effect=0.03, diverged=(), skip=(), best=1, corruptions=()):
    """Records of all runs: setting `best` is the best on validation, and `direct` gains `effect` on test.

    Under corruption it gains four times that.
    """
    generator = np.random.default_rng(0)
    of_seed = {seed: generator.normal(scale=0.02) for seed in study.seeds}
    records = {}
    for condition in study.conditions:
        for run in study.tuning_runs(condition, {study.reference: best}):
            values = {"accuracy": 0.7 + 0.01 * (run.setting == best), "loss": 0.5}
            records[run.id] = {
                "id": run.id, "status": "done", "seconds": 2.0, "metrics": {"validation": values},
                "model": {"name": "net", "parameters": 9}, "data": {"name": "data"},
                "versions": {"torch": "1"}, "hardware": {"device": "cpu"},
            }  # fmt: skip
        for run in study.final_runs(condition, dict.fromkeys(study.methods, best)):
            if (run.method, run.seed) in skip:
                continue
            gain = effect if run.method == "direct" else 0.0
            test = 0.8 + of_seed[run.seed] + gain + generator.normal(scale=0.004)
            layer = {"mean_similarity": 0.6, "effective_rank": 20.0 + generator.normal()}
            split = {
                "train": {"accuracy": 1.0, "loss": 0.1, "calibration_error": 0.01},
                "validation": {"accuracy": 0.8, "loss": 0.6, "calibration_error": 0.1},
                "test": {
                    "accuracy": test,
                    "loss": 1.4 - test,
                    "calibration_error": 0.1 + generator.normal(scale=0.01),
                },
            }
            for place, name in enumerate([*corruptions, "corrupted"] if corruptions else ()):
                accuracy = test - 0.1 * (1 + place) + 3 * gain + generator.normal(scale=0.004)
                split[f"test_{name}"] = {"accuracy": accuracy, "loss": 2 - accuracy, "calibration_error": 0.2}
            gaps = {"test": {"accuracy": 1.0 - test, "loss": 1.3 - test}}
            done = {"metrics": split, "gaps": gaps, "similarity": {"after": {"fc": layer}}}
            is_done = (run.method, run.seed) not in diverged
            records[run.id] = {
                "id": run.id, "status": "done" if is_done else "diverged", "seconds": 4.0, "final": True,
                "training": {"seconds": 3.0}, **(done if is_done else {"error": "NaN"}),
                "model": {"name": "net", "parameters": 9}, "data": {"name": "data"},
                "versions": {"torch": "1"}, "hardware": {"device": "cpu"},
            }  # fmt: skip
    return records


def three_methods(**changes):
    methods = {**tiny()["methods"], "norm only": {"grid": {"activation_weight": [0.1, 0.2]}}}
    changes = {"conditions": {"clean": {}, "noise": {"label_noise": 0.4}}, **changes}
    return make_study(tiny(methods=methods, seeds=8, **changes), "t")


def test_the_analysis_is_that_of_the_records():
    study = three_methods()
    records = filled(study)
    found = analyse(study, records)
    p_values = {}
    for condition in study.conditions:
        runs = {
            (run.method, run.seed): records[run.id]
            for run in study.final_runs(condition, dict.fromkeys(study.methods, 1))
        }
        for method in study.methods:
            accuracies = [runs[method, seed]["metrics"]["test"]["accuracy"] for seed in range(8)]
            result = found[condition][method]
            assert result.values["test_accuracy"] == accuracies and result.seeds == list(range(8))
            assert result.means["test_accuracy"].mean == pytest.approx(statistics.fmean(accuracies))
            assert [score for _, score in result.scores] == pytest.approx([0.7, 0.71])
            if method != "baseline":
                base = [runs["baseline", seed]["metrics"]["test"]["accuracy"] for seed in range(8)]
                differences = np.subtract(accuracies, base)
                error = differences.std(ddof=1) / 8**0.5
                p_values[condition, method] = t_two_sided(differences.mean() / error, 7)
                assert result.differences["test_accuracy"].p == pytest.approx(p_values[condition, method])
        assert list(result.adjusted_p) == list(result.differences), "in the order of the measures, not of a set"
    # Holm over all four comparisons of the study, not over those of a condition
    ordered = sorted(p_values, key=p_values.get)
    largest = 0.0
    for rank, key in enumerate(ordered):
        largest = max(largest, min(1.0, (4 - rank) * p_values[key]))
        assert found[key[0]][key[1]].adjusted_p["test_accuracy"] == pytest.approx(largest)
    assert found["clean"]["baseline"].differences == {} and found["clean"]["direct"].setting == {
        "diversity_weight": 1.0
    }


def test_seeds_that_one_side_lacks_are_left_out_of_the_pairs_and_said(tmp_path):
    study = three_methods()
    records = filled(study, diverged=[("direct", 2)], skip=[("baseline", 5)])
    found = analyse(study, records)
    direct = found["clean"]["direct"]
    assert direct.diverged == [2] and direct.means["test_accuracy"].count == 7
    assert direct.differences["test_accuracy"].difference.count == 6
    page = write(tmp_path, study, records)
    assert "**direct diverged with seed(s) 2**" in page and "baseline: 7 of 8 seeds are done" in page
    assert f"**Not finished: {study.size - 2} of {study.size} runs are done.**" in page


def rows(page, title):
    """The rows of the tables below a title, by first cell."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_run_that_was_stopped_for_hours_does_not_carry_the_time_of_its_method(tmp_path):
    study = three_methods()
    records = filled(study)
    final = next(run for run in study.final_runs("clean", dict.fromkeys(study.methods, 1)) if run.method == "direct")
    records[final.id]["training"]["seconds"] = 36_000.0
    page = write(tmp_path, study, records)
    head = next(line for line in page.splitlines() if "median seconds of training" in line)
    place = [cell.strip() for cell in head.split("|")].index("median seconds of training")
    row = next(line for line in page.splitlines() if line.startswith("| direct |"))
    assert [cell.strip() for cell in row.split("|")][place] == "3.0"


def test_the_page_holds_the_numbers_and_says_what_is_clear(tmp_path):
    study = three_methods()
    records = filled(study)
    page = write(tmp_path, study, records)
    assert page == (tmp_path / "report.md").read_text()
    found = analyse(study, records)
    table = rows(page, "noise")
    heads = table[0]
    assert heads[0] == "method" and len(heads) == 1 + len(MEASURES)
    (row,) = [r for r in table if r[0] == "direct" and len(r) == len(heads)]
    mean = found["noise"]["direct"].means["test_accuracy"]
    assert row[heads.index("test accuracy")] == f"{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]"
    (difference,) = [r for r in table if r[0] == "direct" and len(r) == 6]
    one = found["noise"]["direct"].differences["test_accuracy"].difference
    assert difference[1] == f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}] *"
    assert f"- test accuracy: better than baseline: direct ({one.mean:+.4f})." in page.split("## noise")[1]
    assert "diversity_weight 1.0" in page and "(4)" in page
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["noise"]["direct"]["means"]["test_accuracy"]["mean"] == pytest.approx(mean.mean)
    for name in re.findall(r"\]\((\w+\.png)\)", page):
        assert np.asarray(Image.open(tmp_path / name)).std() > 10


def test_without_an_effect_nothing_is_claimed_and_harm_is_said(tmp_path):
    study = three_methods()
    page = write(tmp_path, study, filled(study, effect=0.0))
    assert "test accuracy: no method is clearly better or worse than baseline." in page.split("## clean")[1]
    page = write(tmp_path, study, filled(study, effect=-0.05))
    assert re.search(r"test accuracy: worse: direct \(-0\.05\d\d\)\.", page.split("## clean")[1])
    assert re.search(r"test loss: worse: direct \(\+0\.05\d\d\)\.", page.split("## clean")[1])


def test_corrupted_test_images_have_tables_of_their_own(tmp_path):
    names = ["gaussian_noise", "contrast"]
    conditions = {"clean": {}, "shifted": {"test_corruptions": names, "corruption_severity": 4}}
    study = three_methods(conditions=conditions)
    records = filled(study, corruptions=names)
    found = analyse(study, records)
    runs = study.final_runs("shifted", dict.fromkeys(study.methods, 1))
    own = {(run.method, run.seed): records[run.id]["metrics"] for run in runs}
    for split in ("test_gaussian_noise", "test_contrast", "test_corrupted"):
        columns = [[own[method, seed][split]["accuracy"] for seed in range(8)] for method in ("direct", "baseline")]
        one = found["shifted"]["direct"].differences[f"{split}_accuracy"]
        assert one.difference.mean == pytest.approx(np.subtract(*columns).mean()) and one.difference.mean > 0.1
        differences = np.subtract(*columns)
        assert one.p == pytest.approx(t_two_sided(differences.mean() / (differences.std(ddof=1) / 8**0.5), 7))
        # Two comparisons of this measure: the other condition has none
        ps = [found["shifted"][method].differences[f"{split}_accuracy"].p for method in ("direct", "norm only")]
        adjusted = found["shifted"]["direct"].adjusted_p[f"{split}_accuracy"]
        assert adjusted == pytest.approx(min(1, 2 * min(ps)) if ps[0] == min(ps) else max(ps)) and adjusted < 0.05
    assert "test_corrupted_accuracy" not in found["clean"]["direct"].values
    page = write(tmp_path, study, records)
    assert "severity 4" in page.split("## shifted")[1] and "On corrupted" not in page.split("## shifted")[0]
    table = rows(page, "shifted")
    heads = ["mean accuracy under corruption", "mean loss under corruption", "mean calibration error under corruption"]
    heads += ["accuracy under gaussian_noise", "accuracy under contrast"]
    assert table.count(["method", *heads]) == 2, "means and differences"
    interval = found["shifted"]["direct"].differences["test_contrast_accuracy"].difference
    cell = f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] *"
    assert [row[-1] for row in table if row[0] == "direct"].count(cell) == 1
    assert "- mean accuracy under corruption: better than baseline: direct (+0.1" in page.split("## shifted")[1]
    assert "mean accuracy under corruption" in page.split("<details>")[2].split("</details>")[0]
    assert "translation excepted" in page and "translation excepted" not in write(
        tmp_path, three_methods(), filled(three_methods())
    )
    from matplotlib import pyplot

    figure, axes = difference_figure(found, "baseline")
    assert [axis.get_title() for axis in axes][-1] == heads[0] and len(axes) == 6
    assert [bar.lines[0].get_xdata()[0] for bar in axes[-1].containers][0] > 0.1 and len(axes[-1].containers) == 2
    pyplot.close(figure)


def test_different_machines_are_told(tmp_path):
    study = three_methods()
    records = filled(study)
    records[next(iter(records))]["versions"] = {"torch": "2"}
    assert "**The runs do not share one version" in write(tmp_path, study, records)


def test_there_must_be_a_finished_run(tmp_path):
    study = three_methods()
    with pytest.raises(ValueError, match="no final run is finished yet"):
        write(tmp_path, study, {})


@pytest.mark.parametrize(("best", "edge"), [(0, ["learning_rate"]), (1, ["learning_rate"]), (2, [])])
def test_a_choice_at_the_edge_is_told(best, edge, tmp_path):
    methods = {"baseline": {"grid": {"learning_rate": [0.3, 0.1, 0.2]}}}
    study = make_study(tiny(methods=methods), "t")
    records = filled(study, best=best)
    assert analyse(study, records)["clean"]["baseline"].at_edge == edge
    assert ("the chosen learning_rate lies at the edge" in write(tmp_path, study, records)) == bool(edge)


def test_figures_show_every_difference():
    from matplotlib import pyplot

    study = three_methods()
    found = analyse(study, filled(study))
    figure, axes = difference_figure(found, "baseline")
    drawn = [bar.lines[0].get_xdata()[0] for bar in axes[0].containers]
    wanted = [found[c][m].differences["test_accuracy"].difference.mean for c in found for m in ("direct", "norm only")]
    assert drawn == pytest.approx(wanted) and axes[0].get_xlabel() == "better →" and axes[1].get_xlabel() == "← better"
    clear = [bar.lines[0].get_markerfacecolor() != "white" for bar in axes[0].containers]
    assert clear == [found[c][m].adjusted_p["test_accuracy"] < 0.05 for c in found for m in ("direct", "norm only")]
    assert any(clear) and not all(clear)
    pyplot.close(figure)
    figure, axes = accuracy_figure(found)
    means = {
        float(line.get_xdata()[0]) for line in axes[0].lines if line.get_markersize() == 8 and len(line.get_xdata())
    }
    assert {found["clean"][m].means["test_accuracy"].mean for m in found["clean"]} <= means
    pyplot.close(figure)
    with pytest.raises(ValueError, match="no method has a finished"):
        difference_figure({"clean": {}}, "baseline")
    with pytest.raises(ValueError, match="no final run"):
        accuracy_figure({"clean": {}})


def test_status_counts_and_estimates():
    study = three_methods()
    assert status(study, {}, {}).startswith(f"0 of {study.size} runs done, 0 running, {study.size} left")
    records = filled(study, skip=[("direct", 2), ("direct", 3), ("baseline", 0)], diverged=[("norm only", 1)])
    # Three are left in each of two conditions, at 4 s each; two launches share them.
    assert time_left(study, records, 1) == pytest.approx(24) and time_left(study, records, 2) == pytest.approx(12)
    waiting = [run for run in study.final_runs("clean", dict.fromkeys(study.methods, 1)) if run.id not in records]
    text = status(study, records, {waiting[0].id: 7.0, "of another study": 1.0})
    assert text.startswith(f"{study.size - 6} of {study.size} runs done, 1 running, 5 left, about 24 s at this rate")
    assert f"running for 7 s: {waiting[0]}" in text and "2 diverged" in text
    assert re.search(r"direct +tuning 2/2  final 6/8", text)
