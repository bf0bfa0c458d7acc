"""Several gloo processes against one process on the whole batch: values and gradients."""

import json

import pytest
import torch
from launch import SCRIPTS, launch
from packaging.version import Version

from hf_diversity.distributed import mean_over_samples, sum_over_processes, world_size
from hf_diversity.registry import MEASURES, WEIGHT_MEASURES


def results(output):
    return [json.loads(line.removeprefix("RESULT ")) for line in output.splitlines() if line.startswith("RESULT ")]


@pytest.mark.parametrize("processes", [2, 3])
def test_value_and_gradient_are_those_of_one_process_on_the_whole_batch(processes):
    records = results(launch(SCRIPTS / "global_batch.py", processes, processes=processes))
    assert {r["measure"] for r in records} == {*MEASURES, "gram", "laplacian"} - {*WEIGHT_MEASURES}
    assert len(records) == 17
    for record in records:
        assert record["gradient_size"] > 0.1, record
        for key in ("value", "gradient", "evaluation", "evaluation_norm"):
            assert record[key] < 1e-12, record
        assert record["samples"] == 20


def train(processes, **settings):
    [record] = results(launch(SCRIPTS / "train.py", json.dumps(settings), processes=processes))
    return record


def assert_same_run(first, second, tolerance):
    # not eval_loss: over an uneven last batch Trainer's own weighting of it depends on the number of processes
    keys = ("loss", "task_loss", "diversity", "activation_norm", "gamma", "grad_norm", "eval_diversity",
            "eval_activation_norm", "eval_gamma")  # fmt: skip
    histories = [[{k: r[k] for k in keys if k in r} for r in run["history"]] for run in (first, second)]
    assert sum("diversity" in r for r in histories[0]) >= 4 and any("eval_diversity" in r for r in histories[0])
    for one, other in zip(*histories, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    for name, values in first["weights"].items():
        torch.testing.assert_close(
            torch.tensor(values), torch.tensor(second["weights"][name]), rtol=tolerance, atol=tolerance
        )


STRONG = {"diversity_weight": 0.5, "activation_weight": 0.01}


@pytest.mark.parametrize("measure", ["direct", "logdet"])
def test_two_processes_follow_the_curve_of_one(measure):
    settings = {"model": "mlp", "diversity": {**STRONG, "measure": measure}, "max_steps": 8}
    one = train(1, per_device_train_batch_size=8, per_device_eval_batch_size=8, **settings)
    two = train(2, per_device_train_batch_size=4, per_device_eval_batch_size=4, **settings)
    assert_same_run(one, two, 1e-5)


def test_two_processes_with_accumulation_and_loss_kwargs():
    """BERT takes loss kwargs, so the base loss is not divided by the accumulation steps; J must not notice."""
    diversity = {**STRONG, "layers": ["bert.pooler"], "gamma": 2.0}
    settings = {"model": "bert", "diversity": diversity, "max_steps": 4, "gradient_accumulation_steps": 2}
    one = train(1, per_device_train_batch_size=8, **settings)
    two = train(2, per_device_train_batch_size=4, **settings)
    first = [next(r for r in run["history"] if "diversity" in r) for run in (one, two)]
    for key in ("diversity", "activation_norm"):
        assert first[0][key] == pytest.approx(first[1][key], rel=1e-5)


@pytest.mark.parametrize("find_unused", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_layer_beside_the_path_to_the_loss(find_unused):
    """Only the regulariser gives `side` a gradient, which DDP's search for unused parameters cannot see."""
    settings = {"model": "branched", "diversity": {**STRONG, "layers": ["side", "fc2"]}, "max_steps": 8}
    one = train(1, per_device_train_batch_size=8, per_device_eval_batch_size=8, **settings)
    two = train(
        2, per_device_train_batch_size=4, per_device_eval_batch_size=4, ddp_find_unused_parameters=find_unused,
        **settings,
    )  # fmt: skip
    assert_same_run(one, two, 1e-5)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="FSDP2 of torch 2.6 asks streams of CPUs for events, which they lack",
)
def test_fsdp2_follows_the_curve_of_one_process():
    """Sharded parameters and their gradients; layers keep the names of the unsharded model."""
    settings = {
        "model": "bert", "max_steps": 8, "average_tokens_across_devices": False,  # BERT's own loss is wrong with it
        "diversity": {**STRONG, "gamma": 2.0, "layers": ["bert.encoder.layer.*", "bert.pooler"]},
    }  # fmt: skip
    sharded = {
        "fsdp": "full_shard",
        "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"], "reshard_after_forward": True,
                        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
    }  # fmt: skip
    one = train(1, per_device_train_batch_size=8, per_device_eval_batch_size=8, **settings)
    two = train(2, per_device_train_batch_size=4, per_device_eval_batch_size=4, **settings, **sharded)
    # Of the parameters; those of the root, outside the blocks, are whole after a forward pass
    assert one["sharded"] == 0 and two["sharded"] > 0.7
    assert_same_run(one, two, 1e-4)


def test_one_process_is_the_identity():
    mean = torch.randn(3, requires_grad=True)
    assert world_size() == 1
    assert mean_over_samples([mean], 5)[0] is mean
    assert sum_over_processes(mean).data_ptr() == mean.data_ptr()
