"""The scripts of examples/by_feature/: each runs, does what it says, and stands in the table."""

import ast
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import check

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "by_feature"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "stand_ins")


@pytest.fixture
def main(tmp_path, monkeypatch):
    """Run an example's main() in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    return lambda name, **changes: runpy.run_path(str(FOLDER / f"{name}.py"))["main"](**changes)


def steps(trainer):
    """The records of the steps, whose loss has the parts that it says."""
    records = [record for record in trainer.state.log_history if "task_loss" in record]
    assert len(records) >= 2
    config = trainer.diversity
    for record in records:
        penalty = config.diversity_weight * record["diversity"] + config.activation_weight * record["activation_norm"]
        assert record["loss"] == pytest.approx(record["task_loss"] + penalty, rel=1e-4)
        assert 0 < config.diversity_weight * record["diversity"]
    return records


def test_the_table_is_the_folder():
    rows = re.findall(
        r"^\| \[(\w+)\.py\]\(\1\.py\) \| (.+) \|$", (FOLDER / "README.md").read_text(), flags=re.MULTILINE
    )
    told = {path.stem: ast.get_docstring(ast.parse(path.read_text())).splitlines() for path in SCRIPTS}
    assert dict(rows) == {name: lines[0] for name, lines in told.items()} and len(rows) == len(SCRIPTS) > 10
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) <= 65, path


def test_the_commands_of_the_docstrings_start_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in SCRIPTS:
        lines = ast.get_docstring(ast.parse(path.read_text())).splitlines()
        [command] = [line for line in lines if line.startswith(("python ", "accelerate "))]
        assert command.endswith(f"examples/by_feature/{path.name}")
        check(command.split(), monkeypatch)


def test_basic(main, capsys):
    trainer = main("basic")
    records = steps(trainer)
    assert records[-1]["task_loss"] < records[0]["task_loss"] - 0.1
    assert "'eval_diversity'" in capsys.readouterr().out


def test_choose_layers(main, capsys):
    record = steps(main("choose_layers"))[-1]
    layers = {f"bert.encoder.layer.{number}{end}" for number in (0, 1) for end in ("", ".intermediate")}
    assert {name.removeprefix("diversity/") for name in record if name.startswith("diversity/")} == layers
    out = capsys.readouterr().out
    assert all(f"\n{layer} " in out for layer in layers) and "\n* " in out


def test_gamma(main):
    found = main("gamma")
    assert found["fixed"]["eval_gamma"] == 2.0 and len({m["eval_gamma"] for m in found.values()}) == 3
    # Without the pull on the scale the activations grow less
    assert found["scale-invariant"]["eval_activation_norm"] < found["median"]["eval_activation_norm"]


def test_callbacks(main, capsys):
    history = main("callbacks").state.log_history
    assert sum("gap_loss" in record for record in history) == 2
    assert sum("layers/classifier/effective_rank" in record for record in history) == 2
    scales = [record["diversity_scale"] for record in history if "diversity_scale" in record]
    # After 4, 9, 14 and 19 of 20 steps: up over the first ten, then half a cosine over the nine that are left
    assert scales == pytest.approx([0.4, 0.9, (1 + math.cos(math.pi * 4 / 9)) / 2, 0], abs=1e-9)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("gap_loss", "effective_rank", "diversity_scale"))


def test_accumulation_and_precision(main):
    whole, split, half = main("accumulation_and_precision").values()
    assert split == pytest.approx(whole, rel=1e-5) and len(whole) == 4 and max(whole) - min(whole) > 0.005
    assert half == pytest.approx(split, rel=0.02) and half != split


def test_own_loss(main):
    trainer = main("own_loss")
    steps(trainer)
    data = trainer.train_dataset
    with torch.no_grad():
        logits = trainer.model.eval()(torch.stack([row["pixel_values"] for row in data])).logits
    labels = torch.tensor([row["labels"] for row in data])
    likelihood = logits.log_softmax(-1)
    expected = -(0.9 * likelihood[range(len(data)), labels] + 0.1 * likelihood.mean(-1)).mean().item()
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_own_measure(main):
    with_it, without = main("own_measure"), main("own_measure", diversity_weight=1e-9)
    assert with_it["before"] == without["before"] and 0 < with_it["after"] < 0.9 * without["after"]


def test_own_measure_of_a_dead_unit_has_a_finite_gradient(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    measure = runpy.run_path(str(FOLDER / "own_measure.py"))["Cosine"]()
    activations = torch.randn(8, 4).mul_(torch.tensor([1.0, 0, 1, 1])).requires_grad_()
    measure.value(measure.statistic(activations)).backward()
    assert activations.grad.isfinite().all() and activations.grad.abs().sum() > 0


def test_own_trainer(main):
    trainer = main("own_trainer")
    steps(trainer)
    assert [cls.__name__ for cls in type(trainer).__mro__[:2]] == ["DiverseNoisyTrainer", "DiversityMixin"]


def test_timm_model(main):
    trained, *loaded = main("timm_model")
    assert len(loaded) == 2 and trained.std() > 0.01
    for logits in loaded:
        torch.testing.assert_close(logits, trained, rtol=1e-5, atol=1e-5)


def test_peft_lora(main, capsys):
    pytest.importorskip("peft")
    trainer = main("peft_lora")
    steps(trainer)
    assert (Path(trainer.args.output_dir) / "adapter_model.safetensors").is_file()
    assert "trainable params" in capsys.readouterr().out


def test_trl_sft(main):
    pytest.importorskip("trl")
    record = steps(main("trl_sft"))[-1]
    assert {"diversity/model.layers.0", "diversity/model.layers.1"} <= set(record)


def test_sentence_embeddings(main):
    pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    steps(main("sentence_embeddings"))


def test_own_loop(main):
    with_it, without = main("own_loop"), main("own_loop", diversity_weight=0.0)
    assert with_it[0] == without[0] and with_it[-1] < 0.9 * without[-1]


def test_probe_layers(main):
    report = main("probe_layers")
    assert Path("outputs/examples/report/report.html").is_file()
    assert [name.rpartition(".")[2] for name in report.models[0].layers] == ["layer3", "layer4"]


def test_publish(main, capsys):
    run = main("publish")
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "nothing was sent" in out and "stays  training_args.bin" in out
    assert run.diversity.diversity_weight == 0.1 and not run.model.training


def test_several_processes(main, tmp_path):
    """As it is typed, against one process."""
    launcher = ["accelerate.commands.launch", "--config_file", str(ROOT / "recipes" / "accelerate" / "cpu_2.yaml")]
    launcher += ["--main_process_port", "0"]  # any that is free: other tests launch at the same time
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(FOLDER / "several_processes.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = re.findall(r"^2 processes: (.*)$", done.stdout, flags=re.MULTILINE)
    alone = main("several_processes")
    assert [float(loss) for loss in line.split()] == pytest.approx(alone, rel=1e-5)
    assert max(alone) - min(alone) > 0.01 and len(alone) == 5
