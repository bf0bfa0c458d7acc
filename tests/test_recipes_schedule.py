"""A schedule of the regulariser's weights in a recipe: each step has its factor, and mistakes are told at once."""

import pytest
from common.arguments import RunArguments, parse_arguments
from image_classification import TYPES, run

WORDS = ["--model", "small_mlp", "--model_args", '{"in_chans": 1}', "--dataset", "embedded", "--use_cpu", "true"]
WORDS += ["--max_train_samples", "32", "--max_validation_samples", "16", "--max_test_samples", "16"]
WORDS += ["--per_device_train_batch_size", "8", "--max_steps", "8", "--logging_steps", "1", "--disable_tqdm", "true"]
WORDS += ["--report_to", "none", "--measure_similarity", "false", "--keep_files", "false", "--eval_strategy", "no"]


def train(folder, *words, weight="0.5"):
    line = [*WORDS, "--output_dir", str(folder), "--diversity_weight", weight, *words]
    return run(*parse_arguments(TYPES, line), callbacks=[])


def steps(found):
    return [record for record in found["history"] if "task_loss" in record]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ('{"warmup": 0.5}', [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ("{hold: 0.5, decay: linear}", [1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0]),
        ("{hold: 0.5, decay: step}", [1] * 4 + [0] * 4),
    ],
)
def test_every_step_has_its_factor(schedule, factors, tmp_path):
    found = train(tmp_path, "--diversity_schedule", schedule)
    assert [record["diversity_scale"] for record in steps(found)] == pytest.approx(factors)
    for record, factor in zip(steps(found), factors, strict=True):
        assert record["loss"] - record["task_loss"] == pytest.approx(factor * 0.5 * record["diversity"], abs=1e-5)
    assert found["arguments"]["diversity_schedule"]


def test_without_one_nothing_is_scaled_and_a_baseline_may_have_one(tmp_path):
    plain = train(tmp_path)
    assert not any("diversity_scale" in record for record in plain["history"])
    assert "diversity_schedule" not in plain["arguments"]
    baseline, scheduled = (
        train(tmp_path, *words, weight="0") for words in ([], ["--diversity_schedule", "{warmup: 0.5}"])
    )
    assert baseline["metrics"] == scheduled["metrics"] != plain["metrics"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("0.5", "diversity_schedule is 0.5: it must be a mapping; type --diversity_schedule '{warmup: 0.5}'"),
        ("{warm: 0.5}", "diversity_schedule {'warm': 0.5}: .*unexpected keyword argument 'warm'"),
        ({"warmup": 2}, "diversity_schedule {'warmup': 2}: warmup is 2: it must be a number from 0 to 1"),
        ({"hold": 0.5}, "but no decay comes after it"),
    ],
)
def test_a_mistake_is_told_before_data_are_loaded(schedule, message):
    with pytest.raises(ValueError, match=message):
        RunArguments(diversity_schedule=schedule)
