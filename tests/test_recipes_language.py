"""The language modelling recipe: blocks, hidden tokens, perplexity, and runs from end to end."""

import json
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from common.arguments import parse_arguments
from common.blocks import Blocks, LanguageArguments, group_into_blocks, perplexity, sum_over_tokens
from common.data import Split, load_unlabelled_splits
from language_modeling import TYPES, main, run
from tiny_text_folders import SIZES, bert_folder, text_folder, tiny_tokenizer
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling

CONFIGS = Path(__file__).parent.parent / "recipes" / "configs" / "language_modeling"
SMALL = ["--block_size", "16", "--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "8"]
SMALL += ["--logging_steps", "1", "--warmup_steps", "0", "--disable_tqdm", "true", "--use_cpu", "true"]
LLAMA = json.dumps({**SIZES, "num_key_value_heads": 2})


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where the texts, a tokenizer with an end token, and a BERT are."""
    root = tmp_path_factory.mktemp("language")
    tiny_tokenizer(end="<end>").save_pretrained(root / "tokenizer")
    return {
        "data": ["--dataset", str(text_folder(root / "films", train=160, test=60)), "--text_column", "sentence"],
        "causal": ["--model", "llama", "--tokenizer", str(root / "tokenizer"), "--model_args", LLAMA],
        "masked": ["--model", str(bert_folder(root / "bert")), "--tokenizer", str(root / "bert")],
    }


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    """A finished causal run from scratch, made as a user makes it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    line = [*places["data"], *places["causal"], *SMALL, "--num_train_epochs", "4", "--learning_rate", "0.02"]
    line += ["--diversity_weight", "0.5", "--gamma", "2", "--eval_strategy", "epoch", "--save_strategy", "no"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recipes/language_modeling.py", *line, "--output_dir", str(folder)])
        main()
    return folder


def test_a_run_reports_perplexity_of_the_task_loss(finished, places):
    results = json.loads((finished / "results.json").read_text())
    assert results["task"] == "text-generation" and results["name"] == "direct 0.5"
    for split, values in results["metrics"].items():
        assert set(values) == {"loss", "perplexity"}
        stored = results["data"]["blocks"][split]
        # Trainer's loss is a mean over batches; all of equal length, so it is the mean over tokens too.
        assert stored > 4 and values["perplexity"] == pytest.approx(math.exp(values["loss"]), rel=1e-4)
    words = len(tiny_tokenizer(end="<end>"))
    assert 1 < results["metrics"]["test"]["perplexity"] < 0.8 * words
    gap = results["metrics"]["test"]["perplexity"] - results["metrics"]["train"]["perplexity"]
    assert results["gaps"]["test"]["perplexity"] == pytest.approx(gap)
    steps = [record for record in results["history"] if "task_loss" in record]
    for record in steps:
        assert record["loss"] == pytest.approx(record["task_loss"] + 0.5 * record["diversity"], rel=1e-5)
    assert {"noisy_labels", "classes"}.isdisjoint(results["data"])
    # Every token of the validation blocks is a sample.
    (after,) = results["similarity"]["after"].values()
    assert after["samples"] == results["data"]["blocks"]["validation"] * 16 and after["units"] == 16
    assert "gap.png" in results["figures"]


def test_the_reloaded_model_has_the_perplexity_that_was_reported(finished, places):
    results = json.loads((finished / "results.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(finished).eval()
    arguments = LanguageArguments(dataset=places["data"][1], text_column="sentence", block_size=16)
    test = group_into_blocks(load_unlabelled_splits(arguments).test, "test", arguments, tiny_tokenizer(end="<end>"))
    losses = []
    with torch.no_grad():
        for block in test:
            scores = model(input_ids=block[None]).logits[0].double().log_softmax(-1)
            losses += [-scores[place, block[place + 1]].item() for place in range(15)]
    expected = math.exp(sum(losses) / len(losses))
    assert results["metrics"]["test"]["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_the_card_is_valid_and_its_code_works(finished, capsys, monkeypatch):
    _, head, body = (finished / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "text-generation" and metadata["metrics"] == ["perplexity"]
    assert "trained from random weights" in body and str(finished.parent) not in body
    monkeypatch.chdir(finished)
    exec(compile(body.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 3


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_trains_for_two_steps(config, places, tmp_path, capsys, monkeypatch):
    objective = config.stem.split("_")[0]
    words = ["--config", str(config), *places["data"], *places[objective], *SMALL, "--dataset_config", "default"]
    words += [
        "--validation_split",
        "train[90%:]",
        "--train_split",
        "train[:90%]",
        "--max_steps",
        "2",
        "--figures",
        "false",
    ]
    words += ["--eval_strategy", "no", "--save_strategy", "no", "--measure_similarity", "false"]
    found = run(*parse_arguments(TYPES, [*words, "--output_dir", str(tmp_path)]))
    losses = [record["loss"] for record in found["history"] if "loss" in record]
    assert len(losses) == 2 and all(np.isfinite(losses)) and (tmp_path / "model.safetensors").is_file()
    assert found["diversity"]["active"] == ("baseline" not in config.stem)
    assert found["model"]["pretrained"] == (objective == "masked")
    assert 1 < found["metrics"]["test"]["perplexity"] < 100
    if objective == "masked":
        code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "README.md", "exec"), {})
        assert capsys.readouterr().out.split()[-1] in tiny_tokenizer().get_vocab()


def texts(*lines, name="text"):
    return Split(datasets.Dataset.from_dict({name: list(lines)}), np.zeros(len(lines), np.int64))


def test_blocks_hold_the_texts_one_after_another():
    tokenizer = tiny_tokenizer(end="<end>")
    split = texts("the film was dull", "", "a plot and a cast")
    blocks = group_into_blocks(split, "train", LanguageArguments(block_size=4), tokenizer)
    read = [tokenizer.convert_ids_to_tokens(block.tolist()) for block in blocks]
    # The last word and its end are left over.
    assert read == [["the", "film", "was", "dull"], ["<end>", "<end>", "a", "plot"], ["and", "a", "cast", "<end>"]]
    tokenizer = tiny_tokenizer()
    (block,) = group_into_blocks(texts("a plot", "a cast"), "train", LanguageArguments(block_size=8), tokenizer)
    assert tokenizer.convert_ids_to_tokens(block.tolist()) == [
        "[CLS]",
        "a",
        "plot",
        "[SEP]",
        "[CLS]",
        "a",
        "cast",
        "[SEP]",
    ]


def masked_blocks(seed):
    tokenizer = tiny_tokenizer()
    blocks = torch.randint(5, len(tokenizer), (6, 64), generator=torch.Generator().manual_seed(0))
    return Blocks(blocks, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3), seed), blocks


def test_evaluations_hide_the_same_tokens_and_training_others():
    fixed, blocks = masked_blocks(seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = [fixed[position] for position in range(6)]
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)  # evaluation leaves the random state alone
    for position in (4, 0, 2):
        for key, value in fixed[position].items():
            torch.testing.assert_close(value, first[position][key], rtol=0, atol=0)
    for item, block in zip(first, blocks, strict=True):
        asked = item["labels"] != -100
        assert 8 < asked.sum() < 32 and torch.equal(item["labels"][asked], block[asked])
        assert torch.equal(item["input_ids"][~asked], block[~asked])
        hidden = (item["input_ids"] == tiny_tokenizer().mask_token_id).sum()
        assert asked.sum() / 2 < hidden <= asked.sum()
    assert not torch.equal(first[0]["labels"] == -100, first[1]["labels"] == -100)
    varied, _ = masked_blocks(seed=None)
    assert not torch.equal(varied[0]["labels"], varied[0]["labels"])


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_perplexity_is_over_tokens_not_over_blocks(objective):
    logits, labels = torch.randn(3, 7, 5), torch.randint(5, (3, 7))
    if objective == "masked":
        labels[0, 1:] = -100  # one token in this block, seven in the others
    total, tokens = 0.0, 0
    for block in range(3):
        for place in range(7):
            target = labels[block, place].item()
            at = place - 1 if objective == "causal" else place
            if target == -100 or at < 0:
                continue
            scores = [math.exp(value) for value in logits[block, at].tolist()]
            total, tokens = total - math.log(scores[target] / sum(scores)), tokens + 1
    summed = sum_over_tokens(objective)(logits, labels)
    assert summed.shape == (3, 2) and tokens == (18 if objective == "causal" else 15)

    class Evaluated:
        predictions = summed.numpy()

    assert perplexity(Evaluated)["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--block_size", "20000"], "train split has .* tokens, less than one block of 20,?000: type block_size"),
        (["--text_column", "label"], "'label' holds .*, not text: type text_column"),
        (["--text_column", "txt"], "no column 'txt'.*text_column: NAME"),
        (["--objective", "masked"], "no mask token: type objective: causal"),
        (
            ["--model_args", json.dumps({**json.loads(LLAMA), "max_position_embeddings": 8})],
            "the model has 8 positions",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_before(words, message, places, tmp_path):
    line = [*places["data"], *places["causal"], *SMALL, *words, "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match=message):
        run(*parse_arguments(TYPES, line))


def test_impossible_arguments_are_refused():
    for change, message in (
        ({"block_size": 1}, "block_size is 1"),
        ({"mask_probability": 0}, "mask_probability is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            LanguageArguments(**change)
