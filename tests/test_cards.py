"""Model cards: what they say, metadata that the client reads back, and texts that cannot break out."""

import json
import math
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from common.arguments import RunArguments
from common.report import make_card
from common.training import find_checkpoint
from datasets import Dataset as HubDataset
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tiny import Sentences, arguments, tiny_bert
from transformers import Trainer, TrainingArguments

from hf_diversity import DiversityConfig, DiversityMixin, DiversityTrainer
from hf_diversity.callbacks import GeneralizationGapCallback
from hf_diversity.cards import Card, Dataset, Twin, card_mixin, render, save
from hf_diversity.cards.card import metadata
from hf_diversity.cards.log_table import training_log_rows

CARDS = Path(__file__).parent.parent / "model_cards"
HOSTILE = [
    "a|b",
    "`x` ``y``",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "{{ 7 * 7 }}{% raw %}",
    "line\n# heading\n- item",
    "![i](http://evil.example/x.png)",
    "[t](javascript:alert(1))",
    "http://evil.example www.evil.example",
    "---\nlicense: mit\n---",
    "key: [unclosed",
    "\"quoted\" 'text' \\ $x$ &lt; #1",
    "```\n</details>",
    "- item",
    "1. item",
    "--- ---",
]
METRICS = {"train": {"loss": 0.1, "accuracy": 1.0}, "test": {"loss": 0.25, "accuracy": 0.9}}


def full_card(text="plain", **values):
    return Card(**{
        "name": text, "diversity": DiversityConfig(gamma=2.0, diversity_weight=3.0, layers=[text]),
        "task": "image-classification", "library": "timm", "start": text, "parameters": 1234,
        "datasets": [Dataset(text, "user/data"), Dataset(text)], "layers": [text], "metrics": METRICS,
        "gaps": {"test": {"loss": 0.15, "accuracy": 0.1}}, "twins": [Twin(text, METRICS)], "notes": [text],
        "similarity": [(text, "after training", 0.5, 1.0, 2.0)], "log": [{"step": 10.0, "loss": 0.5}],
        "figures": ["gap.png"], "usage": "import torch", "command": f"python x.py --name {text!r}",
        "settings": {"dataset": text}, "environment": [text], **values,
    })  # fmt: skip


def parsed(text):
    """Metadata and HTML, as a renderer of GitHub's Markdown gives it with raw HTML allowed."""
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)


def test_what_a_card_says():
    head, page = parsed(render(full_card("my model")))
    assert head["library_name"] == "timm" and head["pipeline_tag"] == "image-classification"
    assert head["tags"] == ["hf_diversity", "within-layer-diversity"] and head["datasets"] == ["user/data"]
    [index] = head["model-index"]
    assert index["results"][0]["metrics"][1] == {"type": "accuracy", "value": 0.9, "name": "accuracy"}
    assert index["results"][0]["dataset"] == {"name": "my model", "type": "user/data", "split": "test"}
    assert "3 times the redundancy <code>direct</code> of the units" in page
    rows = re.findall(r"<tr>\s*(.*?)\s*</tr>", page, re.S)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    assert ["accuracy", "1.0000", "0.9000", "0.1000"] in cells, "metric, train, test, gap"
    assert ["my model", "0.1000", "1.0000", "0.2500", "0.9000", "–", "–"] in cells, (
        "the twin, whose gaps are not known"
    )
    assert ["this one", "0.1000", "1.0000", "0.2500", "0.9000", "0.1500", "0.1000"] in cells
    named = [row[:2] for row in cells]
    assert ["<code>gamma</code>", "<code>2.0</code>"] in named
    assert ["<code>measure</code>", "<code>direct</code>"] in named
    for part in ("import torch", "--name", "laakom2023wldreg", "1,234 parameters", 'src="gap.png"'):
        assert part in page
    assert "](" not in page and 'href=""' not in page


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out(text):
    """The same elements as with a harmless text, one table cell for one, and metadata that hold the text itself."""
    card = full_card(text)
    (head, page), (_, harmless) = parsed(render(card)), parsed(render(full_card("plain")))
    tags = r"</?[a-z]+[0-9]?(?= |>)"
    outside = [re.sub(r"<pre>.*?</pre>", "", html, flags=re.S) for html in (page, harmless)]
    assert re.findall(tags, outside[0]) == re.findall(tags, outside[1])
    assert page.count("<pre>") == harmless.count("<pre>") == 4
    assert head["model-index"][0]["name"] == " ".join(text.split()) and "license" not in head
    assert "49" not in outside[0] and "evil.example" not in "".join(re.findall(r'(?:href|src)="[^"]*"', page))
    assert ModelCard(render(card)).data.to_dict() == metadata(card).to_dict()


def test_a_baseline_and_a_model_without_data_leave_no_empty_part():
    _, page = parsed(render(Card("m", DiversityConfig(diversity_weight=0.0))))
    assert "this is a baseline" in page and "<table>" not in page and "None" not in page.replace("None:", "")
    assert "<a " not in page and "Results" not in page


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"measure": "none", "activation_weight": 0.5}, "plus 0.5 times the mean squared norm of the activations of"),
        ({"measure": "srip", "diversity_weight": 0.25}, "plus 0.25 times the redundancy srip of the units of"),
        ({"activation_weight": 0.5}, "direct of the units and 0.5 times the mean squared norm of the activations of"),
    ],
)
def test_the_regulariser_in_words(config, expected):
    _, page = parsed(render(Card("m", DiversityConfig(**config))))
    assert expected in " ".join(re.sub("<.*?>", "", page).split())
    assert ("bansal2018" in page) == (config.get("measure") == "srip")


def test_values_that_yaml_has_no_form_of_are_left_out():
    card = full_card(metrics={"test": {"loss": math.nan, "accuracy": 0.5}}, gaps={}, twins=[])
    [result] = metadata(card).eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.5)


# ---- the recipes'


@pytest.mark.parametrize("name", sorted(path.stem for path in CARDS.glob("*.json")))
def test_the_cards_in_model_cards_are_what_would_be_written_today(name):
    made = json.loads((CARDS / f"{name}.json").read_text(encoding="utf-8"))
    assert render(make_card(made["results"], made["usage"])) == (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert made["results"]["twins"] or "baseline" in name


def test_there_are_cards_to_compare():
    assert {path.stem for path in CARDS.glob("*.json")} == {path.stem for path in CARDS.glob("demo_*.md")} != set()


def test_a_twin_must_be_a_finished_run_with_the_same_seed(tmp_path):
    settings = TrainingArguments(str(tmp_path / "out"), seed=1)
    with pytest.raises(ValueError, match="holds no results.json"):
        find_checkpoint(settings, RunArguments(twin=str(tmp_path)))
    results = {"name": "baseline", "seeds": {"seed": 0}, "metrics": METRICS, "gaps": {}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="has seed 0 and this run 1: type --seed 0"):
        find_checkpoint(settings, RunArguments(twin=str(tmp_path)))


# ---- the trainer's


def trained(folder, **settings):
    trainer = DiversityTrainer(
        model=tiny_bert(), args=arguments(folder, max_steps=4, eval_strategy="steps", eval_steps=2, logging_steps=2),
        train_dataset=Sentences(16), eval_dataset=Sentences(8),
        diversity=DiversityConfig(**{"diversity_weight": 0.5, **settings}),
        callbacks=[GeneralizationGapCallback(train_samples=8)],
    )  # fmt: skip
    trainer.train()
    return trainer


def test_the_card_of_a_trainer(tmp_path):
    trainer = trained(tmp_path)
    trainer.save_model()
    trainer.create_model_card(tags="mine", dataset="some data", dataset_tags="user/data", tasks="text-classification")
    card = ModelCard.load(tmp_path / "README.md")
    assert set(card.data.tags) == {"hf_diversity", "within-layer-diversity", "generated_from_trainer", "mine"}
    assert card.data.pipeline_tag == "text-classification" and card.data.datasets == ["user/data"]
    values = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert set(values) == {"loss"} and type(values["loss"]) is float
    last = [r for r in trainer.state.log_history if "eval_loss" in r][-1]
    assert values["loss"] == last["eval_loss"]
    text = (tmp_path / "README.md").read_text()
    gap = next(r["gap_loss"] for r in reversed(trainer.state.log_history) if "gap_loss" in r)
    assert f"| loss | {last['eval_loss']:.4f} | {gap:.4f} |" in text
    [row] = [line for line in text.splitlines() if line.startswith("| 1 | 4 |")]
    assert f"| {last['eval_diversity']:.4g} |" in row and row.endswith(f"| {gap:.4g} |"), "one row for both records"
    assert sum(line.startswith("| 0.5 | 2 |") for line in text.splitlines()) == 1
    assert "| epoch | step | training loss | loss |" in text
    assert "of the input of 'classifier'." in text
    assert str(tmp_path) not in text and "Seed 3" in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    script = f"import sys\nsys.modules['hf_diversity'] = None\n{code}\nprint(type(model).__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "BertForSequenceClassification", done.stderr[-2000:]


@pytest.mark.parametrize("sets", [{}, {"dataset": None, "dataset_tags": [None]}, {"dataset_tags": "imagefolder"}])
def test_data_without_a_name_are_not_told(tmp_path, sets):
    """As Trainer gives those of Dataset.from_list."""
    rows = HubDataset.from_list([Sentences(8)[i] for i in range(8)]).with_format("torch")
    trainer = DiversityTrainer(model=tiny_bert(), args=arguments(tmp_path), train_dataset=rows, eval_dataset=rows)
    trainer.state.log_history.append({"step": 1, "eval_loss": 0.5, "eval_text": "not a number", "eval_list": [1]})
    trainer.create_model_card(**sets)
    head, page = parsed((tmp_path / "README.md").read_text())
    assert "None" not in page and "datasets" not in head and "imagefolder" not in page and "0.5" in page


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_model_from_a_configuration_gets_no_empty_link(tmp_path, weight):
    trainer = trained(tmp_path, diversity_weight=weight)
    trainer.model.config.name_or_path = ""
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert "[](" not in text and "huggingface.co/)" not in text and "None" not in text


def test_an_adapter_of_a_model_that_is_nowhere_names_none(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_bert(), peft.LoraConfig(target_modules=["query"], task_type="SEQ_CLS"))
    trainer = DiversityTrainer(model=model, args=arguments(tmp_path), train_dataset=Sentences(8))
    trainer.save_model()
    trainer.create_model_card()
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.get("base_model") is None and not [tag for tag in data.tags if tag.startswith("base_model")]
    assert {"hf_diversity", "within-layer-diversity"} <= set(data.tags)


def test_with_both_weights_0_it_is_trainers(tmp_path):
    trainer = trained(tmp_path, diversity_weight=0.0)
    trainer.create_model_card(finetuned_from="user/base")
    ours = (tmp_path / "README.md").read_bytes()
    Trainer.create_model_card(trainer, finetuned_from="user/base")
    assert ours == (tmp_path / "README.md").read_bytes() and b"hf_diversity" not in ours


def test_a_trainer_with_a_card_of_its_own_keeps_it(tmp_path):
    class Own(Trainer):
        def create_model_card(self, *args, **kwargs):
            ModelCard("---\ntags:\n- own\n---\n\n# Own\n").save(f"{self.args.output_dir}/README.md")

    class Mixed(DiversityMixin, Own):
        pass

    trainer = Mixed(model=tiny_bert(), args=arguments(tmp_path), train_dataset=Sentences(8))
    trainer.create_model_card(anything="of its own")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["own", "hf_diversity", "within-layer-diversity"]
    assert "# Own" in card.text and "## The regulariser" in card.text


@pytest.mark.parametrize(
    ("module", "words", "processes", "expected"),
    [
        (None, ["/home/me/train.py", "--hub_token", "hf_secret", "--lr", "1", "--note", "two words"], 1,
         "python train.py --hub_token ... --lr 1 --note 'two words'"),
        (None, ["/home/me/train.py", "--data=/o/d/x y", "--out", "/home/me"], 1,
         "python train.py '--data=x y' --out '~'"),
        (None, ["/home/me/train.py", "--lr", "1"], 2, "accelerate launch --num_processes 2 train.py --lr 1"),
        ("package.train", ["/home/me/package/train.py", "--lr", "1"], 1, "python -m package.train --lr 1"),
        ("package.__main__", ["/home/me/package/__main__.py"], 1, "python -m package"),
        ("ipykernel_launcher", ["/x/ipykernel_launcher.py", "-f", "/x.json"], 1, ""),
        (None, ["-c"], 1, ""),
        (None, [], 1, ""),
    ],
)  # fmt: skip
def test_the_command(monkeypatch, module, words, processes, expected):
    main = ModuleType("__main__")
    main.__spec__ = ModuleSpec(module, None) if module else None
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", words)
    assert card_mixin._command(processes) == expected


def test_a_long_log_keeps_its_last_row():
    history = [{"step": i, "loss": 1.0 / i} for i in range(1, 101)]
    rows = training_log_rows(history)
    assert len(rows) == 20 and rows[-1]["step"] == 100


def test_several_evaluation_sets_share_a_row():
    history = [
        {"step": 1, "epoch": 1.0, "loss": 0.5, "gamma": 1.0},
        {"step": 1, "epoch": 1.0, "eval_a_loss": 0.6, "eval_a_gamma": 1.0, "eval_a_runtime": 1.0},
        {"step": 1, "epoch": 1.0, "eval_b_loss": 0.7},
        {"step": 2, "epoch": 2.0, "loss": 0.4},
    ]
    assert training_log_rows(history) == [{"epoch": 1, "step": 1, "loss": 0.5, "eval_a_loss": 0.6, "eval_b_loss": 0.7}]


def test_folders_are_told_by_their_last_part_and_never_linked(tmp_path):
    card = full_card(base_model=f"{tmp_path}/my_base", datasets=[Dataset("d", f"{tmp_path}/data")], start="fine-tuned")
    text = render(card)
    assert "fine-tuned from my\\_base" in text and str(tmp_path) not in text
    data = metadata(card)
    assert render(full_card(base_model="user/base", start="fine-tuned")).count("huggingface.co/user/base") == 1
    head, _ = parsed(text)
    assert "base_model" not in head and "datasets" not in head and data.base_model


def test_numbers_of_numpy_and_missing_ones():
    settings = {"lr": np.float32(0.5), "layers": ("a", np.int64(3)), "folder": Path("a"), "weights": torch.ones(2)}
    card = full_card(settings=settings, metrics={"test": {"loss": np.float64(0.5), "accuracy": None}}, gaps={})
    head, page = parsed(render(card))
    assert "lr: 0.5" in page and "- 3" in page and "folder: a" in page and "numpy" not in page
    assert [m["value"] for m in head["model-index"][0]["results"][0]["metrics"]] == [0.5]
    assert "<td>–</td>" in page, "what was not measured"


def test_an_address_of_a_person_becomes_no_link():
    """GitHub makes a link of what looks like one; an entity does not."""
    text = render(full_card("me@example.org", command="", settings={}))
    _, page = parsed(text)
    body = re.sub(r"`.*?`", "", text.split("---\n", 2)[2])
    assert "@example" not in body and "me&#64;example.org" in body and "me@example.org" in page


def test_a_benchmark_gets_its_entry(tmp_path):
    card = full_card(datasets=[Dataset("d"), Dataset("e", "user/bench mark", "task_1")])
    save(card, tmp_path)
    [entry] = yaml.safe_load((tmp_path / ".eval_results" / "bench-mark.yaml").read_text())
    assert entry["dataset"] == {"id": "user/bench mark", "task_id": "task_1"} and entry["value"] == 0.9
    assert "accuracy" in entry["notes"]
    save(full_card(), tmp_path / "none")
    assert not (tmp_path / "none" / ".eval_results").exists(), "no data set names a task"


def test_tables_have_the_rows_and_columns_of_all():
    metrics = {"train": {"loss": 0.5}, "test": {"loss": 0.5, "accuracy": "high"}}
    _, page = parsed(
        render(full_card(metrics=metrics, gaps={}, twins=[], log=[{"step": 0}, {"step": 10, "loss": 2.5}]))
    )
    text = " ".join(re.sub("<.*?>", " ", page).split())
    assert "accuracy – high" in text and "step training loss 0 10 2.5" in text


def test_evaluation_sets_by_name():
    history = [
        {"step": 1, "eval_a_loss": 0.9, "eval_a_accuracy": 0.1},
        {"step": 2, "eval_a_loss": 0.6, "eval_a_accuracy": 0.5, "eval_a_diversity": 1.0, "eval_a_runtime": 1.0},
        {"step": 2, "eval_b_loss": 0.7},
        {"step": 2, "gap_a_loss": 0.2},
    ]
    found = card_mixin._last_evaluations(history, {"a": [], "b": [], "c": []})
    assert found == ({"a": {"loss": 0.6, "accuracy": 0.5}, "b": {"loss": 0.7}}, {"a": {"loss": 0.2}})


def test_saved_cards_are_read_back(tmp_path):
    path = save(full_card(), tmp_path / "new")
    assert path.name == "README.md" and json.loads(json.dumps(ModelCard.load(path).data.to_dict()))
