"""The text classification recipe: columns, tokens, models, and a run from end to end."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from common.arguments import parse_arguments
from common.data import Split, load_splits
from common.text_models import TextModelArguments, build_text_model, load_tokenizer
from common.texts import TextArguments, text_columns
from safetensors.torch import load_file
from text_classification import TYPES, main, run
from tiny_text_folders import SIZES, bert_folder, sentences, text_folder, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

from hf_diversity.data.examples import TextDataset

CONFIGS = Path(__file__).parent.parent / "recipes" / "configs" / "text_classification"
SMALL = ["--max_train_samples", "48", "--max_validation_samples", "8", "--per_device_train_batch_size", "16"]
SMALL += ["--per_device_eval_batch_size", "16", "--logging_steps", "1", "--warmup_steps", "0"]
SMALL += ["--disable_tqdm", "true", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the texts and the model are."""
    root = tmp_path_factory.mktemp("text")
    return ["--dataset", str(text_folder(root / "films")), "--model", str(bert_folder(root / "tinybert"))]


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    """A finished run, made as a user makes it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    line = [*places, *SMALL, "--max_train_samples", "80", "--pretrained", "true", "--num_train_epochs", "8"]
    line += ["--learning_rate", "0.01"]
    line += ["--diversity_weight", "0.1", "--gamma", "2", "--eval_strategy", "epoch", "--save_strategy", "no"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recipes/text_classification.py", *line, "--output_dir", str(folder)])
        main()
    return folder


def test_a_run_leaves_what_the_image_recipe_leaves(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["task"] == "text-classification" and results["name"] == "direct 0.1"
    assert results["model"]["name"] == "tinybert" and results["model"]["pretrained"]
    assert results["data"]["name"] == "films" and results["data"]["train"] == 80
    for values in results["metrics"].values():
        assert set(values) == {"loss", "accuracy"}
    # A telling word in each sentence: something was learned, and it carries over.
    assert results["metrics"]["test"]["accuracy"] > 0.8
    steps = [record for record in results["history"] if "task_loss" in record]
    assert len(steps) == 40
    for record in steps:
        assert record["loss"] == pytest.approx(record["task_loss"] + 0.1 * record["diversity"], rel=1e-5)
    (after,) = results["similarity"]["after"].values()
    assert after["units"] == 16 and after["samples"] == 8
    assert set(results["figures"]) == {"training.png", "gap.png", "similarity.png"}
    assert not any("eval_test" in key or key.startswith("test") for record in results["history"] for key in record)


def test_the_reloaded_model_predicts_what_the_trained_one_did(finished, places):
    stored = np.load(finished / "predictions.npz")
    tokenizer = AutoTokenizer.from_pretrained(finished)
    model = AutoModelForSequenceClassification.from_pretrained(finished).eval()
    test = load_splits(TextArguments(dataset=places[1])).test
    with torch.no_grad():
        inputs = tokenizer(list(test.examples["sentence"]), padding=True, return_tensors="pt")
        predicted = model(**inputs).logits.argmax(-1)
    assert predicted.tolist() == stored["predictions"].tolist() and len(set(predicted.tolist())) == 2
    assert stored["labels"].tolist() == test.labels.tolist()


def test_own_csv_files_by_the_configuration_for_them(places, tmp_path, monkeypatch):
    texts, labels = sentences(64, seed=3)
    folder = tmp_path / "reviews"
    folder.mkdir()
    for name, part in (("train", slice(0, 48)), ("test", slice(48, 64))):
        lines = [f'"{t}, indeed",{"good" if g else "bad"}' for t, g in zip(texts[part], labels[part], strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["review,verdict", *lines]) + "\n")
    words = ["--config", str(CONFIGS / "own_files.yaml"), "--dataset", str(folder), *places[2:], *SMALL]
    words += ["--max_train_samples", "32", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")]
    words += ["--save_strategy", "no", "--max_validation_samples", "4"]
    monkeypatch.setattr("sys.argv", ["recipes/text_classification.py", *words])
    main()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["data"]["test"] == 16 and results["data"]["train"] == 32
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert sorted(saved["label2id"]) == ["bad", "good"]


def test_the_card_is_valid_and_its_code_works(finished, capsys, monkeypatch):
    _, head, body = (finished / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "text-classification" and metadata["library_name"] == "transformers"
    assert "timm" not in metadata["tags"] and str(finished.parent) not in body
    monkeypatch.chdir(finished)
    exec(compile(body.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("negative", "positive")


def test_a_resumed_run_ends_where_an_unbroken_one_does(places, tmp_path):
    words = [
        *places,
        *SMALL,
        "--max_steps",
        "4",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--figures",
        "false",
    ]
    words += ["--measure_similarity", "false", "--learning_rate", "0.01", "--lr_milestones", "1"]

    def train(name, *more):
        return run(*parse_arguments(TYPES, [*words, "--output_dir", str(tmp_path / name), *more]))

    whole = train("whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "broken" / "checkpoint-2")
    resumed = train("broken", "--resume_from_checkpoint", "true")
    assert resumed["training"]["resumed"] and resumed["training"]["steps"] == 4
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    start = load_file(tmp_path / "whole" / "checkpoint-2" / "model.safetensors")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(start[name], one[name]) for name in one)
    assert resumed["metrics"]["test"] == pytest.approx(whole["metrics"]["test"], rel=1e-4)
    # 3 steps an epoch: the step of the learning rate after the first epoch is taken by the resumed run as well.
    for found in (whole, resumed):
        rates = [record["learning_rate"] for record in found["history"] if "task_loss" in record]
        assert rates == pytest.approx([0.01, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_trains_for_two_steps(config, places, tmp_path):
    words = ["--config", str(config), *places, *SMALL, "--dataset_config", "default", "--test_split", "test"]
    words += ["--max_steps", "2", "--text_column", "null", "--label_column", "null"]  # those of the stand-in
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--figures", "false", "--measure_similarity", "false"]
    found = run(*parse_arguments(TYPES, [*words, "--output_dir", str(tmp_path)]))
    losses = [record["loss"] for record in found["history"] if "loss" in record]
    assert len(losses) == 2 and all(np.isfinite(losses)) and (tmp_path / "model.safetensors").is_file()
    assert found["diversity"]["active"] == ("baseline" not in config.stem)


def split_of(**columns):
    size = len(next(iter(columns.values())))
    return Split(datasets.Dataset.from_dict({**columns, "label": [0] * size}), np.zeros(size, np.int64))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["idx", "sentence"], ("sentence",)),
        (["sentence2", "sentence1"], ("sentence1", "sentence2")),
        (["hypothesis", "premise"], ("premise", "hypothesis")),
        (["sentence", "question"], ("question", "sentence")),
        (["passage", "question"], ("question", "passage")),
        (["question1", "question2"], ("question1", "question2")),
        (["text"], ("text",)),
    ],
)
def test_glue_style_columns_are_found(columns, found):
    assert text_columns(split_of(**{name: ["a"] for name in columns}), TextArguments()) == found


def test_named_columns_win():
    split = split_of(sentence=["a"], headline=["b"], body=["c"])
    assert text_columns(split, TextArguments(text_column="headline")) == ("headline",)
    both = TextArguments(text_column="headline", text_pair_column="body")
    assert text_columns(split, both) == ("headline", "body")


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"words": ["a"]}, {}, "'words', 'label' is called sentence or text.*type text_column: NAME"),
        ({"sentence": ["a"]}, {"text_column": "sentense"}, "no column 'sentense'.*did you mean 'sentence'"),
        ({"sentence": [1]}, {}, "'sentence' holds .*int64.*, not text: type text_column: NAME"),
        (
            {"sentence": ["a"]},
            {"text_column": "sentence", "text_pair_column": "second"},
            "no column 'second' among .*text_pair_column: NAME",
        ),
    ],
)
def test_bad_columns_are_named(columns, arguments, message):
    with pytest.raises(ValueError, match=message):
        text_columns(split_of(**columns), TextArguments(**arguments))


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="'b' without text_column"):
        TextArguments(text_pair_column="b")
    with pytest.raises(ValueError, match="max_length is 2"):
        TextArguments(max_length=2)
    with pytest.raises(ValueError, match="dataset is missing"):
        load_splits(TextArguments())


def test_pairs_are_tokenised_as_pairs_and_cut():
    tokenizer = tiny_tokenizer()
    split = split_of(sentence1=["the film was very dull", "a plot"], sentence2=["it was warm", "a cast"])
    split.labels[:] = [1, 0]
    first, second = TextDataset(split, ("sentence1", "sentence2"), tokenizer, 9).__getitems__([0, 1])
    expected = tokenizer("a plot", "a cast")
    assert second["input_ids"] == expected["input_ids"] and second["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert first["labels"] == 1 and second["labels"] == 0
    # Of eight words six fit beside three special tokens; the longer text gives way.
    words = tokenizer.convert_ids_to_tokens(first["input_ids"])
    assert words == ["[CLS]", "the", "film", "was", "[SEP]", "it", "was", "warm", "[SEP]"]


def build(**kwargs):
    arguments = TextModelArguments(**kwargs)
    return build_text_model(AutoModelForSequenceClassification, arguments, load_tokenizer(arguments), num_labels=3)


def test_pretrained_folders_configured_ones_and_kinds(tmp_path):
    folder = str(bert_folder(tmp_path / "bert"))
    donor = BertModel.from_pretrained(folder).state_dict()["embeddings.word_embeddings.weight"]

    def embeddings(model):
        assert model.num_labels == 3 and model.dtype == torch.float32
        return model.state_dict()["bert.embeddings.word_embeddings.weight"]

    torch.testing.assert_close(embeddings(build(model=folder, pretrained=True)), donor, rtol=0, atol=0)
    assert not torch.equal(embeddings(build(model=folder)), donor)
    kind = build(model="bert", tokenizer=folder, model_args={**SIZES, "num_hidden_layers": 2})
    assert embeddings(kind).shape == (len(tiny_tokenizer()), 16) and kind.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model is missing: type model"),
        ({"model": "bert", "tokenizer": None}, "no tokenizer 'bert'.*type tokenizer: FOLDER"),
        ({"model": "someone/unheard-of"}, "neither a local folder with config.json nor on the Hub"),
        ({"model": "bert", "model_args": {"hiden_size": 3}}, "'hiden_size' is no argument of BertConfig"),
        (
            {"model": "bert", "model_args": {**SIZES, "vocab_size": 7}},
            "tokenizer has 23 tokens and the model 'bert' 7",
        ),
    ],
)
def test_unusable_models_are_named(changes, message, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        build(**{"tokenizer": str(tmp_path), **changes})


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    tiny_tokenizer(end="<end>").save_pretrained(tmp_path)
    arguments = TextModelArguments(
        model="gpt2", tokenizer=str(tmp_path), model_args={"n_embd": 8, "n_head": 2, "n_layer": 1}
    )
    tokenizer = load_tokenizer(arguments)
    model = build_text_model(AutoModelForSequenceClassification, arguments, tokenizer, num_labels=2)
    assert tokenizer.pad_token == "<end>" and model.config.pad_token_id == tokenizer.eos_token_id
