"""Runs of a study: what the methods share, what the choice may see, and what a result says."""

import dataclasses
import json
import os

import pytest
import torch
from studies.ledger import Ledger
from studies.plan import make_study
from studies.worker import Worker, work_alone
from tiny_study import tiny

from hf_diversity.data.examples import ImageDataset

METHODS = {
    "baseline": {"settings": [{}]},
    "weight decay": {"settings": [{"weight_decay": 1.0}]},
    "dropout": {"settings": [{"model_args": {"drop_rate": 0.5}}]},
    "norm only": {"settings": [{"measure": "none", "activation_weight": 0.1}]},
    "direct": {"settings": [{"measure": "direct", "diversity_weight": 1.0}]},
    "det": {"settings": [{"measure": "det", "diversity_weight": 1.0}]},
    "logdet": {"settings": [{"measure": "logdet", "diversity_weight": 0.1}]},
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Every method with one seed: its first weights, the images of its training steps in order, and its record."""
    study = make_study(tiny(methods=METHODS, conditions={"noise": {"label_noise": 0.5}}), "test")
    worker = Worker(study, Ledger(tmp_path_factory.mktemp("study")))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for run in study.final_runs("noise", dict.fromkeys(METHODS, 0)):
            if run.seed != 1:
                continue
            batches, start = [], {}
            prepare = worker.recipe.prepare

            def prepared(*arguments, _prepare=prepare, _start=start, _batches=batches):
                made = _prepare(*arguments)
                _start.update({k: v.clone() for k, v in made.model.state_dict().items()})
                _batches.append(made.sets["train"])
                return made

            def items(dataset, positions, _batches=batches, _original=ImageDataset.__getitems__):
                if _batches and dataset is _batches[0]:
                    _batches.append((tuple(positions), tuple(dataset.split.labels[list(positions)])))
                return _original(dataset, positions)

            patch.setattr(worker.recipe, "prepare", prepared)
            patch.setattr(ImageDataset, "__getitems__", items)
            record = worker.execute(run, tmp_path_factory.mktemp("run"))
            patch.undo()
            found[run.method] = start, batches[1:], record
    return found


def test_methods_start_from_the_same_weights_and_see_the_same_batches(watched):
    start, batches, record = watched["baseline"]
    assert len(batches) >= 8 and len({positions for positions, _ in batches[:8]}) == 8, "two epochs in different order"
    assert record["data"]["noisy_labels"] == 32
    for method, (other_start, other_batches, other) in watched.items():
        assert start.keys() == other_start.keys()
        assert all(torch.equal(start[key], other_start[key]) for key in start), method
        assert batches == other_batches, method
        assert other["similarity"]["before"] == record["similarity"]["before"] and other["data"] == record["data"]
    outcomes = {m: tuple(found[2]["metrics"]["test"].values()) for m, found in watched.items()}
    # det of 128 units underflows to 0 and does nothing; every other method does something.
    assert outcomes.pop("det") == outcomes["baseline"] and len(set(outcomes.values())) == len(outcomes)


def test_a_result_says_what_ran_and_what_came_out(watched):
    _, _, record = watched["direct"]
    assert record["status"] == "done" and record["final"] and record["seed"] == 1
    assert set(record["metrics"]) == {"train", "validation", "test"}
    for values in record["metrics"].values():
        assert set(values) == {"loss", "accuracy", "calibration_error"}
        assert all(type(value) is float for value in values.values())
    (layer,) = record["similarity"]["after"].values()
    assert 1 <= layer["effective_rank"] <= 128 and 0 < layer["mean_similarity"] < 1
    assert record["seconds"] > record["training"]["seconds"] > 0
    assert record["hardware"]["threads"] >= 1 and record["versions"]["torch"] in torch.__version__
    assert record["diversity"]["config"]["diversity_weight"] == 1.0
    assert "history" not in record and json.dumps(record, allow_nan=False)


def test_calibration_is_that_of_the_models_probabilities(tmp_path):
    """Against a loop over the bins, from the logits of the trained model."""
    study = make_study(tiny(), "test")
    worker = Worker(study, Ledger(tmp_path))
    (run, *_) = study.final_runs("clean", {"baseline": 1})
    kept, prepare = [], worker.recipe.prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.recipe, "prepare", lambda *arguments: kept.append(prepare(*arguments)) or kept[0])
        record = worker.execute(run, tmp_path / "run")
    sets, model = kept[0].sets, kept[0].model.eval()
    pixels = torch.stack([sets["test"][place]["pixel_values"] for place in range(50)])
    labels = [sets["test"][place]["labels"] for place in range(50)]
    with torch.no_grad():
        probabilities = model(pixel_values=pixels).logits.double().softmax(-1)
    bins = {}
    for row, label in zip(probabilities.tolist(), labels, strict=True):
        top = max(row)
        bins.setdefault(next(b for b in range(15) if top <= (b + 1) / 15), []).append((top, row.index(top) == label))
    error = sum(abs(sum(t for t, _ in own) - sum(right for _, right in own)) for own in bins.values()) / 50
    assert len(bins) > 2 and record["metrics"]["test"]["calibration_error"] == pytest.approx(error, abs=1e-6)
    accuracy = sum(right for own in bins.values() for _, right in own) / 50
    assert record["metrics"]["test"]["accuracy"] == pytest.approx(accuracy)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_runs_that_settings_are_chosen_by_never_touch_the_test_set(tmp_path):
    study = make_study(tiny(), "test")
    worker = Worker(study, Ledger(tmp_path))
    tuning = next(study.tuning_runs("clean", {}))
    final = next(study.final_runs("clean", {"baseline": 0}))
    prepare = worker.recipe.prepare

    class Sealed(torch.utils.data.Dataset):
        def __len__(self):
            return 50

        def __getitem__(self, position):
            raise AssertionError("the test set was touched")

    def sealed(*arguments):
        made = prepare(*arguments)
        return dataclasses.replace(made, sets={**made.sets, "test": Sealed()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.recipe, "prepare", sealed)
        record = worker.execute(tuning, tmp_path / "run")
        with pytest.raises(AssertionError, match="the test set was touched"):
            worker.execute(final, tmp_path / "run")  # the seal works
    assert set(record["metrics"]) == set(record["gaps"]) | {"train"} == {"train", "validation"}
    assert "test" not in json.dumps(record["metrics"])


def test_a_run_that_diverges_is_a_result_and_goes_on_with_the_next(tmp_path):
    methods = {"baseline": {"grid": {"learning_rate": [1e30, 3e-3]}}}
    study = make_study(tiny(methods=methods, seeds=1), "test")
    ledger = Ledger(tmp_path)
    found = []
    Worker(study, ledger).work(found.append)
    assert [(record["setting"], record["final"], record["status"]) for record in found] == [
        (0, False, "diverged"), (1, False, "done"), (1, True, "done"),
    ]  # fmt: skip
    assert list(ledger.records().values()) == found


def test_a_regulariser_that_is_not_finite_is_a_result_too(tmp_path):
    methods = {"direct": {"settings": [{"measure": "direct", "diversity_weight": 1, "learning_rate": 1e30}]}}
    study = make_study(tiny(methods=methods), "test")
    record = Worker(study, Ledger(tmp_path)).execute(next(study.tuning_runs("clean", {})), tmp_path / "run")
    assert record["status"] == "diverged" and "not finite" in record["error"]


def test_final_runs_are_tested_under_corruption_and_those_that_choose_are_not(tmp_path):
    arguments = {**tiny()["arguments"], "test_corruptions": ["contrast", "gaussian_noise"], "num_train_epochs": 4}
    study = make_study(tiny(arguments=arguments), "test")
    worker = Worker(study, Ledger(tmp_path))
    tuning = worker.execute(next(study.tuning_runs("clean", {})), tmp_path / "run")
    assert set(tuning["metrics"]) == {"train", "validation"}
    made, original = [], ImageDataset._make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDataset, "_make", lambda self, places: made.extend(places) or original(self, places))
        finals = [run for run in study.final_runs("clean", {"baseline": 0, "direct": 0}) if run.seed == 0]
        records = [worker.execute(run, tmp_path / "run") for run in finals]
    assert len(made) == 64 + 40 + 3 * 50, "once for both methods"
    for record in records:
        metrics = record["metrics"]
        for name in ("accuracy", "loss", "calibration_error"):
            own = [metrics[f"test_{kind}"][name] for kind in ("contrast", "gaussian_noise")]
            assert metrics["test_corrupted"][name] == pytest.approx(sum(own) / 2)
        assert len({metrics[split]["loss"] for split in metrics}) == 6
        assert record["fields"]["test_corruptions"] == ["contrast", "gaussian_noise"]


def test_data_are_loaded_and_made_once_for_runs_on_the_same_examples(tmp_path, monkeypatch):
    study = make_study(tiny(), "test")
    worker = Worker(study, Ledger(tmp_path))
    made, original = [], ImageDataset._make
    monkeypatch.setattr(ImageDataset, "_make", lambda self, places: made.extend(places) or original(self, places))
    for run in study.final_runs("clean", {"baseline": 0, "direct": 0}):
        worker.execute(run, tmp_path / "run")
    assert len(made) == 2 * (64 + 40 + 50), "two seeds, whatever the number of methods"


def test_local_copies_take_the_place_of_hub_ids(tmp_path):
    (tmp_path / "fashion_mnist").mkdir()
    worker = Worker(make_study(tiny(), "test"), Ledger(tmp_path), data_root=tmp_path)
    assert worker._place("dataset", "zalando-datasets/fashion_mnist") == str(tmp_path / "fashion_mnist")
    assert worker._place("dataset", "uoft-cs/cifar10") == "uoft-cs/cifar10"
    assert worker._place("measure", "fashion_mnist") == "fashion_mnist"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"conditions": {"a": {}, "b": {"label_noise": 40}}},
            "condition 'b', method 'baseline', setting 1: label_noise",
        ),
        ({"conditions": {"a": {"lable_noise": 0.4}}}, "condition 'a', .*did you mean 'label_noise'"),
        ({"conditions": {"a": {}, "b": {"dataset": "./nowhere"}}}, "condition 'b', .*nowhere: no such folder"),
        ({"arguments": {**tiny()["arguments"], "model": "smal_cnn"}}, "'smal_cnn' is neither.*did you mean"),
        (
            {"methods": {"x": {"settings": [{}, {"measure": "directt"}]}}},
            "method 'x', setting 2: .*invalid choice: 'directt'",
        ),
        ({"methods": {"x": {"settings": [{"layers": ["nowhere"]}]}}}, "method 'x': .*nowhere"),
        ({"methods": {"x": {"settings": [{"learning_rate": "fast"}]}}}, "invalid float value: 'fast'"),
        ({"methods": {"x": {"settings": [{"diversity_weight": -1}]}}}, "method 'x', .*diversity_weight is -1"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(changes, message, tmp_path):
    worker = Worker(make_study(tiny(**changes), "test"), Ledger(tmp_path / "study"))
    with pytest.raises(ValueError, match=message):
        worker.check()
    assert not (tmp_path / "study").exists()


def test_the_check_passes_what_is_right(tmp_path):
    Worker(make_study(tiny(methods=METHODS), "test"), Ledger(tmp_path / "study")).check()


def test_a_process_of_several_works_alone_on_one_gpu(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,7"}.items():
        monkeypatch.setenv(name, value)
    work_alone()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7" and not {"WORLD_SIZE", "RANK", "LOCAL_RANK"} & set(os.environ)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    work_alone()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "", "the CPU was asked for"
