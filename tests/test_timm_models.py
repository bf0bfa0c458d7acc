"""Raw timm models in the trainer."""

import math

import pytest
import timm
import torch
from tiny import Images, arguments, assert_same, tiny_timm, weights
from transformers import (
    AutoModelForImageClassification,
)

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.timm_models import wrap_timm_model


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_raw_timm_model_trains_evaluates_saves_and_reloads(tmp_path, name):
    import timm

    model = tiny_timm(name)
    before = weights(model)
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path / "run", max_steps=2), train_dataset=Images(), eval_dataset=Images(8),
        diversity=DiversityConfig(diversity_weight=0.1),
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    assert math.isfinite(metrics["eval_loss"]) and math.isfinite(metrics["eval_diversity"])
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())  # the user's own object
    trainer.save_model(str(tmp_path / "final"))
    pixels = torch.stack([Images()[i]["pixel_values"] for i in range(3)])
    expected = model.eval()(pixels)
    wrapped = AutoModelForImageClassification.from_pretrained(tmp_path / "final").eval()
    assert_same(weights(wrapped.timm_model), weights(model), rtol=0, atol=0)
    torch.testing.assert_close(wrapped(pixels).logits, expected)
    raw = timm.create_model(f"local-dir:{tmp_path / 'final'}", pretrained=True).eval()
    assert_same(weights(raw), weights(model), rtol=0, atol=0)
    torch.testing.assert_close(raw(pixels), expected)


def test_raw_timm_model_resumes(tmp_path):
    make = lambda folder: DiversityTrainer(  # noqa: E731
        model=tiny_timm(), args=arguments(folder, save_strategy="steps", save_steps=2), train_dataset=Images(),
        diversity=DiversityConfig(diversity_weight=0.5),
    )  # fmt: skip
    whole, resumed = make(tmp_path / "a"), make(tmp_path / "b")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)


def test_raw_timm_model_from_model_init(tmp_path):
    trainer = DiversityTrainer(
        model_init=lambda: tiny_timm(),
        args=arguments(tmp_path, max_steps=1),
        train_dataset=Images(),
        diversity=DiversityConfig(),
    )
    trainer.train()
    assert trainer.model.timm_model.num_classes == 4


def test_timm_model_that_could_not_be_rebuilt(tmp_path):
    with pytest.raises(ValueError, match="model_args"):
        DiversityTrainer(model=tiny_timm(depth=2), args=arguments(tmp_path), train_dataset=Images())
    with pytest.raises(ValueError, match="no classifier"):
        DiversityTrainer(model=tiny_timm(num_classes=0), args=arguments(tmp_path), train_dataset=Images())


@pytest.mark.parametrize("other", [{"global_pool": "max"}, {"drop_rate": 0.3}])
def test_an_argument_without_weights_is_noticed(tmp_path, other):
    make = lambda: DiversityTrainer(  # noqa: E731
        model=tiny_timm("test_resnet", **other), args=arguments(tmp_path), train_dataset=Images()
    )
    with pytest.raises(ValueError, match="would reload as another model.*model_args"):
        make()
    model = wrap_timm_model(tiny_timm("test_resnet", **other), {"in_chans": 1, **other})
    model.save_pretrained(tmp_path)
    pixels = torch.randn(2, 1, 64, 64)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.eval()(pixels).logits, model.eval()(pixels).logits)


def test_a_model_without_further_arguments_reloads_in_timm(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    wrap_timm_model(model).save_pretrained(tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert_same(weights(loaded), weights(model), rtol=0, atol=0)
