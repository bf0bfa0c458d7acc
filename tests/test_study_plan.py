"""The plan of a study: its runs, the choice of settings, and what is refused."""

import copy
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies.plan import choose, make_study, merge, open_runs, read_study, varied_fields
from tiny_study import tiny, write


def study_of(**changes):
    return make_study(tiny(**changes), "test")


FIRST = {"baseline": 0}


def record(run, accuracy=0.5, loss=1.0, status="done"):
    metrics = {"validation": {"accuracy": accuracy, "loss": loss}}
    return {"id": run.id, "status": status, "metrics": metrics if status == "done" else {}}


def test_every_method_and_seed_has_its_runs():
    study = study_of(seeds=[3, 4, 5], tuning_seeds=[7, 8], conditions={"few": {"max_train_samples": 32}, "all": {}})
    tuning = [run for condition in study.conditions for run in study.tuning_runs(condition, {"baseline": 1})]
    final = [
        run for condition in study.conditions for run in study.final_runs(condition, {"baseline": 1, "direct": 0})
    ]
    wanted = itertools.product(["few", "all"], ["baseline", "direct"], [0, 1], [7, 8])
    assert {(r.condition, r.method, r.setting, r.seed) for r in tuning} == set(wanted) and len(tuning) == 16
    assert {(r.condition, r.method, r.seed) for r in final} == set(
        itertools.product(["few", "all"], ["baseline", "direct"], [3, 4, 5])
    )
    assert study.size == len(tuning) + len(final) == 28
    assert len({run.id for run in tuning + final}) == 28
    for run in tuning + final:
        assert run.fields["evaluate_test"] == run.is_final and run.fields["keep_files"] is False
        assert {run.fields[name] for name in ("seed", "split_seed", "label_noise_seed")} == {run.seed}
        assert run.fields["max_train_samples"] == (32 if run.condition == "few" else 64)
    assert all(run.fields["diversity_weight"] == 0.1 for run in final if run.method == "direct")


def test_equal_runs_have_one_id_whatever_the_names_and_the_order_of_the_fields():
    one, two = study_of(), study_of(conditions={"another name": {}})
    ids = [run.id for run in one.tuning_runs("clean", FIRST)]
    assert ids == [run.id for run in two.tuning_runs("another name", FIRST)] and len(set(ids)) == 4
    arguments = dict(reversed(tiny()["arguments"].items()))
    assert [r.id for r in study_of(arguments=arguments).tuning_runs("clean", FIRST)] == ids
    other = study_of(arguments={**arguments, "num_train_epochs": 3})
    assert not {r.id for r in other.tuning_runs("clean", FIRST)} & set(ids)


def test_settings_are_put_on_top_of_what_was_chosen_for_the_reference():
    study = study_of()
    assert {run.method for run in study.tuning_runs("clean", {})} == {"baseline"}
    for place, rate in enumerate([1e-3, 3e-3]):
        runs = [r for r in study.tuning_runs("clean", {"baseline": place}) if r.method == "direct"]
        runs += [r for r in study.final_runs("clean", {"baseline": place, "direct": 1}) if r.method == "direct"]
        assert len(runs) == 4 and {run.fields["learning_rate"] for run in runs} == {rate}
        assert [run.fields["diversity_weight"] for run in runs] == [0.1, 1.0, 1.0, 1.0]
    rates = {run.fields["learning_rate"] for run in study.tuning_runs("clean", FIRST) if run.method == "baseline"}
    assert rates == {1e-3, 3e-3}, "the reference still has all of its own"


def test_settings_are_a_list_times_a_grid():
    method = {
        "arguments": {"measure": "none"},
        "settings": [{"model_args": {"drop_rate": 0.1}}, {"activation_weight": 1}],
        "grid": {"learning_rate": [1, 2], "weight_decay": [0, 9]},
    }
    settings = study_of(methods={"a": method}).methods["a"]
    assert len(settings) == 8 and all(fields["measure"] == "none" for fields in settings)
    assert settings[0] == {
        "measure": "none", "model_args": {"drop_rate": 0.1}, "learning_rate": 1, "weight_decay": 0,
    }  # fmt: skip
    assert varied_fields(settings)[1] == {"drop_rate": 0.1, "learning_rate": 1, "weight_decay": 9}
    assert varied_fields(settings)[4] == {"learning_rate": 1, "weight_decay": 0, "activation_weight": 1}


def test_mappings_are_merged_and_the_last_value_counts():
    start = {"model_args": {"in_chans": 1}, "seed": 1}
    assert merge(start, {"model_args": {"drop_rate": 0.5}}, {"seed": 2}) == {
        "model_args": {"in_chans": 1, "drop_rate": 0.5}, "seed": 2,
    }  # fmt: skip
    assert start == {"model_args": {"in_chans": 1}, "seed": 1}


@given(
    scores=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=12, max_size=12),
    by=st.sampled_from(["accuracy", "loss"]),
    bad=st.sets(st.integers(0, 11), max_size=3),
)
def test_the_best_mean_on_validation_is_chosen(scores, by, bad):
    """Against a sort of float64 means; quarters and halves are exact, so that ties are ties."""
    methods = {name: {"grid": {"learning_rate": [1, 2, 3]}} for name in "ab"}
    methods["b"]["arguments"] = {"weight_decay": 1}
    study = study_of(methods=methods, tuning_seeds=[7, 8], select_by=by)

    def values(run):
        return scores[("ab".index(run.method) * 3 + run.setting) * 2 + run.seed - 7]

    def is_bad(run):
        return ("ab".index(run.method) * 3 + run.setting) * 2 + run.seed - 7 in bad

    # Whatever is chosen for the reference, there are results for what is built on it
    every = [run for first in range(3) for run in study.tuning_runs("clean", {"a": first})]
    records = {
        run.id: record(run, values(run)[0] / 4, values(run)[1] / 2, "diverged" if is_bad(run) else "done")
        for run in every
    }
    expected = {}
    for method in "ab":
        table = []
        for setting in range(3):
            own = [r for r in study.tuning_runs("clean", {"a": 0}) if (r.method, r.setting) == (method, setting)]
            if not any(map(is_bad, own)):
                accuracy, loss = np.mean([(values(r)[0] / 4, values(r)[1] / 2) for r in own], axis=0)
                first, second = (-accuracy, loss) if by == "accuracy" else (loss, -accuracy)
                table.append((first, second, setting))
        if table:
            expected[method] = sorted(table)[0][2]
    if "a" not in expected:
        expected = {}  # nothing to build on
    assert choose(study, "clean", records) == expected


def test_the_choice_waits_for_the_last_run_and_does_not_see_the_test_set():
    study = study_of(tuning_seeds=[7, 8])
    runs = list(study.tuning_runs("clean", {"baseline": 1}))
    records = {run.id: record(run, accuracy=0.1 * run.setting) for run in runs}
    assert choose(study, "clean", records) == {"baseline": 1, "direct": 1}
    for method, left in (("direct", {"baseline": 1}), ("baseline", {})):
        last = next(run for run in reversed(runs) if run.method == method)
        without = {key: value for key, value in records.items() if key != last.id}
        assert choose(study, "clean", without) == left
    # Whatever a test metric might say, were there one
    poisoned = copy.deepcopy(records)
    for run in runs:
        poisoned[run.id]["metrics"]["test"] = {"accuracy": 1.0 - run.setting, "loss": 9.0 * run.setting}
    assert choose(study, "clean", poisoned) == choose(study, "clean", records)


def test_runs_come_when_what_they_depend_on_is_chosen():
    study = study_of()

    def kinds(runs):
        return [(run.method, run.is_final) for run in runs]

    done = {}
    waiting = open_runs(study, done)
    assert kinds(waiting) == [("baseline", False)] * 2
    done |= {run.id: record(run) for run in waiting}
    waiting = open_runs(study, done)
    assert kinds(waiting) == [("direct", False)] * 2 + [("baseline", True)] * 2
    done |= {run.id: record(run) for run in waiting}
    waiting = open_runs(study, done)
    assert kinds(waiting) == [("direct", True)] * 2
    assert open_runs(study, done | {run.id: record(run) for run in waiting}) == []


def test_a_method_whose_settings_all_diverged_has_no_final_run():
    study = study_of()
    runs = list(study.tuning_runs("clean", FIRST))
    done = {run.id: record(run, status="diverged" if run.method == "direct" else "done") for run in runs}
    assert kinds_of(open_runs(study, done)) == {("baseline", True)}
    # Nothing can be built on a reference without a choice
    done = {run.id: record(run, status="diverged") for run in runs if run.method == "baseline"}
    assert open_runs(study, done) == []


def kinds_of(runs):
    return {(run.method, run.is_final) for run in runs}


def with_method(**method):
    return {**tiny()["methods"], "direct": method}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {}}, "unknown key 'method': did you mean 'methods'"),
        ({"recipe": "image_clasification"}, "recipe is 'image_clasification': it must be one of image_classification"),
        ({"select_by": "test"}, "select_by is 'test': it must be one of accuracy, loss"),
        ({"seeds": 0}, "seeds is 0: it must be a number of seeds"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]"),
        ({"seeds": True}, "seeds is True"),
        ({"tuning_seeds": [1]}, r"\[1\] are both in seeds and in tuning_seeds"),
        ({"conditions": {}}, "at least one condition and one method"),
        ({"conditions": {"a": 3}}, "condition 'a' is 3: it must be a mapping"),
        ({"methods": with_method(grid={"diversity_weight": [1]})}, "'baseline': 2, 'direct': 1} settings: a fair"),
        ({"methods": with_method(grid={"diversity_weight": 1})}, "method 'direct': diversity_weight of grid is 1"),
        ({"methods": with_method(gird={})}, "method 'direct': unknown key 'gird': did you mean 'grid'"),
        ({"methods": with_method(settings={})}, "method 'direct': settings must be a list of mappings"),
        ({"methods": with_method(settings=[{"seed": 3}, {}])}, "direct: seed is set by the study itself"),
        ({"arguments": {"output_dir": "x"}}, "arguments: output_dir is set by the study itself"),
        ({"methods": with_method(settings=[{}, {}])}, "method 'direct': the setting {} is there twice"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match="^test: .*" + message):
        study_of(**changes)


def test_a_missing_part_and_a_missing_file_are_named(tmp_path):
    values = tiny()
    del values["tuning_seeds"]
    with pytest.raises(ValueError, match="tuning_seeds is missing"):
        make_study(values, "test")
    with pytest.raises(ValueError, match="nowhere.yaml: no such file"):
        read_study(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="broken.yaml: not YAML"):
        read_study(tmp_path / "broken.yaml")


def test_a_base_file_comes_first(tmp_path):
    write(tmp_path / "base.yaml", tiny())
    more = {"base": "base.yaml", "seeds": [5], "arguments": {"model": "x", "model_args": {"y": 2}}}
    more["conditions"] = {"another": {}}
    study, values = read_study(write(tmp_path / "more.yaml", more))
    assert study.arguments == {**tiny()["arguments"], "model": "x", "model_args": {"in_chans": 1, "y": 2}}
    assert list(study.conditions) == ["another"], "conditions are replaced"
    assert study.seeds == [5] and list(study.methods) == ["baseline", "direct"] and "base" not in values
    assert json.dumps(values)
