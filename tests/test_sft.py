"""The mixin over TRL's SFTTrainer: padded, padding-free and packed batches, and a head that is never called."""

import pytest
import torch
from packaging.version import Version
from tiny import assert_same, weights
from tiny_text import texts, tiny_llama, tokenizer

from hf_diversity import DiversityConfig, DiversityMixin, functional
from hf_diversity.callbacks import GeneralizationGapCallback

trl = pytest.importorskip("trl")


class DiversitySFTTrainer(DiversityMixin, trl.SFTTrainer):
    pass


def train(path, cls=DiversitySFTTrainer, data=None, diversity=None, **kwargs):
    """One SGD step at learning rate 1 over the whole data set, unless told otherwise."""
    data = texts("text") if data is None else data
    defaults = {
        "output_dir": str(path), "per_device_train_batch_size": 8, "max_steps": 1, "logging_steps": 1,
        "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "bf16": False,
        "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        "gradient_checkpointing": False, "max_length": None,
    }  # fmt: skip
    trainer = cls(
        model=tiny_llama(), args=trl.SFTConfig(**{**defaults, **kwargs}), train_dataset=data, eval_dataset=data,
        processing_class=tokenizer(), **({} if diversity is None else {"diversity": diversity}),
    )  # fmt: skip
    trainer.train()
    return trainer


def hidden_rows(model, data):
    """The last hidden state of each text by itself, without any padding."""
    words = tokenizer()
    rows = []
    for text in data["text"]:
        ids = torch.tensor([words(text)["input_ids"] + [words.eos_token_id]])
        rows.append(model.model(input_ids=ids).last_hidden_state[0])
    return torch.cat(rows)


def test_weights_zero_is_sft_trainer_bit_for_bit(tmp_path):
    parent = train(tmp_path, trl.SFTTrainer, max_steps=3, per_device_train_batch_size=4)
    mine = train(tmp_path, max_steps=3, per_device_train_batch_size=4, diversity=DiversityConfig(diversity_weight=0.0))
    assert_same(weights(parent.model), weights(mine.model), rtol=0, atol=0)
    logs = [[r["loss"] for r in t.state.log_history if "loss" in r] for t in (parent, mine)]
    assert logs[0] == logs[1] and len(logs[0]) == 3


@pytest.mark.parametrize("kind", ["padded", "padding_free", "packing", "checkpointing", "ordinary_head", "norm"])
def test_the_step_is_the_parents_plus_the_gradient_over_real_tokens(tmp_path, kind):
    settings = {
        "padding_free": {"padding_free": True},
        "packing": {"packing": True, "packing_strategy": "bfd", "max_length": 64},
        "checkpointing": {"gradient_checkpointing": True},
        "ordinary_head": {"label_smoothing_factor": 0.1},
    }.get(kind, {})
    layers = ["model.norm"] if kind == "norm" else None
    config = DiversityConfig(gamma=0.7, diversity_weight=5.0, activation_weight=0.01, layers=layers)
    data = texts("text")
    parent = train(tmp_path, trl.SFTTrainer, **settings)
    mine = train(tmp_path, diversity=config, **settings)
    reference = tiny_llama()
    rows = hidden_rows(reference, data)
    direct, norm = functional.direct(rows, gamma=0.7), rows.pow(2).sum(1).mean()
    (5.0 * direct + 0.01 * norm).backward()
    for name, parameter in reference.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        actual = parent.model.get_parameter(name) - mine.model.get_parameter(name)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert reference.model.layers[0].mlp.up_proj.weight.grad.abs().max() > 1e-3
    [record] = [r for r in mine.state.log_history if "loss" in r]
    [base] = [r for r in parent.state.log_history if "loss" in r]
    assert record["task_loss"] == pytest.approx(base["loss"], rel=1e-6)
    assert record["diversity"] == pytest.approx(direct.item(), rel=1e-5)
    assert record["activation_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert record["mean_token_accuracy"] == base["mean_token_accuracy"]


@pytest.mark.parametrize("padding_free", [False, True])
def test_evaluation_is_exact_over_real_tokens(tmp_path, padding_free):
    trainer = train(
        tmp_path, diversity=DiversityConfig(gamma=0.7), padding_free=padding_free, per_device_eval_batch_size=3
    )
    metrics = trainer.evaluate()
    with torch.no_grad():
        rows = hidden_rows(trainer.model, texts("text"))
    assert metrics["eval_diversity"] == pytest.approx(functional.direct(rows, gamma=0.7).item(), rel=1e-5)
    assert metrics["eval_activation_norm"] == pytest.approx(rows.pow(2).sum(1).mean().item(), rel=1e-5)
    plain = train(tmp_path, trl.SFTTrainer, padding_free=padding_free, per_device_eval_batch_size=3)
    plain.model.load_state_dict(trainer.model.state_dict())
    assert metrics["eval_loss"] == plain.evaluate()["eval_loss"]


def test_accumulation_leaves_the_strength_alone(tmp_path):
    """The sum over micro-batches of their gradients, each divided by their number, once the task loss is taken off."""
    config = DiversityConfig(gamma=0.7, diversity_weight=5.0)
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    steps = {}
    for name, settings in {"whole": {}, "split": split}.items():
        parent, mine = train(tmp_path, trl.SFTTrainer, **settings), train(tmp_path, diversity=config, **settings)
        steps[name] = torch.cat(
            [(parent.model.get_parameter(n) - p).detach().flatten() for n, p in mine.model.named_parameters()]
        )
    # The micro-batches hold unequal numbers of tokens, and each counts by its own
    torch.testing.assert_close(steps["split"], steps["whole"], rtol=1e-4, atol=2e-6)
    assert steps["whole"].abs().max() > 1e-3


def test_tokens_are_counted_once(tmp_path):
    """Gamma of the first step is set by forward passes that SFTTrainer must not count."""
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    records = []
    for cls, diversity in ((trl.SFTTrainer, None), (DiversitySFTTrainer, DiversityConfig())):
        trainer = train(tmp_path, cls, diversity=diversity, **split)
        records.append(next(r for r in trainer.state.log_history if "num_tokens" in r))
    assert records[0]["num_tokens"] == records[1]["num_tokens"]


class WithGap(DiversitySFTTrainer):
    def __init__(self, **kwargs):
        super().__init__(callbacks=[GeneralizationGapCallback(None)], **kwargs)


@pytest.mark.skipif(
    Version(trl.__version__) < Version("1.0"),
    reason="TRL's evaluate takes no data that it has not prepared, in old versions",
)
def test_the_gap_keeps_the_token_accuracy_of_the_evaluation_apart(tmp_path):
    """SFTTrainer gathers it in its own state until the next log, whatever examples it comes from."""
    held_out, runs = texts("text", seed=1), {}
    for cls in (DiversitySFTTrainer, WithGap):
        runs[cls] = train(tmp_path, cls, max_steps=2, eval_strategy="steps", eval_steps=1)
        runs[cls].evaluate(held_out)
        runs[cls].evaluate()
    told = [
        [{k: v for k, v in r.items() if "runtime" not in k and "per_second" not in k}
         for r in run.state.log_history if "gap_loss" not in r] for run in runs.values()
    ]  # fmt: skip
    assert told[0] == told[1] and told[0][-2]["eval_mean_token_accuracy"] != told[0][-1]["eval_mean_token_accuracy"]
    gaps = [r for r in runs[WithGap].state.log_history if "gap_loss" in r]
    assert len(gaps) == 4 and all(set(r) == {"gap_loss", "epoch", "step"} for r in gaps)
    assert gaps[2]["gap_loss"] == pytest.approx(told[0][-2]["eval_loss"] - told[0][-1]["eval_loss"])
