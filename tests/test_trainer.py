"""The trainer against a hand-written loop, against Trainer, and in its promises."""

import logging
import math

import pytest
import torch
from tiny import Images, Mlp, Probe, Rows, Sentences, arguments, assert_same, tiny_bert, tiny_timm, weights
from torch import nn
from transformers import (
    Trainer,
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


def test_an_evaluation_inside_compute_metrics_does_not_disturb_the_outer_one(tmp_path):
    data, other = Rows(8), Rows(8, seed=5)
    nested = []

    def metrics(prediction):
        if not nested:
            nested.append(None)
            trainer.predict(other)
            nested[0] = trainer.evaluate(other, metric_key_prefix="inner")["inner_diversity"]
        return {}

    config = DiversityConfig(gamma=0.7)
    trainer = DiversityTrainer(
        model=Mlp(), args=arguments(tmp_path), eval_dataset=data, compute_metrics=metrics, diversity=config
    )
    outer = trainer.evaluate()["eval_diversity"]
    plain = DiversityTrainer(model=Mlp(), args=arguments(tmp_path), diversity=config)
    assert outer == plain.evaluate(data)["eval_diversity"]
    assert nested[0] == plain.evaluate(other)["eval_diversity"] != outer


def test_saving_does_not_change_what_is_measured(tmp_path):
    trainer = DiversityTrainer(
        model=Mlp(), args=arguments(tmp_path), train_dataset=Rows(), eval_dataset=Rows(8), diversity=DiversityConfig()
    )
    trainer.train()
    before = trainer.evaluate()["eval_diversity"]
    trainer.save_model(str(tmp_path / "x"))
    assert trainer.evaluate()["eval_diversity"] == before


def test_a_smaller_batch_after_running_out_of_memory_starts_from_a_clean_state(tmp_path):
    class Big(Mlp):
        calls = 0

        def forward(self, x, labels=None):
            Big.calls += 1
            if len(x) > 4 and Big.calls == 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x, labels)

    Big.calls = 0
    trainer = DiversityTrainer(
        model=Big(), train_dataset=Rows(32), diversity=DiversityConfig(**FIXED),
        args=arguments(tmp_path, auto_find_batch_size=True, per_device_train_batch_size=8, logging_steps=4),
    )  # fmt: skip
    trainer.train()
    [record] = [r for r in trainer.state.log_history if "loss" in r]
    total = record["task_loss"] + 0.5 * record["diversity"] + 0.01 * record["activation_norm"]
    assert Big.calls > 5 and record["loss"] == pytest.approx(total, rel=1e-5)


def test_mixin_in_the_wrong_place_is_refused():
    with pytest.raises(TypeError, match=r"type class Wrong\(DiversityMixin, ...\)"):

        class Wrong(Trainer, DiversityMixin):
            pass


def test_a_changed_config_is_validated_and_used_by_the_next_training(tmp_path):
    config = DiversityConfig(gamma=1.0)
    trainer = DiversityTrainer(
        model=Mlp(), args=arguments(tmp_path, max_steps=1), train_dataset=Rows(), diversity=config
    )
    trainer.train()
    config.layers = ["fc1"]
    trainer.train()
    assert [t.name for t in trainer._capture.targets] == ["fc1"]
    config.diversity_weight = -5.0
    with pytest.raises(ValueError, match="diversity_weight is -5.0"):
        trainer.train()


def test_units_and_samples_are_printed_once_a_layer(tmp_path, caplog):
    caplog.set_level("WARNING")
    logging.getLogger("transformers").propagate = True  # as caplog needs it
    try:
        DiversityTrainer(
            model=tiny_bert(), args=arguments(tmp_path), train_dataset=Sentences(),
            diversity=DiversityConfig(layers=["bert.encoder.layer.0", "classifier"]),
        ).train()  # fmt: skip
    finally:
        logging.getLogger("transformers").propagate = False
    lines = [m for m in caplog.messages if "units" in m]
    assert len(lines) == 2 and lines[1] == "layer 'classifier': 3 units, 4 samples"
    assert lines[0].startswith("layer 'bert.encoder.layer.0': 16 units, ")
