import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from architectures import tiny_transformer
from tiny import Mlp, tiny_bert, tiny_timm
from torch import nn

from hf_diversity import DiversityConfig, inspect_layers
from hf_diversity.cli import main
from hf_diversity.layers import find_layers
from hf_diversity.timm_models import wrap_timm_model


def by_name(inspection, default=False):
    return {row.name: row for row in inspection.rows if row.default == default}


def test_rows_of_a_users_own_model():
    model = Mlp(features=6, width=8).train()
    inspection = inspect_layers(model, {"x": torch.randn(5, 6)})
    rows = by_name(inspection)
    assert list(rows) == ["fc1", "fc2", "act2", "out"]  # as they ran
    assert (rows["fc2"].shape, rows["fc2"].units, rows["fc2"].samples) == ((5, 8), 8, 5)
    [head] = by_name(inspection, default=True).values()
    assert (head.name, head.point, head.units, head.samples) == ("out", "input", 8, 5)
    assert inspection.forward_flops == 2 * 5 * (6 * 8 + 8 * 8 + 8 * 3)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_every_row_can_be_named():
    model = wrap_timm_model(tiny_timm("test_resnet"))
    inspection = inspect_layers(model, batch_size=4, image_size=64)
    rows = by_name(inspection)
    assert rows["timm_model.layer1"].units and rows["timm_model.layer1"].samples == 4
    assert [t.name for t in find_layers(model, list(rows))] == sorted(
        rows, key=list(dict(model.named_modules())).index
    )


def test_samples_and_sizes():
    model = tiny_transformer("ViTForImageClassification")
    layer = "vit.layers.0" if "vit.layers.0" in dict(model.named_modules()) else "vit.encoder.layer.0"
    tokens = by_name(inspect_layers(model, batch_size=3))[layer]
    assert (tokens.shape, tokens.units, tokens.samples) == ((3, 17, 16), 16, 51)
    pooled = by_name(inspect_layers(model, diversity=DiversityConfig(samples="pooled"), batch_size=3))[layer]
    few = by_name(inspect_layers(model, diversity=DiversityConfig(max_samples=7), batch_size=3))[layer]
    assert (pooled.samples, few.samples) == (3, 7)
    assert few.milliseconds < tokens.milliseconds


def test_padding_is_no_sample():
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    assert by_name(inspect_layers(tiny_bert(), inputs))["bert.encoder.layer.0"].samples == 5


def test_what_cannot_be_regularised_says_why():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 1))
    rows = by_name(inspect_layers(model, {"input": torch.randn(3, 4)}))
    assert "overwritten in place" in rows["0"].problem and rows["1"].units == 6
    assert rows["2"].units is None and "1 units" in rows["2"].problem


def test_two_heads_and_none():
    with torch.device("meta"):
        two, none = timm.create_model("levit_128s"), timm.create_model("test_vit", num_classes=0)
        assert list(by_name(inspect_layers(two), default=True)) == ["head.linear", "head_dist.linear"]
        [output] = by_name(inspect_layers(none, batch_size=2), default=True).values()
    assert (output.point, output.shape) == ("output", (2, 64))
    inspection = inspect_layers(tiny_bert().bert, batch_size=2)
    assert not by_name(inspection, default=True) and "cannot tell the output head" in inspection.no_default


def test_inputs_that_cannot_be_made_up():
    with pytest.raises(ValueError, match="Mlp.*type inputs="):
        inspect_layers(Mlp())


def run(capsys, *arguments):
    status = main(["layers", *arguments])
    return status, capsys.readouterr()


def test_command_with_a_timm_name(capsys):
    status, printed = run(capsys, "test_vit", "--batch-size", "4", "--samples", "pooled")
    lines = printed.out.splitlines()
    assert status == 0 and max(map(len, lines)) <= 100
    assert lines[0].split() == ["layer", "module", "output,", "batch", "first", "units", "samples", "ms"]
    [marked] = [line.split() for line in lines if line.startswith("* head (input)")]
    assert marked[3:][:4] == ["Linear", "4", "x", "64"] and marked[-3:-1] == ["64", "4"]
    assert float(marked[-1]) > 0 and "an estimate" in printed.out
    assert "layers=None takes the input of 'head'" in printed.out


def test_command_with_a_folder_without_weights(capsys, tmp_path):
    """Its forward pass runs on the meta device or, where it looks at numbers, on the CPU."""
    for name in ("BertForSequenceClassification", "BartForConditionalGeneration"):
        config = tiny_transformer(name).config
        config.architectures = [name]
        config.save_pretrained(tmp_path / name)
        status, printed = run(capsys, str(tmp_path / name), "--sequence-length", "5", "--match", "**.layer*.0")
        assert status == 0 and "32 x 5 x 16" in printed.out and " 160 " in printed.out


def test_command_that_fails_says_what_to_type(capsys, tmp_path):
    for arguments, said in (
        (["resnet10tt"], "neither a timm name nor a folder: did you mean resnet10t.*OWNER/resnet10tt"),
        (["nobody/nothing"], "neither a local folder with config.json nor on the Hub.*a timm name"),
        (["test_vit", "--match", "no.such"], "matches no module"),
        (["test_vit", "--batch-size", "1"], "needs 2 examples"),
    ):
        status, printed = run(capsys, *arguments)
        assert status == 1 and not printed.out
        assert re.search(said, printed.err.replace("\n", " "))


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-c", "import sys; from hf_diversity.cli import main; sys.exit(main())"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [*command, "layers", "test_vit"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and b"rror" not in errors


def test_estimated_cost_grows_as_the_kernels_do():
    from hf_diversity.kernels.dispatch import estimated_cost

    call = estimated_cost(0, 512)
    assert math.isclose(estimated_cost(64, 512) - call, 2 * (estimated_cost(32, 512) - call))
    assert call < estimated_cost(320, 4096) < 10 * estimated_cost(320, 512)  # not the square of the units


def test_names_are_whole_and_an_inspection_prints_as_the_table(capsys):
    class Nested(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.Linear(4, 4)
            self.name = ".".join(["a_rather_long_name"] * 6)
            for _ in range(6):
                layer = torch.nn.ModuleDict({"a_rather_long_name": layer})
            self.inner, self.out = layer, torch.nn.Linear(4, 2)

        def forward(self, x):
            layer = self.inner
            while isinstance(layer, torch.nn.ModuleDict):
                layer = layer["a_rather_long_name"]
            return {"logits": self.out(layer(x))}

    model = Nested()
    text = str(inspect_layers(model, {"x": torch.randn(3, 4)}))
    assert f"inner.{model.name} " in text and "layers=None takes" in text
