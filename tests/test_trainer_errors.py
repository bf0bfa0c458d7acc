"""Layers that cannot be captured and input that cannot be used: clear errors, before harm is done."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import Mlp, Probe, Rows, Sentences, arguments, assert_same, tiny_bert, weights
from torch import nn

from hf_diversity import DiversityConfig, DiversityTrainer, first_step


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
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):  # 2.6 to 2.9 break the graph
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        assert not torch._dynamo.utils.counters["graph_break"]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-6)
    assert_same(*finals, rtol=1e-6, atol=1e-7)


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


def test_a_lonely_last_batch_that_is_never_reached_is_no_error(tmp_path):
    DiversityTrainer(
        model=Mlp(),
        args=arguments(tmp_path, max_steps=2),
        train_dataset=Rows(17),
        diversity=DiversityConfig(gamma=1.0),
    ).train()


@pytest.mark.parametrize(("width", "negligible"), [(4, False), (48, True)])
def test_a_negligible_det_is_told_in_the_first_step(tmp_path, monkeypatch, width, negligible):
    config = DiversityConfig(measure="det", gamma=1.0, jitter=1e-4)
    trainer = DiversityTrainer(
        Mlp(width=width), arguments(tmp_path, max_steps=2), train_dataset=Rows(16), diversity=config
    )
    said = []
    monkeypatch.setattr(first_step.logger, "warning_once", said.append)
    trainer.train()
    assert len([line for line in said if "det(S)" in line and 'measure="logdet"' in line]) == negligible
