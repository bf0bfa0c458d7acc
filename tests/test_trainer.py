"""The trainer against a hand-written loop in float64 terms, against Trainer, and in its promises."""

import copy
import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file
from tiny import Images, Mlp, Rows, Sentences, arguments, tiny_bert, tiny_timm, weights
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

from hf_diversity import DiversityConfig, DiversityMixin, DiversityTrainer

FIXED = {"gamma": 0.7, "diversity_weight": 0.5, "activation_weight": 0.01}


def penalty_by_hand(rows, config):
    """lambda_1 J + lambda_2 P with J from the definition, by loops over pairs of units."""
    units = rows.shape[1]
    total = 0.0
    for n in range(units):
        for m in range(units):
            if n != m:
                total = total + torch.exp(-config.gamma * (rows[:, n] - rows[:, m]) ** 2).mean()
    direct = total / (units * (units - 1))
    return config.diversity_weight * direct + config.activation_weight * rows.pow(2).sum(1).mean()


def train_by_hand(model, batches, config, learning_rate, accumulate=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    for start in range(0, len(batches), accumulate):
        window = batches[start : start + accumulate]
        optimizer.zero_grad()
        for batch in window:
            hidden = model.act2(model.fc2(torch.tanh(model.fc1(batch["x"]))))
            loss = nn.functional.cross_entropy(model.out(hidden), batch["labels"])
            ((loss + penalty_by_hand(hidden, config)) / len(window)).backward()
        optimizer.step()
    return weights(model)


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


def in_order(dataset, size):
    return [
        {key: torch.stack([dataset[i][key] for i in range(s, s + size)]) for key in dataset[0]}
        for s in range(0, len(dataset), size)
    ]


class Unshuffled(DiversityTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_equal_a_hand_written_loop(tmp_path, accumulate):
    config, data = DiversityConfig(**FIXED), Rows(16)
    model = Mlp()
    args = arguments(tmp_path, gradient_accumulation_steps=accumulate, max_steps=4 // accumulate)
    Unshuffled(model=model, args=args, train_dataset=data, diversity=config).train()
    expected = train_by_hand(Mlp(), in_order(data, 4), config, 0.1, accumulate)
    assert_same(weights(model), expected, atol=2e-6, rtol=1e-5)
    without = train_by_hand(
        Mlp(), in_order(data, 4), DiversityConfig(gamma=0.7, diversity_weight=0.0), 0.1, accumulate
    )
    assert (without["fc2.weight"] - expected["fc2.weight"]).abs().max() > 1e-3  # the regulariser is visible


def test_logged_parts_add_up_and_are_the_batch_values(tmp_path):
    config, data = DiversityConfig(**FIXED), Rows(16)
    model = Mlp()
    trainer = Unshuffled(
        model=model, args=arguments(tmp_path, max_steps=2, learning_rate=0.0), train_dataset=data, diversity=config
    )
    trainer.train()
    records = [r for r in trainer.state.log_history if "loss" in r]
    assert len(records) == 2
    for record, batch in zip(records, in_order(data, 4), strict=False):
        hidden = model.act2(model.fc2(torch.tanh(model.fc1(batch["x"])))).detach()
        task = nn.functional.cross_entropy(model.out(hidden), batch["labels"]).item()
        off_diagonal = [
            torch.exp(-0.7 * (hidden[:, n] - hidden[:, m]) ** 2).mean().item()
            for n in range(8)
            for m in range(8)
            if n != m
        ]
        assert record["task_loss"] == pytest.approx(task, rel=1e-5)
        assert record["diversity"] == pytest.approx(sum(off_diagonal) / 56, rel=1e-5)
        assert record["activation_norm"] == pytest.approx(hidden.pow(2).sum(1).mean().item(), rel=1e-5)
        assert record["gamma"] == pytest.approx(0.7)
        total = record["task_loss"] + 0.5 * record["diversity"] + 0.01 * record["activation_norm"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)


def test_logged_parts_over_several_steps_and_micro_batches_add_up(tmp_path):
    trainer = DiversityTrainer(
        model=tiny_bert(),
        args=arguments(tmp_path, gradient_accumulation_steps=2, logging_steps=3, max_steps=6),
        train_dataset=Sentences(48),
        diversity=DiversityConfig(diversity_weight=0.5, activation_weight=0.01, layers=["bert.encoder.layer.*"]),
    )
    trainer.train()
    records = [r for r in trainer.state.log_history if "loss" in r]
    assert len(records) == 2
    for record in records:
        total = record["task_loss"] + 0.5 * record["diversity"] + 0.01 * record["activation_norm"]
        assert record["loss"] == pytest.approx(total, rel=1e-4)
        layers = [record[f"diversity/bert.encoder.layer.{i}"] for i in range(2)]
        assert record["diversity"] == pytest.approx(sum(layers), rel=1e-5)
        gammas = [record[f"gamma/bert.encoder.layer.{i}"] for i in range(2)]
        assert record["gamma"] == pytest.approx(math.sqrt(gammas[0] * gammas[1]), rel=1e-5)


def test_default_layer_of_a_text_classifier_is_the_classifier_input(tmp_path):
    model = tiny_bert()
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path, max_steps=1), train_dataset=Sentences(), diversity=DiversityConfig()
    )
    [target] = trainer._capture_for(model).targets
    assert target.module is model.classifier and target.point == "input"


@pytest.mark.parametrize("name", ["bert", "timm", "mlp"])
def test_weights_zero_is_trainer_bit_for_bit(tmp_path, name):
    make = {"bert": lambda: tiny_bert(dropout=0.1), "timm": None, "mlp": Mlp}[name]
    if name == "timm":
        from hf_diversity.timm_models import wrap_timm_model

        make = lambda: wrap_timm_model(tiny_timm())  # noqa: E731
    data = {"bert": Sentences(), "timm": Images(), "mlp": Rows()}[name]
    kwargs = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    histories, finals, files = [], [], []
    for kind in ("plain", "diverse"):
        folder = tmp_path / kind
        extra = {} if kind == "plain" else {"diversity": DiversityConfig(diversity_weight=0.0)}
        trainer = (Trainer if kind == "plain" else DiversityTrainer)(
            model=make(), args=arguments(folder, **kwargs), train_dataset=data, eval_dataset=data, **extra
        )
        trainer.train()
        drop = ("train_runtime", "eval_runtime", "per_second", "preparation_time")
        histories.append(
            [{k: v for k, v in r.items() if not any(d in k for d in drop)} for r in trainer.state.log_history]
        )
        finals.append(weights(trainer.model))
        files.append(sorted(str(p.relative_to(folder)) for p in folder.rglob("*")))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in trainer.model.modules())
    assert histories[0] == histories[1]
    assert files[0] == files[1]
    assert_same(*finals, rtol=0, atol=0)


def test_eval_loss_is_the_task_loss_and_diversity_is_exact_over_the_set(tmp_path):
    data, config = Rows(18), DiversityConfig(measure="logdet", gamma=0.7, diversity_weight=0.5)
    model = Mlp()
    trainer = DiversityTrainer(model=model, args=arguments(tmp_path), eval_dataset=data, diversity=config)
    metrics = trainer.evaluate()
    plain = Trainer(model=Mlp(), args=arguments(tmp_path), eval_dataset=data).evaluate()
    assert metrics["eval_loss"] == plain["eval_loss"]
    with torch.no_grad():
        hidden = model.act2(model.fc2(torch.tanh(model.fc1(data.x)))).double()
    similarity = torch.stack(
        [
            torch.stack([torch.exp(-0.7 * (hidden[:, n] - hidden[:, m]) ** 2).mean() for m in range(8)])
            for n in range(8)
        ]
    )
    exact = -torch.linalg.slogdet(similarity + 1e-4 * torch.eye(8, dtype=torch.float64))[1].item()
    batches = [
        -torch.linalg.slogdet(
            torch.exp(-0.7 * (h[:, :, None] - h[:, None]) ** 2).mean(0) + 1e-4 * torch.eye(8, dtype=torch.float64)
        )[1].item()
        for h in hidden.split(4)
    ]
    assert metrics["eval_diversity"] == pytest.approx(exact, rel=1e-5)
    assert abs(sum(batches) / len(batches) - exact) > 0.1  # what a mean over batches would have given
    assert metrics["eval_activation_norm"] == pytest.approx(hidden.pow(2).sum(1).mean().item(), rel=1e-5)
    assert metrics["eval_gamma"] == pytest.approx(0.7)


def test_evaluation_inside_training_leaves_the_trajectory_alone(tmp_path):
    config = DiversityConfig(diversity_weight=0.5)
    finals = []
    for strategy in ("no", "steps"):
        model = Mlp()
        DiversityTrainer(
            model=model, args=arguments(tmp_path, eval_strategy=strategy, eval_steps=1), train_dataset=Rows(),
            eval_dataset=Rows(9, seed=5), diversity=config,
        ).train()  # fmt: skip
        finals.append(weights(model))
    assert_same(*finals, rtol=0, atol=0)


def test_dict_of_evaluation_sets(tmp_path):
    trainer = DiversityTrainer(
        model=Mlp(), args=arguments(tmp_path), eval_dataset={"a": Rows(8), "b": Rows(8, seed=4)},
        diversity=DiversityConfig(gamma=0.7),
    )  # fmt: skip
    metrics = trainer.evaluate()
    assert metrics["eval_a_diversity"] != metrics["eval_b_diversity"]


def test_predict_measures_nothing_and_labels_are_not_needed(tmp_path):
    trainer = DiversityTrainer(model=Mlp(), args=arguments(tmp_path), diversity=DiversityConfig())
    data = [{"x": row["x"]} for row in Rows(8)]
    output = trainer.predict(data)
    assert output.predictions.shape == (8, 3)
    assert not any("diversity" in key for key in output.metrics)


class Probe(TrainerCallback):
    """Looks at the model between steps."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
        self.seen.append((hooks, copy.deepcopy(model), pickle.dumps(model)))


def test_hooks_are_gone_between_steps_after_training_and_in_copies(tmp_path):
    probe, model = Probe(), Mlp()
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), callbacks=[probe], diversity=DiversityConfig()
    )
    trainer.train()
    assert len(probe.seen) == 4
    for hooks, duplicate, pickled in probe.seen:
        assert hooks == 0 and b"hf_diversity" not in pickled
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in duplicate.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_hooks_are_gone_after_an_exception(tmp_path):
    class Failing(Mlp):
        def forward(self, x, labels=None):
            super().forward(x, labels)
            raise KeyError("broken")

    model = Failing()
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), diversity=DiversityConfig()
    )
    with pytest.raises(KeyError, match="broken"):
        trainer.train()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_train_twice_and_model_init(tmp_path):
    made = []

    def make():
        made.append(Mlp())
        return made[-1]

    trainer = DiversityTrainer(
        model_init=make,
        args=arguments(tmp_path),
        train_dataset=Rows(),
        diversity=DiversityConfig(diversity_weight=0.5),
    )
    trainer.train()
    first = weights(trainer.model)
    trainer.train()
    assert trainer.model is made[-1] and len(made) >= 2
    assert_same(first, weights(trainer.model), rtol=0, atol=0)
    plain = Mlp()
    Trainer(model=plain, args=arguments(tmp_path), train_dataset=Rows()).train()
    assert (plain.fc2.weight - trainer.model.fc2.weight).abs().max() > 1e-4


def test_mixin_over_another_subclass(tmp_path):
    class Doubled(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            return (2 * loss, outputs) if return_outputs else 2 * loss

    class Mine(DiversityMixin, Doubled):
        pass

    trainer = Mine(
        model=Mlp(), args=arguments(tmp_path, max_steps=1), train_dataset=Rows(), diversity=DiversityConfig(**FIXED)
    )
    trainer.train()
    [record] = [r for r in trainer.state.log_history if "loss" in r]
    base = Doubled(model=Mlp(), args=arguments(tmp_path, max_steps=1), train_dataset=Rows())
    base.train()
    assert record["task_loss"] == pytest.approx(next(r["loss"] for r in base.state.log_history if "loss" in r))


# ---- layers that cannot be captured


@pytest.mark.parametrize(
    ("layers", "words"),
    [(["fc9"], "'fc9' matches no module of Mlp; nearest names: .*fc[12]"), (["*.x"], "matches no")],
)
def test_unknown_layer_fails_at_construction(tmp_path, layers, words):
    with pytest.raises(ValueError, match=words):
        DiversityTrainer(model=Mlp(), args=arguments(tmp_path), diversity=DiversityConfig(layers=layers))


def test_layer_that_never_runs(tmp_path):
    model = Mlp()
    model.spare = nn.Linear(2, 2)
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), diversity=DiversityConfig(layers=["spare"])
    )
    with pytest.raises(RuntimeError, match=r"layer 'spare' did not run.*nearest: "):
        trainer.train()


def test_frozen_trunk_is_an_error(tmp_path):
    model = Mlp()
    model.fc1.requires_grad_(False)
    model.fc2.requires_grad_(False)
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), diversity=DiversityConfig()
    )
    with pytest.raises(RuntimeError, match="the input of 'out' carry no gradient.*frozen"):
        trainer.train()


def test_reentrant_checkpointing_inside_a_block_is_an_error(tmp_path):
    args = arguments(
        tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}, max_steps=1
    )
    model = tiny_bert()
    model.bert.embeddings.requires_grad_(True)
    trainer = DiversityTrainer(
        model=model, args=args, train_dataset=Sentences(),
        diversity=DiversityConfig(layers=["bert.encoder.layer.0.intermediate"]),
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="reentrant gradient checkpointing"):
        trainer.train()


def test_non_reentrant_checkpointing_is_exact(tmp_path):
    finals = []
    for checkpointing in (False, True):
        model = tiny_bert()
        args = arguments(
            tmp_path, gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        config = DiversityConfig(layers=["bert.encoder.layer.0.intermediate"], gamma=1.0, diversity_weight=1.0)
        DiversityTrainer(model=model, args=args, train_dataset=Sentences(), diversity=config).train()
        finals.append(weights(model))
    assert_same(*finals, rtol=1e-5, atol=1e-6)


def test_torch_compile_makes_one_graph_and_the_same_weights(tmp_path):
    import torch._dynamo

    finals, evaluations = [], []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = Mlp()
        extra = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        trainer = DiversityTrainer(
            model=model, args=arguments(tmp_path, eval_strategy="steps", eval_steps=2, **extra), train_dataset=Rows(),
            eval_dataset=Rows(8), diversity=DiversityConfig(diversity_weight=0.5),
        )  # fmt: skip
        trainer.train()
        finals.append(weights(model))
        evaluations.append([r["eval_diversity"] for r in trainer.state.log_history if "eval_diversity" in r])
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-6)
    assert_same(*finals, rtol=1e-6, atol=1e-7)


# ---- bad input


def test_wrong_type_of_diversity(tmp_path):
    with pytest.raises(TypeError, match="DiversityConfig.from_dict"):
        DiversityTrainer(model=Mlp(), args=arguments(tmp_path), diversity={"measure": "direct"})


def test_one_unit(tmp_path):
    trainer = DiversityTrainer(
        model=Mlp(width=1), args=arguments(tmp_path), train_dataset=Rows(), diversity=DiversityConfig()
    )
    with pytest.raises(ValueError, match="'out' has 1 unit"):
        trainer.train()


def test_batch_of_one(tmp_path):
    trainer = DiversityTrainer(
        model=Mlp(), args=arguments(tmp_path, per_device_train_batch_size=1), train_dataset=Rows(),
        diversity=DiversityConfig(gamma=1.0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="'out' has 1 sample.*per_device_train_batch_size"):
        trainer.train()


def test_a_lonely_last_batch_fails_in_the_first_step(tmp_path):
    steps = Probe()
    make = lambda **kwargs: DiversityTrainer(  # noqa: E731
        model=Mlp(), args=arguments(tmp_path, max_steps=5, **kwargs), train_dataset=Rows(17), callbacks=[steps],
        diversity=DiversityConfig(gamma=1.0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="17 examples in batches of 4.*dataloader_drop_last=True"):
        make().train()
    assert steps.seen == []
    make(dataloader_drop_last=True).train()
    assert len(steps.seen) == 5


@pytest.mark.parametrize("measure", ["direct", "logdet"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_activations_stop_before_the_optimizer(tmp_path, value, measure):
    class Poisoned(Mlp):
        calls = 0

        def forward(self, x, labels=None):
            Poisoned.calls += 1
            hidden = self.act2(self.fc2(torch.tanh(self.fc1(x))))
            if Poisoned.calls == 3:
                hidden = hidden * value
            logits = self.out(hidden)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    Poisoned.calls = 0
    model = Poisoned()
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path, save_strategy="steps", save_steps=1), train_dataset=Rows(),
        diversity=DiversityConfig(measure=measure),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"layer 'out' is not finite at step 2.*NaN or inf"):
        trainer.train()
    assert all(p.isfinite().all() for p in model.parameters())
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert_same(saved, weights(model), rtol=0, atol=0)


def test_identical_units_without_a_scale(tmp_path):
    model = Mlp()
    nn.init.zeros_(model.fc2.weight)
    nn.init.zeros_(model.fc2.bias)
    trainer = DiversityTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), diversity=DiversityConfig()
    )
    with pytest.raises(ValueError, match="no two units differ.*gamma=1.0"):
        trainer.train()


# ---- checkpoints


def test_resume_continues_bit_for_bit_with_its_gamma(tmp_path):
    def make(folder, **kwargs):
        args = arguments(folder, save_strategy="steps", save_steps=3, max_steps=6, optim="adamw_torch", **kwargs)
        return DiversityTrainer(
            model=Mlp(),
            args=args,
            train_dataset=Rows(),
            diversity=DiversityConfig(diversity_weight=0.5, max_samples=3),
        )

    whole = make(tmp_path / "whole")
    whole.train()
    resumed = make(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)
    keep = ("loss", "task_loss", "diversity", "activation_norm", "gamma", "step")
    tail = lambda t: [{k: r[k] for k in keep} for r in t.state.log_history if "loss" in r and r["step"] > 3]  # noqa: E731
    assert tail(whole) == tail(resumed) and len(tail(whole)) == 3
    # and the state matters: without it the run differs
    (tmp_path / "whole" / "checkpoint-3" / "diversity_state.json").unlink()
    forgetful = make(tmp_path / "forgetful")
    forgetful.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert tail(whole) != tail(forgetful)


def test_saved_model_reloads_with_its_config(tmp_path):
    trainer = DiversityTrainer(
        model=tiny_bert(), args=arguments(tmp_path / "run"), train_dataset=Sentences(),
        diversity=DiversityConfig(measure="logdet", diversity_weight=1e-3),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final")
    assert_same(weights(loaded), weights(trainer.model), rtol=0, atol=0)
    assert DiversityConfig.from_json_file(tmp_path / "final" / "diversity_config.json") == trainer.diversity
    assert "gamma" in json.loads((tmp_path / "final" / "diversity_state.json").read_text())


def test_load_best_model_brings_its_gamma_back(tmp_path):
    trainer = DiversityTrainer(
        model=Mlp(), train_dataset=Rows(), eval_dataset=Rows(8, seed=9), diversity=DiversityConfig(),
        args=arguments(
            tmp_path, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, max_steps=4,
            load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
        ),
    )  # fmt: skip
    trainer.train()
    best = json.loads((tmp_path / f"checkpoint-{trainer.state.best_global_step}" / "diversity_state.json").read_text())
    assert trainer._regularizer.state_dict(trainer.state.global_step) == best


def tiny_transformers_vit():
    torch.manual_seed(0)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
            patch_size=8, num_channels=1, num_labels=4,
        )
    )  # fmt: skip


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_a_model_whose_tensors_are_renamed_on_save_resumes_and_keeps_the_best_whole(tmp_path, weight):
    """TRAPS 20: Trainer alone restores 8 of these 40 tensors from transformers 5.2x on."""

    def make(folder, **kwargs):
        return DiversityTrainer(
            model=tiny_transformers_vit(), train_dataset=Images(), eval_dataset=Images(8, seed=5),
            diversity=DiversityConfig(diversity_weight=weight),
            args=arguments(folder, save_strategy="steps", save_steps=2, learning_rate=0.5, **kwargs),
        )  # fmt: skip

    whole, resumed = make(tmp_path / "a"), make(tmp_path / "b")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert_same(weights(whole.model), weights(resumed.model), rtol=0, atol=0)
    best = make(
        tmp_path / "c", eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, max_steps=6,
        metric_for_best_model="eval_loss", greater_is_better=True,
    )  # fmt: skip
    best.train()
    kept = ViTForImageClassification.from_pretrained(best.state.best_model_checkpoint)
    assert best.state.best_global_step < 6
    assert_same(weights(best.model), weights(kept), rtol=0, atol=0)


def test_resuming_from_another_models_checkpoint_is_an_error(tmp_path):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2)
    trainer = DiversityTrainer(model=Mlp(), args=args, train_dataset=Rows(), diversity=DiversityConfig())
    trainer.train()
    other = Mlp()
    other.extra = nn.Linear(3, 3)
    trainer = DiversityTrainer(model=other, args=args, train_dataset=Rows(), diversity=DiversityConfig())
    with pytest.raises(RuntimeError, match=r"does not hold 2 of the model's 8 tensors \(extra.bias, extra.weight\)"):
        trainer.train(resume_from_checkpoint=True)


# ---- raw timm models


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
