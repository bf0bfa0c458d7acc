import pytest
import timm
import torch
from torch import nn

from hf_diversity.capture import ActivationCapture, LayerTarget
from hf_diversity.config import DiversityConfig
from hf_diversity.masks import position_mask
from hf_diversity.samples import rows_by_layer, subsample, to_samples, unit_axis


def test_matrix_is_taken_as_it_is():
    a = torch.randn(5, 3)
    assert to_samples(a) is a


def test_positions_of_tokens_without_padding():
    a, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    expected = torch.stack([a[i, t] for i in range(2) for t in range(4) if mask[i, t]])
    assert torch.equal(to_samples(a, samples="positions", mask=mask), expected)
    assert torch.equal(to_samples(a, samples="auto", mask=mask), expected)
    assert to_samples(a).shape == (8, 3)


def test_pooled_tokens_without_padding():
    a, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    expected = torch.stack([a[0, :2].mean(0), a[1, 1:].mean(0)])
    torch.testing.assert_close(to_samples(a, samples="pooled", mask=mask), expected)


def test_pooled_leaves_out_an_example_without_tokens():
    a, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(to_samples(a, samples="pooled", mask=mask), a[:1, :2].mean(1))


def test_first_token_follows_left_padding():
    a, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    assert torch.equal(to_samples(a, samples="first", mask=mask), torch.stack([a[0, 0], a[1, 2]]))
    assert torch.equal(to_samples(a, samples="first"), a[:, 0])


def test_feature_maps():
    a = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(to_samples(a, 1, "auto"), a.mean((2, 3)))
    expected = torch.stack([a[i, :, y, x] for i in range(2) for y in range(4) for x in range(5)])
    assert torch.equal(to_samples(a, 1, "positions"), expected)
    last = a.permute(0, 2, 3, 1)
    assert torch.equal(to_samples(last, -1, "positions"), expected)


def test_first_of_a_feature_map_is_refused():
    with pytest.raises(ValueError, match="layer 'conv'.*no first token"):
        to_samples(torch.randn(2, 3, 4, 4), 1, "first", name="conv")


def test_mask_of_another_tensor_is_ignored():
    assert to_samples(torch.randn(2, 4, 3), mask=torch.ones(2, 5)).shape == (8, 3)


def test_vector_is_refused():
    with pytest.raises(ValueError, match="batch axis"):
        to_samples(torch.randn(3))


@pytest.mark.parametrize(
    ("module", "shape", "axis"),
    [
        (nn.Conv2d(3, 6, 3), (2, 6, 4, 4), 1),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), (2, 6, 4, 4), 1),
        (nn.Linear(3, 6), (2, 4, 4, 6), -1),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)), (2, 4, 4, 6), -1),
        (nn.ReLU(), (2, 6, 4, 4), 1),
        (nn.ReLU(), (2, 4, 4, 6), -1),
        (nn.ReLU(), (2, 4, 6), -1),
    ],
)
def test_unit_axis(module, shape, axis):
    assert unit_axis(module, torch.zeros(shape), "layer") == axis


def test_unit_axis_that_cannot_be_told():
    with pytest.raises(ValueError, match="layer 'relu'.*nothing.*type unit_axis=1 or"):
        unit_axis(nn.ReLU(), torch.zeros(2, 4, 5, 6), "relu")


def test_subsample_is_random_without_touching_the_global_state():
    rows = torch.arange(20.0).unsqueeze(1)
    before = torch.random.get_rng_state()
    first, again, other = subsample(rows, 5, 1), subsample(rows, 5, 1), subsample(rows, 5, 2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(set(first.flatten().tolist())) == 5
    assert subsample(rows, 20, 0) is rows and subsample(rows, None, 0) is rows


def test_masks_of_encoder_decoder_models():
    inputs = {"attention_mask": torch.ones(1, 3), "labels": torch.tensor([[4, 5, -100]])}
    head, encoder = (
        LayerTarget("lm_head", nn.Identity(), "input"),
        LayerTarget("model.encoder.layers.0", nn.Identity()),
    )
    assert position_mask(inputs, head, True).tolist() == [[True, True, False]]
    assert position_mask(inputs, encoder, True).tolist() == [[True, True, True]]
    assert position_mask(inputs, head, False).tolist() == [[True, True, True]]
    inputs["decoder_attention_mask"] = torch.zeros(1, 3)
    assert position_mask(inputs, head, True).tolist() == [[False, False, False]]


def test_rows_by_layer_takes_every_call_and_the_real_examples():
    target = LayerTarget("fc", nn.Linear(3, 3))
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    rows = rows_by_layer({"fc": [first, second]}, [target], DiversityConfig(), {}, real_share=(2, 4))
    assert torch.equal(rows["fc"], torch.cat([first[:2], second[:2]]))


def test_real_examples_of_a_layer_with_several_rows_an_example():
    """Window attention folds positions into the first axis."""
    target = LayerTarget("windows", nn.Linear(3, 3))
    windows = torch.randn(8, 3)
    rows = rows_by_layer({"windows": [windows]}, [target], DiversityConfig(), {}, real_share=(3, 4))
    assert torch.equal(rows["windows"], windows[:6])
    with pytest.raises(ValueError, match="layer 'windows'.*per_device_eval_batch_size"):
        rows_by_layer({"windows": [windows[:7]]}, [target], DiversityConfig(), {}, real_share=(3, 4))


class Moved(nn.Module):
    """Works on the last axis and then moves its units to the second, as a ConvNeXt block does."""

    def __init__(self):
        super().__init__()
        self.norm, self.project = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        return self.project(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(2, 2), (4, 3), (6, 6), (7, 7)])
def test_unit_axis_follows_the_width_not_the_kind_of_the_last_layer(size):
    block = Moved()
    activations = block(torch.randn(2, 6, *size))
    if size == (6, 6):
        with pytest.raises(ValueError, match="nothing says which axis"):
            unit_axis(block, activations, "block")
    else:
        assert unit_axis(block, activations, "block") == 1


@pytest.mark.parametrize(
    ("name", "layer"), [("test_convnext", "stages.1"), ("test_resnet", "layer2"), ("test_mambaout", "stages.1")]
)
def test_unit_axis_of_timm_stages(name, layer):
    model = timm.create_model(name).eval()
    capture = ActivationCapture([LayerTarget(layer, model.get_submodule(layer))], model)
    widths = {m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)} | {
        m.normalized_shape[-1] for m in model.modules() if isinstance(m, nn.LayerNorm)
    }
    with torch.no_grad(), capture.armed() as store:
        model(torch.randn(1, 3, 96, 64))
    [activations] = capture.take(store, training=False)[layer]
    axis = unit_axis(model.get_submodule(layer), activations, layer)
    assert activations.shape[axis] in widths and activations.shape[-axis if axis == -1 else -1] not in widths - {
        activations.shape[axis]
    }


def test_unit_axis_of_one_dimensional_convolutions():
    assert unit_axis(nn.Conv1d(3, 6, 3), torch.zeros(2, 6, 9), "conv") == 1
    assert unit_axis(nn.Sequential(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), torch.zeros(2, 6, 9), "conv") == 1
    assert unit_axis(nn.Sequential(nn.Linear(6, 6)), torch.zeros(2, 6, 6), "linear") == -1
