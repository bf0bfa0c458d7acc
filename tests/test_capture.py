import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from tiny import Mlp
from torch import nn

from hf_diversity.capture import ActivationCapture, LayerTarget, first_tensor


def capture_of(model, *names, point="output"):
    return ActivationCapture([LayerTarget(n, model.get_submodule(n), point) for n in names], model)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_output_and_input_are_the_very_tensors():
    model, x = Mlp(), torch.randn(3, 6)
    outputs, inputs = capture_of(model, "fc2"), capture_of(model, "out", point="input")
    with outputs.armed() as first, inputs.armed() as second:
        model(x)
    first, second = outputs.take(first, True), inputs.take(second, True)
    hidden = model.fc2(torch.tanh(model.fc1(x)))
    assert torch.equal(first["fc2"][0], hidden)
    assert torch.equal(second["out"][0], model.act2(hidden))
    assert first["fc2"][0].requires_grad


def test_hooks_are_there_while_armed_only():
    model = Mlp()
    capture = capture_of(model, "fc2")
    with capture.armed() as captured:
        assert hooks(model) == 1
    assert hooks(model) == 0
    model(torch.randn(2, 6))
    assert captured == {}


def test_hooks_are_removed_after_an_error():
    model = Mlp()
    capture = capture_of(model, "fc2")
    with pytest.raises(KeyError), capture.armed():
        raise KeyError
    assert hooks(model) == 0


def test_every_call_of_a_shared_module_is_captured():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    capture = capture_of(model, "0")
    with capture.armed() as captured:
        model(torch.randn(2, 4))
    assert len(captured["0"]) == 2


def test_a_copy_made_while_hooked_does_not_write_to_the_store():
    model = Mlp()
    capture = capture_of(model, "fc2")
    with capture.armed() as captured:
        duplicate = copy.deepcopy(model)
        duplicate(torch.randn(2, 6))
        unpickled = pickle.loads(pickle.dumps(model))
        unpickled(torch.randn(2, 6))
        assert captured == {}
    assert torch.isfinite(duplicate(torch.randn(2, 6))["logits"]).all()


def test_a_pickle_made_while_hooked_loads_without_this_package(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    capture = capture_of(model, "0")
    buffer = io.BytesIO()
    with capture.armed():
        torch.save(model, buffer)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    code = (
        "import sys, torch; sys.modules['hf_diversity'] = None\n"
        f"model = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "print(model(torch.zeros(1, 2)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch.Size([1, 2])" in done.stdout, done.stderr


def test_first_tensor_looks_into_containers():
    tensor = torch.ones(1)
    assert first_tensor((None, [tensor])) is tensor
    assert first_tensor({"a": torch.zeros(1), "last_hidden_state": tensor}) is tensor
    assert first_tensor("text") is None


def test_a_layer_without_a_tensor_is_an_error():
    class Text(nn.Module):
        def forward(self, x):
            return "text"

    model = nn.Sequential(Text())
    capture = capture_of(model, "0")
    with pytest.raises(TypeError, match=r"layer '0' \(Text\) gives str"), capture.armed():
        model(torch.zeros(1))


def test_keyword_arguments_reach_a_hooked_head():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            return self.head(input=x)

    model, x = Model(), torch.randn(3, 2)
    capture = capture_of(model, "head", point="input")
    with capture.armed() as captured:
        model(x)
    assert captured["head"][0].tensor is x


def test_a_layer_that_did_not_run_names_the_nearest():
    model = Mlp()
    capture = capture_of(model, "fc2")
    with capture.armed() as captured:
        pass
    with pytest.raises(RuntimeError, match="layer 'fc2' did not run.*nearest: fc1"):
        capture.take(captured, training=False)


def test_transformer_encoder_layer_runs_its_linear_layers_while_hooked():
    """Its fused evaluation path would call none of them; torch leaves it when there are hooks."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    capture = capture_of(model, "linear1")
    with torch.no_grad(), capture.armed() as captured:
        model(torch.randn(2, 3, 8))
    assert captured["linear1"][0].tensor.shape == (2, 3, 16)


def test_overwritten_activations_are_refused():
    """TRAPS 9: a hook on a layer before an in-place activation sees the values after it."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    capture = capture_of(model, "0")
    with capture.armed() as captured:
        model(torch.randn(3, 4))
    with pytest.raises(RuntimeError, match="layer '0' were overwritten after it by an in-place operation"):
        capture.take(captured, training=True)
    after = capture_of(model, "1")
    with after.armed() as captured:
        model(torch.randn(3, 4))
    assert (after.take(captured, training=True)["1"][0] >= 0).all()


def test_passes_without_gradient_beside_others_are_left_out():
    model = Mlp()
    capture = capture_of(model, "fc2")
    x = torch.randn(2, 6)
    with capture.armed() as captured:
        with torch.no_grad():
            model(x)
        model(2 * x)
    assert len(capture.take(captured, training=False)["fc2"]) == 2
    [taken] = capture.take(captured, training=True)["fc2"]
    assert torch.equal(taken, model.fc2(torch.tanh(model.fc1(2 * x))))
