"""One lambda, one strength: ways of running a step that must give one trajectory, whatever Trainer does to the loss.

The reference is one process with the whole batch in one piece.
"""

import json
import math
import sys
from functools import cache

import numpy as np
import pytest
import torch
from launch import SCRIPTS, launch
from tiny import Mlp, Rows, Sentences, arguments, tiny_bert

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.bandwidth import MedianGamma
from hf_diversity.registry import COVARIANCE_MEASURES
from hf_diversity.regularizer import DiversityRegularizer
from hf_diversity.window import Window, kind_of_samples

sys.path.insert(0, str(SCRIPTS))
import invariance  # noqa: E402

KINDS = ["plain", "items", "loss_func", "smoothing"]
WEIGHTS = {"measure": "srip", "activation_weight": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("invariance")


@cache
def reference(kind, folder, **diversity):
    steps, log = invariance.train({"kind": kind, "accumulate": 1}, folder, **diversity)
    return np.array(steps), log


def training_records(log):
    return [record for record in log if "task_loss" in record]


def compare(run, expected, tolerance=1e-11):
    (steps, log), (expected_steps, expected_log) = run, expected
    np.testing.assert_allclose(np.array(steps), expected_steps, atol=tolerance)
    for record, other in zip(training_records(log), training_records(expected_log), strict=True):
        assert set(record) == set(other)
        for key in {"loss", "task_loss", "diversity", "activation_norm", "gamma"} & set(record):
            assert record[key] == pytest.approx(other[key], rel=1e-5), key


def test_the_trajectories_to_compare_are_not_those_without_the_regulariser(folder):
    with_it, _ = reference("plain", folder)
    without, _ = reference("plain", folder, diversity_weight=0.0, activation_weight=0.0)
    norm_only, _ = reference("plain", folder, diversity_weight=0.0)
    assert np.abs(with_it[0] - without[0]).max() > 1e-4  # from the first step on
    assert np.abs(with_it[0] - norm_only[0]).max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation(folder, kind, accumulate):
    compare(invariance.train({"kind": kind, "accumulate": accumulate}, folder), reference(kind, folder))


def test_two_processes(folder):
    ways = [
        {"kind": kind, "accumulate": accumulate, "average_tokens_across_devices": average}
        for kind in KINDS
        for accumulate, average in ((1, True), (2, True), (2, False))
    ]
    ways += [{"kind": "plain", "accumulate": 1, "diversity": {"measure": measure}} for measure in COVARIANCE_MEASURES]
    ways += [{"kind": kind, "accumulate": n, "diversity": WEIGHTS} for kind in ("plain", "items") for n in (1, 2)]
    output = launch(SCRIPTS / "invariance.py", json.dumps(ways), 2)
    [line] = [line for line in output.splitlines() if line.startswith("RESULT ")]
    for way, run in zip(ways, json.loads(line.removeprefix("RESULT ")), strict=True):
        compare(run, reference(way["kind"], folder, **way.get("diversity", {})))


@pytest.mark.parametrize("kind", ["plain", "items"])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_weights_count_once_a_step(folder, kind, accumulate):
    expected = reference(kind, folder, **WEIGHTS)
    without, _ = reference(kind, folder, diversity_weight=0.0, activation_weight=0.0)
    assert np.abs(expected[0][0] - without[0]).max() > 1e-4
    compare(invariance.train({"kind": kind, "accumulate": accumulate, "diversity": WEIGHTS}, folder), expected)


def test_no_drift_to_one_side_in_single_precision(folder):
    """Rounding may part the trajectories, but not along the regulariser's own pull: that would be another lambda."""
    whole, _ = reference("plain", folder)
    without, _ = reference("plain", folder, diversity_weight=0.0, activation_weight=0.0)
    pull = whole[-1] - without[-1]
    shares = []
    for accumulate in (1, 2, 4, 8):
        steps, _ = invariance.train({"kind": "items", "accumulate": accumulate}, folder, dtype=torch.float32)
        shares.append((np.array(steps[-1]) - whole[-1]) @ pull / (pull @ pull))
    assert np.abs(shares).max() < 1e-5, shares


def test_the_first_step_takes_gamma_from_its_whole_window(folder):
    """Without the rehearsal gamma comes from the first micro-batch, which this data makes very different."""
    rows = [torch.randn(8, 6) * scale for scale in (0.01, 1.0)]
    whole, split, alone = MedianGamma(), MedianGamma(), MedianGamma()
    expected = whole.update({"a": torch.cat(rows)}, 0, False)["a"]
    split.calibrate([{"a": part} for part in rows], 0, False)
    assert all(torch.equal(split.update({"a": part}, 0, False)["a"], expected) for part in rows)
    assert not torch.isclose(alone.update({"a": rows[0]}, 0, False)["a"], expected, rtol=0.5)
    # and the next step follows from the same counts
    assert torch.equal(whole.current("a", 1), split.current("a", 1))


def pull_of_one_step(build, data, folder, diversity, **settings):
    """What the regulariser adds to the first SGD step: its gradient, whatever the task loss is."""
    after = []
    for config in (DiversityConfig(**diversity), DiversityConfig(diversity_weight=0.0)):
        model = build()
        trainer = DiversityTrainer(
            model=model, args=arguments(folder, max_steps=1, learning_rate=1.0, **settings), train_dataset=data,
            diversity=config,
        )  # fmt: skip
        trainer.model_accepts_loss_kwargs = False  # BERT ignores what it accepts
        trainer.train()
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return after[0] - after[1]


@pytest.mark.parametrize("gamma", [0.5, "median"])
@pytest.mark.parametrize("samples", ["positions", "pooled", "first"])
def test_micro_batches_of_unequal_texts_count_by_their_tokens(folder, samples, gamma):
    diversity = {
        "layers": ["bert.encoder.layer.1"], "samples": samples, "gamma": gamma, "diversity_weight": 1.0,
        "activation_weight": 0.01,
    }  # fmt: skip
    whole, *others = [
        pull_of_one_step(
            lambda: tiny_bert().double(), Sentences(16), folder, diversity, per_device_train_batch_size=16 // k,
            gradient_accumulation_steps=k,
        )
        for k in (1, 2, 8)
    ]  # fmt: skip
    for other in others:
        torch.testing.assert_close(other, whole, rtol=1e-7, atol=1e-10)
    assert whole.abs().max() > 1e-3


@pytest.mark.parametrize("layers", [None, ["bert.embeddings.word_embeddings"]])
def test_rows_of_examples_do_not_count_by_their_tokens(folder, layers):
    """Padded texts, and a layer whose samples are examples whatever `samples` says, or one that follows the tokens."""
    diversity = {"layers": layers, "samples": "positions", "gamma": 1.0, "diversity_weight": 1.0}
    whole, split = [
        pull_of_one_step(
            lambda: tiny_bert().double(), Sentences(16), folder, diversity, per_device_train_batch_size=16 // k,
            gradient_accumulation_steps=k,
        )
        for k in (1, 4)
    ]  # fmt: skip
    torch.testing.assert_close(split, whole, rtol=1e-7, atol=1e-10)
    assert whole.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("shape", "mask", "samples", "expected"),
    [
        ((4, 8), None, "auto", "examples"),
        ((4, 8), (4, 10), "positions", "examples"),
        ((40, 8), (4, 10), "auto", "positions"),
        ((4, 10, 8), (4, 10), "auto", "tokens"),
        ((4, 5, 8), (4, 10), "auto", "positions"),
        ((4, 10, 8), None, "positions", "positions"),
        ((4, 10, 8), (4, 10), "pooled", "sequences"),
        ((4, 8, 6, 6), None, "auto", "sequences"),
        ((4, 8, 6, 6), None, "positions", "positions"),
    ],
)
def test_what_samples_are_counted_in(shape, mask, samples, expected):
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    assert kind_of_samples(torch.zeros(shape), mask, samples, 4) == expected


def test_factors_are_the_shares_of_each_count():
    batches = [{"input_ids": torch.zeros(4, 10)}, {"input_ids": torch.zeros(2, 30)}]
    masks = [{"a": torch.arange(10).expand(4, 10) < 5}, {"a": torch.arange(30).expand(2, 30) < 20}]
    shares = {"examples": (4, 2), "positions": (40, 60), "tokens": (20, 40), "sequences": (4, 2)}
    for kind, (first, second) in shares.items():
        window = Window(batches, masks, False, torch.device("cpu"))
        factors = [float(window.next_factors({"a": kind})["a"]) for _ in batches]
        assert window.is_over
        np.testing.assert_allclose(factors, [2 * first / (first + second), 2 * second / (first + second)])


@pytest.mark.parametrize("layer", ["act2", "fc1"])
def test_a_short_last_micro_batch_counts_by_its_examples(folder, layer):
    diversity = {"layers": [layer], "diversity_weight": 1.0, "activation_weight": 0.01}
    whole = pull_of_one_step(Mlp, Rows(10), folder, diversity, per_device_train_batch_size=10)
    split = pull_of_one_step(
        Mlp, Rows(10), folder, diversity, per_device_train_batch_size=4, gradient_accumulation_steps=3
    )
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-7)
    assert whole.abs().max() > 1e-3


@pytest.mark.parametrize("measure", ["det", "logdet"])
def test_determinants_of_micro_batches_are_those_of_smaller_batches(measure, folder):
    """Documented: S is an average over a batch, and its determinant is not an average over micro-batches."""
    torch.manual_seed(0)
    rows = torch.randn(32, 4, dtype=torch.float64)
    regularizer = DiversityRegularizer(DiversityConfig(measure=measure, gamma=0.5, diversity_weight=1.0))
    whole = float(regularizer({"a": rows}, 0).penalty)
    parts = [float(regularizer({"a": part}, 0).penalty) for part in rows.split(8)]
    assert not math.isclose(whole, np.mean(parts), rel_tol=1e-3)
    assert math.isclose(whole, np.mean(parts), rel_tol=0.3)
