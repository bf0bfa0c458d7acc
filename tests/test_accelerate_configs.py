"""The launch configurations, read by accelerate's own launcher: an unknown key or value fails."""

from pathlib import Path

import pytest
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from commands import launch_settings

FOLDER = Path(__file__).parent.parent / "recipes" / "accelerate"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def read(path):
    return launch_settings(["--config_file", str(path), "script.py"])


@pytest.mark.parametrize("name", FILES)
def test_launcher_accepts(name):
    arguments, _ = read(FOLDER / name)
    expected = {
        "cpu.yaml": 1, "cpu_2.yaml": 2, "multi_gpu.yaml": 8, "multi_node.yaml": 16, "fsdp2.yaml": 8,
        "deepspeed_zero2.yaml": 8, "deepspeed_zero3.yaml": 8,
    }  # fmt: skip
    assert arguments.num_processes == expected[name] and len(FILES) == len(expected)
    assert arguments.num_machines == (2 if name == "multi_node.yaml" else 1)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == ("fsdp" in name, "deepspeed" in name)
    assert f"--config_file recipes/accelerate/{name} " in (FOLDER / name).read_text()


def test_fsdp2_gives_the_plugin_that_is_meant(monkeypatch):
    arguments, _ = read(FOLDER / "fsdp2.yaml")
    for key, value in prepare_multi_gpu_env(arguments).items():
        if key.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True and not plugin.activation_checkpointing
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_the_stage_and_leaves_the_steps_to_the_arguments(stage):
    arguments, nested = read(FOLDER / f"deepspeed_zero{stage}.yaml")
    arguments.deepspeed_fields_from_accelerate_config = ",".join(nested)  # as launch_command does
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == str(stage)
    assert environment["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "auto"
    assert ("zero3_save_16bit_model" in nested) == (stage == 3)  # ZeRO 3 saves no weights without it


@pytest.mark.parametrize("line", ["num_proceses: 4", "fsdp_config: {fsdp_reshard: true}", "distributed_type: FSDP3"])
def test_a_wrong_key_or_value_fails(tmp_path, line):
    wrong = tmp_path / "wrong.yaml"
    text = (FOLDER / "multi_gpu.yaml").read_text()
    if line.startswith("distributed_type"):
        text = text.replace("distributed_type: MULTI_GPU", "")
    wrong.write_text(f"{text}\n{line}\n")
    with pytest.raises((AssertionError, ValueError)):
        read(wrong)
