"""The words of a probe: each statement comes where the numbers ask for it, and only there."""

import dataclasses
import re

import pytest
import torch

from hf_diversity import DiversityConfig
from hf_diversity.diagnostics import DiagnosticsMeter
from hf_diversity.probe import findings
from hf_diversity.probe.measuring import ModelReport


def layer(rows):
    meter = DiagnosticsMeter()
    meter.update({"layer": rows})
    return meter.compute()["layer"]


def test_words_follow_the_numbers():
    generator = torch.Generator().manual_seed(0)
    independent = torch.randn(800, 16, generator=generator)
    one_direction = independent[:, :1] * torch.linspace(0.5, 2, 16)
    copied = torch.cat([independent[:, :14], independent[:, :2] * 3], 1)
    words = findings.redundancy_word
    assert words(layer(independent)) == "diverse"
    assert words(layer(one_direction)) == "highly redundant"
    assert findings.near_copies(layer(copied).correlation) == 4 and words(layer(copied)) == "partly redundant"
    assert words(layer(torch.ones(800, 16))) == "constant"
    assert findings.near_copies(layer(torch.ones(800, 16)).correlation) == 0


def test_few_samples_and_dead_units_are_said():
    rows = torch.rand(30, 16)
    rows[:, :4] = 0.0
    said = findings._of_layers({"fc": {"train": layer(rows), "test": layer(rows * 2)}})
    texts = " ".join(f"{finding.about}: {finding.text}" for finding in said)
    assert "4 of 16 units (25%) are dead" in texts and "Few samples: fc gave fewer than 5 samples" in texts
    assert re.search(r"mean squared norm .* \(\+300 %\)", texts) and "effective rank" in texts
    assert next(finding for finding in said if "one value" in finding.text).level == "warning"
    assert "never above 0" not in texts, "they are dead, and said to be"


def test_more_examples_are_asked_for_only_where_there_are_more():
    few, many = layer(torch.randn(30, 16)), layer(torch.randn(100, 16))

    def text(train, test, left):
        [found] = [f for f in findings._of_layers({"fc": {"train": train, "test": test}}, left) if "Few" in f.about]
        return found.text

    assert text(few, few, ("test",)).endswith("raise --max-examples to see.")
    assert text(few, few, ()).endswith("there are no more examples.")
    assert text(many, few, ("train",)).endswith("there are no more examples."), "the training ones are enough"


def test_a_run_with_the_regulariser_is_not_told_to_train_one():
    plain = report("a", redundant_layers(1))
    assert findings.advice([plain])[0].startswith("Train a twin")
    norm_alone = dataclasses.replace(plain, training=DiversityConfig(measure="none", activation_weight=0.1))
    assert findings.advice([norm_alone])[0].startswith("Train a twin")
    regularised = dataclasses.replace(plain, name="b", training=DiversityConfig())
    for models in ([regularised], [plain, regularised]):
        [said] = findings.advice(models)
        assert said.startswith("b: trained with the regulariser. Compare") and "twins with both weights 0" in said


def test_units_that_a_relu_would_kill_are_said():
    rows = torch.randn(400, 8)
    rows[:, 0] = -rows[:, 0].abs() - 0.1
    said = findings._of_layers({"fc": {"train": layer(rows), "test": layer(rows)}})
    assert any("1 of 8 units (12%) are never above 0" in finding.text for finding in said)


def test_many_diverse_layers_are_named_together_and_a_redundant_one_by_itself():
    rows = torch.randn(400, 8)
    many = {f"block.{i}": {"train": layer(rows), "test": layer(rows)} for i in range(8)}
    copied = layer(rows[:, :1].expand(400, 8) * 1.0)
    said = findings._of_layers({**many, "copies": {"train": copied, "test": copied}})
    assert [finding.about for finding in said] == ["copies", "8 of 9 layers are diverse"]
    assert "block.5 and 2 more" in said[1].text and (said[0].level, said[1].level) == ("warning", "good")


def redundant_layers(count, dead=0):
    """Layers of which each is more redundant than the one before."""
    made = {}
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        rows = torch.randn(400, 8, generator=generator)
        rows += (2 + i) * torch.randn(400, 1, generator=generator)
        rows[:, :dead] = 0.0
        made[f"block.{i}"] = {"train": layer(rows), "test": layer(rows)}
    return made


def test_many_redundant_layers_are_one_finding_the_most_redundant_first():
    said = findings._of_layers(redundant_layers(7, dead=1))
    abouts = [finding.about for finding in said]
    assert abouts[0] == "7 of 7 layers are highly redundant" and said[0].level == "warning"
    assert said[0].text.startswith(
        "block.6, block.5, block.4, block.3, block.2, block.1 and 1 more: the effective rank"
    )
    together = next(finding for finding in said if finding.about == "7 of 7 layers have dead units")
    assert together.level == "warning" and "The first: 1 of 8 units (12%) are dead" in together.text
    assert len(said) == 2


def test_three_redundant_layers_are_told_one_by_one():
    said = findings._of_layers(redundant_layers(3))
    assert [finding.about for finding in said] == ["block.0", "block.1", "block.2"]


def test_constant_layers_are_no_redundant_ones():
    constant = layer(torch.ones(400, 8))
    many = {f"c{i}": {"train": constant, "test": constant} for i in range(5)}
    said = findings._of_layers(many)
    assert said[0].about == "5 of 5 layers are constant" and "say nothing" in said[0].text
    [alone] = [f for f in findings._of_layers({"c": many["c0"]}) if "says nothing" in f.text]
    assert alone.about == "c"


def report(name, layers):
    where = dict.fromkeys(layers, "output")
    return ModelReport(name, name, "Mlp", 1, layers, where, {}, {}, False, "not asked for", {}, None, ())


def test_many_layers_compared_are_one_finding():
    rows = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    independent, copied = layer(rows), layer(torch.cat([rows[:, :4], rows[:, :4]], 1))
    second = {**redundant_layers(4), "block.4": {"train": copied, "test": copied}}
    first = {**second, "block.4": {"train": independent, "test": independent}}
    said = findings.findings([report("a", first), report("b", second)])
    [compared] = [finding for finding in said if finding.about == "5 layers"]
    assert compared.model == "b" and "1 of them are more redundant than in a, 0 less, and of 4" in compared.text
    assert "test examples: block.4 (4.0 against 8.0)" in compared.text
    few = [{k: layers[k] for k in ("block.0", "block.4")} for layers in (first, second)]
    said = findings.findings([report("a", few[0]), report("b", few[1])])
    assert [f.about for f in said if f.model == "b" and "against" in f.text] == ["block.0", "block.4"]
    assert "By all three, b is the more redundant." in next(f.text for f in said if f.about == "block.4")


@pytest.mark.parametrize("word", findings.THRESHOLDS)
def test_every_threshold_is_stated_with_its_number(word):
    assert word == "diverse" or re.search(r"\d|one value", findings.THRESHOLDS[word])
