"""`register_measure`: a measure of a user's own goes wherever the library's go, or is refused with a cure."""

import json

import numpy as np
import own_measures
import pytest
import torch
from common.arguments import parse_arguments
from image_classification import TYPES
from oracles import finite_difference
from tiny import Mlp, Rows, Sentences, arguments, assert_same, tiny_bert, weights
from torch.utils.data import DataLoader

from hf_diversity import DiversityConfig, DiversityTrainer, load_run, register_measure, registry
from hf_diversity.cards import Card, render
from hf_diversity.evaluation import DiversityMeter, measure_layers
from hf_diversity.measures import make_measure
from hf_diversity.regularizer import DiversityRegularizer


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    # Snippets of pages that ran in this process have registered theirs
    monkeypatch.setattr(registry, "_registered", {name: registry._registered[name] for name in ("gram", "laplacian")})


def gram(rows):
    """Mean squared cosine of two units, by loops."""
    units = rows.shape[1]
    return np.mean(
        [(rows[:, n] @ rows[:, m]) ** 2 / (rows[:, n] @ rows[:, n]) / (rows[:, m] @ rows[:, m])
         for n in range(units) for m in range(units) if n != m]
    )  # fmt: skip


def laplacian(rows, gamma):
    units = rows.shape[1]
    return np.mean([np.exp(-np.sqrt(2 * gamma) * abs(row[n] - row[m]))
                    for row in rows for n in range(units) for m in range(units)])  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "oracle"), [({"measure": "gram"}, gram), ({"measure": "laplacian", "gamma": 0.7}, laplacian)]
)
def test_value_and_gradient_are_those_of_the_definition(fields, oracle):
    config = DiversityConfig(diversity_weight=0.5, activation_weight=0.1, **fields)
    rows = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    output = DiversityRegularizer(config)({"a": rows}, 0)
    output.penalty.backward()
    rest = [config.gamma] if "gamma" in fields else []

    def penalty(values):
        return 0.5 * oracle(values, *rest) + 0.1 * (values**2).sum() / len(values)

    exact = rows.detach().numpy()
    assert output.penalty.item() == pytest.approx(penalty(exact), rel=1e-12)
    assert output.layers["a"].gamma == (0.7 if rest else None)
    np.testing.assert_allclose(rows.grad, finite_difference(penalty, exact), atol=1e-8)
    meter = DiversityMeter(make_measure(config), lambda name: 0.7)
    for part in rows.detach().float().split(3):
        meter.update({"a": part})
    assert meter.compute()["a"].diversity == pytest.approx(oracle(exact, *rest), rel=1e-5)
    half = DiversityRegularizer(config)({"a": rows.detach().bfloat16()}, 0)  # in float32
    assert half.penalty.item() == pytest.approx(output.penalty.item(), rel=1e-2)
    assert half.penalty.dtype == torch.float32


def test_accumulation_is_exact_where_the_value_is_linear(tmp_path):
    finals = []
    for batch, steps in ((16, 1), (4, 4)):
        trainer = DiversityTrainer(
            model=Mlp(),
            args=arguments(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=steps),
            train_dataset=Rows(64),
            diversity=DiversityConfig(measure="laplacian", diversity_weight=1.0),
        )
        trainer.train()
        finals.append(weights(trainer.model))
        records = [record for record in trainer.state.log_history if "task_loss" in record]
        assert all("gamma" in record for record in records) and records[-1]["diversity"] < records[0]["diversity"]
    assert_same(*finals, rtol=1e-5, atol=1e-6)


def test_a_run_is_saved_evaluated_told_and_loaded(tmp_path):
    config = DiversityConfig(measure="gram", diversity_weight=0.25)
    trainer = DiversityTrainer(
        model=tiny_bert(), args=arguments(tmp_path, save_strategy="steps", save_steps=2),
        train_dataset=Sentences(8), eval_dataset=Sentences(6, seed=1), diversity=config,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    [layer] = measure_layers(trainer.model, DataLoader(Sentences(6, seed=1), batch_size=6), config).values()
    assert metrics["eval_diversity"] == pytest.approx(layer.diversity, rel=1e-5) and layer.diversity > 0.01
    assert layer.mean_similarity > 0 and not any("gamma" in name for name in metrics)
    trainer.save_model()
    trainer.create_model_card()
    assert load_run(tmp_path).diversity == config
    assert json.loads((tmp_path / "diversity_config.json").read_text())["measure"] == "gram"
    page = (tmp_path / "README.md").read_text()
    assert "J: Mean squared cosine of two units, over all pairs." in page and "second paragraph" not in page
    assert "@misc{gram2026}" in page and "laakom2023wldreg" in page and "| `gamma`" not in page
    resumed = DiversityTrainer(
        model=tiny_bert(), args=arguments(tmp_path), train_dataset=Sentences(8), diversity=config
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(weights(resumed.model), weights(trainer.model), rtol=0, atol=0)

    del registry._registered["gram"]
    with pytest.raises(
        ValueError, match=r"diversity_config.json: measure is 'gram': unknown.*@register_measure\('gra"
    ):
        load_run(tmp_path)


def test_a_card_without_docstring_or_source():
    page = render(Card("m", DiversityConfig(measure="laplacian", gamma=2.0)))
    assert "the author of this model has registered" in page and page.count("@inproceedings") == 1
    assert "| `gamma` | `2.0` |" in page


def test_the_configuration_knows_what_has_a_gamma():
    with pytest.raises(ValueError, match=r"gamma is 2.0 and measure is 'gram', which has no gamma"):
        DiversityConfig(measure="gram", gamma=2.0)
    with pytest.raises(ValueError, match="scale_invariant"):
        DiversityConfig(measure="gram", scale_invariant=True)
    config = DiversityConfig(measure="laplacian", scale_invariant=True)
    assert DiversityConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"'none', 'gram', 'laplacian'\. A measure of your own"):
        DiversityConfig(measure="mine")


def test_the_command_line_keeps_to_the_librarys(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(TYPES, ["--output_dir", "x", "--measure", "gram"])
    assert "invalid choice: 'gram'" in capsys.readouterr().err


def good():
    class Good:
        def statistic(self, activations):
            return activations.mean()

        def value(self, statistic):
            return statistic

    return Good


def test_a_cell_that_is_run_twice_and_a_name_that_is_taken():
    register_measure("mine")(good())
    again = register_measure("mine")(good())
    assert registry.registered_measure("mine") is again
    with pytest.raises(ValueError, match=r"'mine' is already .*Good: type another name"):
        register_measure("mine")(own_measures.Gram)
    with pytest.raises(ValueError, match="'direct' is one of the library's"):
        register_measure("direct")
    with pytest.raises(TypeError, match=r'type @register_measure\("name"\)'):
        register_measure(good())


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"statistic": None}, "has no method statistic: a measure is a class with"),
        ({"value": None}, "has no method value"),
        ({"__init__": lambda self, power: None}, "cannot be made without arguments"),
        ({"statistic": lambda self: None}, "take other arguments"),
        ({"value": lambda self, statistic, units: None}, "take other arguments"),
    ],
)
def test_a_class_of_another_form_is_refused(members, said):
    with pytest.raises(TypeError, match=said):
        register_measure("bad")(type("Bad", (good(),), members))
    with pytest.raises(TypeError, match="is no class"):
        register_measure("bad")(good()())
    assert "bad" not in registry.measure_names()


@pytest.mark.parametrize(
    ("statistic", "error", "said"),
    [
        (lambda self, a: a.sum(0), ValueError, "of 4 samples is not the mean of theirs"),
        (lambda self, a: (a - a.mean(0)).T @ (a - a.mean(0)) / len(a), ValueError, "no centring by the batch"),
        (lambda self, a: a, ValueError, "is not the mean"),
        (lambda self, a: a.detach().mean(), ValueError, "has no gradient, so nothing would be trained"),
        (lambda self, a: a.mean().item(), TypeError, "is a float: it must be a float tensor"),
        (lambda self, a: a.mean(0), TypeError, r"the value of measure 'wrong' has shape \(3,\): J must be a 0-dim"),
    ],
)
def test_a_statistic_that_cannot_be_averaged_is_refused(statistic, error, said):
    register_measure("wrong")(type("Wrong", (good(),), {"statistic": statistic}))
    rows = torch.randn(5, 3, requires_grad=True)
    with pytest.raises(error, match=said) as raised:
        DiversityRegularizer(DiversityConfig(measure="wrong"))({"a": rows}, 0)
    assert raised.type is error  # no NaN, which could be skipped


@pytest.mark.parametrize("value", [lambda self, s: s.mean().detach(), lambda self, s: torch.tensor(s.mean().item())])
def test_a_value_without_gradient_is_refused(value):
    register_measure("constant")(type("Constant", (good(),), {"statistic": lambda self, a: a.mean(0), "value": value}))
    regularizer = DiversityRegularizer(DiversityConfig(measure="constant"))
    with pytest.raises(ValueError, match="the value of measure 'constant' has no gradient"):
        regularizer({"a": torch.randn(5, 3, requires_grad=True)}, 0)
    assert regularizer({"a": torch.randn(5, 3)}, 0).layers["a"].diversity is not None, "an evaluation needs none"
