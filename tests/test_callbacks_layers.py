"""Diagnostics of layers during training: scalars in every log, images in TensorBoard."""

import pytest
import torch
from tiny import Mlp, Rows, arguments, assert_same, weights
from transformers import Trainer

from hf_diversity import DiversityConfig, DiversityTrainer, diagnostics
from hf_diversity.callbacks import GeneralizationGapCallback, LayerDiagnosticsCallback


def trainer(path, callbacks, cls=DiversityTrainer, **more):
    settings = {
        "num_train_epochs": 3, "max_steps": -1, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
        "eval_strategy": "epoch", "learning_rate": 0.05,
    }  # fmt: skip
    data, metrics = more.pop("eval_dataset", Rows(20, seed=1)), more.pop("compute_metrics", None)
    extra = {"diversity": DiversityConfig(gamma=0.7, diversity_weight=0.3)} if cls is DiversityTrainer else {}
    model = more.pop("model", None) or Mlp()
    made = cls(
        model, arguments(path, **{**settings, **more}), train_dataset=Rows(32), eval_dataset=data,
        compute_metrics=metrics, callbacks=callbacks, **extra,
    )  # fmt: skip
    if cls is Trainer:
        for callback in callbacks:
            callback.bind(made)
    return made


def logged(run):
    return [r for r in run.state.log_history if any(key.startswith("layers/") for key in r)]


def test_the_numbers_are_those_of_the_layer_now(tmp_path):
    callback = LayerDiagnosticsCallback()
    run = trainer(tmp_path, [callback])
    other = trainer(tmp_path / "other", [callback])  # one instance serves several
    run.train()
    records = logged(run)
    assert [r["epoch"] for r in records] == [1, 2, 3]
    with torch.no_grad():
        hidden = run.model.eval().act2(run.model.fc2(torch.tanh(run.model.fc1(Rows(20, seed=1).x))))
    last = records[-1]
    assert last["layers/out/mean_similarity"] == pytest.approx(diagnostics.mean_similarity(hidden, 0.7), rel=1e-5)
    rank = diagnostics.effective_rank(diagnostics.covariance_eigenvalues(hidden))
    assert last["layers/out/effective_rank"] == pytest.approx(rank, rel=1e-5)
    assert last["layers/out/constant_share"] == 0
    assert not logged(other)


def test_other_layers_fewer_examples_and_rarer(tmp_path):
    run = trainer(tmp_path, [LayerDiagnosticsCallback(layers=["fc*"], samples=6, every=2)])
    run.train()
    records = logged(run)
    assert [r["epoch"] for r in records] == [1, 3]
    assert {key.split("/")[1] for key in records[0] if key.startswith("layers/")} == {"fc1", "fc2"}


def test_once_a_step_for_several_evaluation_sets(tmp_path):
    run = trainer(
        tmp_path, [LayerDiagnosticsCallback(every=2), GeneralizationGapCallback(8)],
        eval_dataset={"a": Rows(8, seed=1), "b": Rows(8, seed=2)},
        compute_metrics=lambda evaluated: {"generation_runtime": 1.0},  # looks like an evaluation's in the log
    )  # fmt: skip
    run.train()
    assert [r["epoch"] for r in logged(run)] == [1, 3]


@pytest.mark.parametrize("on_start", [False, True])
def test_a_resumed_run_goes_on_with_the_same_evaluations(tmp_path, on_start):
    """With `eval_on_start` a resumed run evaluates once more than the uninterrupted one."""
    runs = []
    for name, resume in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-4"))):
        callbacks = [LayerDiagnosticsCallback(every=2)]
        runs.append(trainer(tmp_path / name, callbacks, save_strategy="epoch", eval_on_start=on_start))
        runs[-1].train(resume_from_checkpoint=resume)
    whole, resumed = map(logged, runs)
    assert [r["epoch"] for r in whole] == ([0, 2] if on_start else [1, 3])
    assert whole == resumed


@pytest.mark.parametrize("cls", [DiversityTrainer, Trainer])
def test_training_does_not_notice(tmp_path, cls):
    runs = []
    for number, callbacks in enumerate(([], [LayerDiagnosticsCallback()])):
        runs.append(trainer(tmp_path / str(number), callbacks, cls))
        runs[-1].train()  # before the next one is made, which sets the seeds
    assert_same(weights(runs[0].model), weights(runs[1].model), rtol=0, atol=0)
    assert len(logged(runs[1])) == 3


def test_tensorboard_gets_scalars_and_images(tmp_path, monkeypatch):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run = trainer(tmp_path, [LayerDiagnosticsCallback()], report_to=["tensorboard"], num_train_epochs=2)
    run.train()
    events = reader.EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert set(events.Tags()["images"]) == {"layers/out/similarity", "layers/out/spectrum"}
    assert [image.step for image in events.Images("layers/out/similarity")] == [4, 8]
    assert events.Images("layers/out/spectrum")[0].width > 100
    [tag] = [tag for tag in events.Tags()["scalars"] if tag.endswith("layers/out/mean_similarity")]
    values = [event.value for event in events.Scalars(tag)]
    assert values == pytest.approx([r["layers/out/mean_similarity"] for r in logged(run)], rel=1e-6)


class Repeat(torch.nn.Module):
    def forward(self, x):
        return x.repeat(1, 3000)


class Wide(Mlp):
    """With a layer of 18,000 units, each of whose matrices would have 2.6 GB."""

    def __init__(self):
        super().__init__()
        self.wide = Repeat()

    def forward(self, x, labels=None):
        self.wide(x)
        return super().forward(x, labels)


def test_layers_that_would_not_fit_into_memory_are_refused_before_training(tmp_path):
    said = r"the widest 'wide' with 18,000 units, .* 14 GB .*; type LayerDiagnosticsCallback\(layers=\[...\]\) with"
    run = trainer(tmp_path, [LayerDiagnosticsCallback(layers=["wide"])], model=Wide())
    for start in (run.train, run.evaluate):
        with pytest.raises(ValueError, match=said):
            start()
    assert run.state.global_step == 0
    run = trainer(tmp_path, [LayerDiagnosticsCallback(layers=["fc1", "act2"])], model=Wide())
    run.train()
    assert len(logged(run)) == 3


def test_bad_input(tmp_path):
    for settings in ({"samples": 0}, {"every": True}):
        with pytest.raises(ValueError, match="must be a whole number"):
            LayerDiagnosticsCallback(**settings)
    run = trainer(tmp_path, [LayerDiagnosticsCallback()], eval_strategy="no")
    run.eval_dataset = None
    with pytest.raises(ValueError, match="no examples to measure layers on"):
        run.train()
