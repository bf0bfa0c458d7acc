"""Diagnostics of layers during training: scalars in every log, images in TensorBoard."""

import pytest
import torch
from tiny import Mlp, Rows, arguments, assert_same, weights

from hf_diversity import DiversityConfig, DiversityTrainer, diagnostics
from hf_diversity.callbacks import LayerDiagnosticsCallback


def trainer(path, callbacks, **more):
    settings = {
        "num_train_epochs": 3, "max_steps": -1, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
        "eval_strategy": "epoch", "learning_rate": 0.05, **more,
    }  # fmt: skip
    return DiversityTrainer(
        Mlp(), arguments(path, **settings), train_dataset=Rows(32), eval_dataset=Rows(20, seed=1), callbacks=callbacks,
        diversity=DiversityConfig(gamma=0.7, diversity_weight=0.3),
    )  # fmt: skip


def logged(run):
    return [r for r in run.state.log_history if any(key.startswith("layers/") for key in r)]


def test_the_numbers_are_those_of_the_layer_now(tmp_path):
    run = trainer(tmp_path, [LayerDiagnosticsCallback()])
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


def test_other_layers_fewer_examples_and_rarer(tmp_path):
    run = trainer(tmp_path, [LayerDiagnosticsCallback(layers=["fc*"], samples=6, every=2)])
    run.train()
    records = logged(run)
    assert [r["epoch"] for r in records] == [1, 3]
    assert {key.split("/")[1] for key in records[0] if key.startswith("layers/")} == {"fc1", "fc2"}


def test_training_does_not_notice(tmp_path):
    runs = [trainer(tmp_path / str(n), c) for n, c in enumerate(([], [LayerDiagnosticsCallback()]))]
    for run in runs:
        run.train()
    assert_same(weights(runs[0].model), weights(runs[1].model), rtol=0, atol=0)


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


def test_bad_input(tmp_path):
    for settings in ({"samples": 0}, {"every": True}):
        with pytest.raises(ValueError, match="must be a whole number"):
            LayerDiagnosticsCallback(**settings)
    run = trainer(tmp_path, [LayerDiagnosticsCallback()], eval_strategy="no")
    run.eval_dataset = None
    with pytest.raises(ValueError, match="no examples to measure layers on"):
        run.train()
