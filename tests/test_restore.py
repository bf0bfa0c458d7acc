"""Every tensor is restored, by resume and by `load_best_model_at_end`, or an error says which is not."""

import os
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import Images, Mlp, Rows, Sentences, arguments, assert_same, tiny_bert, tiny_timm, weights
from transformers import (
    BertConfig,
    BertForMaskedLM,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.compat import restore_weights
from hf_diversity.timm_models import wrap_timm_model


class Tokens(Sentences):
    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {**item, "labels": item["input_ids"]}


def transformers_vit():
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=8, num_channels=1, num_labels=4,
        )
    )  # fmt: skip


def tied_bert():
    torch.manual_seed(0)
    return BertForMaskedLM(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )


def lora(adapter="default"):
    model = tiny_bert()
    config = LoraConfig(
        r=2, target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False
    )
    torch.manual_seed(1)
    return get_peft_model(model, config, adapter_name=adapter)


MODELS = {
    "plain": (Mlp, Rows),
    "timm raw": (lambda: tiny_timm("test_vit"), Images),
    "timm wrapped": (
        lambda: wrap_timm_model(tiny_timm("test_vit2", depth=1), {"depth": 1, "in_chans": 1, "img_size": 32}),
        Images,
    ),
    "renamed": (transformers_vit, Images),
    "tied": (tied_bert, Tokens),
    "adapter": (lora, Sentences),
    "named adapter": (lambda: lora("mine"), Sentences),
}


def as_shards(folder, model):
    os.remove(os.path.join(folder, "model.safetensors"))
    model.save_pretrained(folder, max_shard_size="10KB")
    assert os.path.isfile(os.path.join(folder, "model.safetensors.index.json"))


def as_old_file(folder, model):
    path = os.path.join(folder, "model.safetensors")
    torch.save(load_file(path), os.path.join(folder, "pytorch_model.bin"))
    os.remove(path)


class AtSteps(TrainerCallback):
    """Remembers the weights after each step, and rewrites each checkpoint."""

    def __init__(self, rewrite=None):
        self.rewrite, self.weights = rewrite, {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = weights(model)

    def on_save(self, args, state, control, model=None, **kwargs):
        if self.rewrite is not None:
            self.rewrite(os.path.join(args.output_dir, f"checkpoint-{state.global_step}"), model)


def make_trainer(kind, folder, callback, best=False, **kwargs):
    model, data = MODELS[kind]
    evaluations = []

    def compute_metrics(prediction):  # the first evaluation is the best one
        evaluations.append(prediction)
        return {"score": -len(evaluations)}

    if best:
        kwargs |= {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
        kwargs |= {"metric_for_best_model": "score", "greater_is_better": True}
    return DiversityTrainer(
        model=model(), train_dataset=data(8), eval_dataset=data(4, seed=5), compute_metrics=compute_metrics,
        diversity=DiversityConfig(diversity_weight=0.5), callbacks=[callback],
        args=arguments(folder, max_steps=2, save_strategy="steps", save_steps=1, **kwargs),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "rewrite"),
    [(kind, None) for kind in MODELS]
    + [(kind, rewrite) for kind in ("renamed", "tied") for rewrite in (as_shards, as_old_file)],
)
def test_resume_and_the_best_model_have_every_tensor(tmp_path, kind, rewrite):
    first = AtSteps(rewrite)
    whole = make_trainer(kind, tmp_path / "a", first, best=True)
    whole.train()
    assert whole.state.best_model_checkpoint == str(tmp_path / "a" / "checkpoint-1")
    assert any(not torch.equal(first.weights[1][name], first.weights[2][name]) for name in first.weights[1])
    assert_same(weights(whole.model), first.weights[1], rtol=0, atol=0)
    resumed = make_trainer(kind, tmp_path / "b", AtSteps())
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-1"))
    assert_same(weights(resumed.model), first.weights[2], rtol=0, atol=0)


def damage(folder, how):
    """One tensor less, one more, or one of another shape; returns the name of the tensor."""
    path = os.path.join(folder, "model.safetensors")
    path = path if os.path.isfile(path) else os.path.join(folder, "adapter_model.safetensors")
    tensors = load_file(path)
    ends = ("fc2.weight", "layernorm_before.weight", "LayerNorm.weight", "lora_A.weight")
    name = next(name for name in tensors if name.endswith(ends))
    if how == "does not hold":
        del tensors[name]
    elif how == "does not have":
        tensors[name := "another.weight"] = torch.zeros(2, 3)
    else:
        tensors[name] = tensors[name][1:].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("how", ["does not hold", "does not have", "another shape"])
@pytest.mark.parametrize("kind", ["plain", "renamed", "tied", "adapter"])
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_name_of_the_tensor(tmp_path, kind, how):
    model = MODELS[kind][0]()
    DiversityTrainer(model=model, args=arguments(tmp_path), diversity=DiversityConfig()).save_model()
    restore_weights(model, str(tmp_path))  # whole it is accepted
    before = weights(model)
    name = damage(tmp_path, how)
    with pytest.raises(RuntimeError, match=how) as caught:
        restore_weights(model, str(tmp_path))
    end = ".".join(name.split(".")[-2:])  # the model may have another name for what stands before
    assert end in str(caught.value) and "name a checkpoint of this model" in str(caught.value)
    assert_same(before, weights(model), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["renamed", "adapter"])
def test_train_ends_with_an_error_if_the_best_model_is_not_whole(tmp_path, kind):
    trainer = make_trainer(kind, tmp_path, AtSteps(lambda folder, model: damage(folder, "does not hold")), best=True)
    with pytest.raises(RuntimeError, match="does not hold 1 of the model's"):
        trainer.train()


def test_a_best_checkpoint_without_weights_is_an_error(tmp_path):
    remove = AtSteps(lambda folder, model: os.remove(os.path.join(folder, "model.safetensors")))
    with pytest.raises(RuntimeError, match="checkpoint-1 holds no weights"):
        make_trainer("plain", tmp_path, remove, best=True).train()


def test_the_best_checkpoint_is_found_where_the_folder_has_moved(tmp_path):
    make_trainer("plain", tmp_path / "a", AtSteps(), best=True).train()
    shutil.rmtree(tmp_path / "a" / "checkpoint-2")
    os.rename(tmp_path / "a", tmp_path / "b")
    moved = make_trainer("plain", tmp_path / "b", AtSteps(), best=True)
    moved.train(resume_from_checkpoint=True)
    assert moved.state.best_model_checkpoint == str(tmp_path / "b" / "checkpoint-1")
