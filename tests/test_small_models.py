"""The networks of the studies: their sizes, the layer that is regularised, and how they reload."""

import pytest
import timm
import torch
from transformers import AutoModelForImageClassification

import hf_diversity.small_models  # noqa: F401  registers them in timm
from hf_diversity import inspect_layers
from hf_diversity.timm_models import wrap_timm_model

ARGUMENTS = {"small_cnn": {"in_chans": 1}, "small_mlp": {"in_chans": 1, "img_size": 28}}


def build(name, **more):
    return timm.create_model(name, num_classes=10, **ARGUMENTS[name], **more)


def by_hand(name, model, images):
    """The logits in evaluation mode, from the weights alone."""
    weights = model.state_dict()
    if name == "small_mlp":
        hidden = images.flatten(1)
        for place in (1, 2):
            hidden = (hidden @ weights[f"layers.{place}.0.weight"].T + weights[f"layers.{place}.0.bias"]).clamp(min=0)
        return hidden @ weights["fc.weight"].T + weights["fc.bias"]
    hidden = images
    for place in range(3):
        hidden = torch.conv2d(hidden, weights[f"blocks.{place}.0.weight"], stride=2, padding=1)
        mean, variance, scale, shift = (
            weights[f"blocks.{place}.1.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        hidden = ((hidden - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
    return hidden.mean((2, 3)) @ weights["head.fc.weight"].T + weights["head.fc.bias"]


@pytest.mark.parametrize(("name", "weights"), [("small_cnn", 94_186), ("small_mlp", 235_146)])
def test_it_computes_what_it_says(name, weights):
    model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    images = torch.randn(5, 1, 28, 28)
    model(images)  # moves the running statistics off their start
    logits = model.eval()(images)
    torch.testing.assert_close(logits, by_hand(name, model, images), rtol=1e-4, atol=1e-5)
    assert logits.std() > 1e-3
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model.get_classifier()(features), logits)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_last_hidden_layer_has_128_units(name):
    model = wrap_timm_model(build(name), ARGUMENTS[name])
    (row,) = [row for row in inspect_layers(model, {"pixel_values": torch.randn(4, 1, 28, 28)}).rows if row.default]
    assert row.units == 128 and row.samples == 4


@pytest.mark.parametrize("name", ARGUMENTS)
def test_dropout_acts_in_training_alone_and_leaves_the_start_as_it_is(name):
    torch.manual_seed(3)
    plain = build(name)
    torch.manual_seed(3)
    dropped = build(name, drop_rate=0.5)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, dropped.state_dict()[key]), key
    images = torch.randn(4, 1, 28, 28)
    assert not torch.equal(dropped(images), dropped(images))
    assert torch.equal(dropped.eval()(images), build_same(dropped, name)(images))


def build_same(model, name):
    other = build(name)
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_checkpoint_reloads_and_another_head_fits(name, tmp_path):
    model = wrap_timm_model(build(name), ARGUMENTS[name]).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(3, 1, 28, 28)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, model(images).logits)
    raw = model.timm_model
    raw.reset_classifier(7)
    assert raw(images).shape == (3, 7)
    raw.reset_classifier(0)
    assert raw(images).shape == (3, 128)
