"""A probe from end to end: what is in the report, and that its numbers are right."""

import csv
import json

import datasets
import numpy as np
import pytest
import torch
from tiny import tiny_timm
from tiny_text_folders import bert_folder, text_folder, tiny_tokenizer
from torch import nn
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, ViTImageProcessor
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hf_diversity import DiversityConfig
from hf_diversity.cli import main
from hf_diversity.data import load_embedded
from hf_diversity.probe import ProbeSettings, probe
from hf_diversity.probe.scores import head_classes
from hf_diversity.timm_models import wrap_timm_model

pytest.importorskip("matplotlib").use("Agg")
SMALL = {"max_examples": 60, "batch_size": 20}


def image_folder(path, seed=0, name="test_resnet", labels=None, classes=10):
    """A checkpoint as a training leaves it."""
    model = wrap_timm_model(tiny_timm(name, num_classes=classes))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    side = 32 if "vit" in name else 28
    overlay = {"input_size": (1, side, side), "mean": (0.3,), "std": (0.35,), "crop_pct": 1.0}
    model.config.pretrained_cfg = {**model.config.pretrained_cfg, **overlay}
    if labels is not None:
        model.config.id2label = dict(enumerate(labels))
    model.save_pretrained(path)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "mine"
    image_folder(path, labels=load_embedded()["train"].features["label"].names)
    return path


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    return out, probe(str(folder), ProbeSettings(dataset="embedded", **SMALL), out, progress=False)


def test_everything_is_written(report):
    out, found = report
    written = json.loads((out / "report.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["figures", "report.html", "report.json"]
    assert {f"figures/{p.name}" for p in (out / "figures").iterdir()} == set(written["figures"])
    assert len(written["figures"]) >= 5
    [model] = written["models"]
    assert model["name"] == "mine" and list(model["layers"]) == ["timm_model.fc"]
    assert model["layers"]["timm_model.fc"]["activations"] == "input"
    assert written["data"]["splits"]["train"] == {"name": "train", "measured": 60, "of": 2000}
    assert len(written["findings"]) == len(found.findings) >= 2 and written["thresholds"]["near copy"]
    assert str(out.parent) not in (out / "report.json").read_text() + (out / "report.html").read_text()


def test_numbers_are_those_of_a_plain_loop_over_the_same_images(report, folder):
    """Features, scores and their labels computed apart, from the images that the report says it drew."""
    from transformers import AutoModelForImageClassification

    from hf_diversity.data.splits import stratified_subset

    _, found = report
    [model] = found.models
    network = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = TimmWrapperImageProcessor(network.config.pretrained_cfg, architecture="test_resnet")
    for role in ("train", "test"):
        data = load_embedded()[role]
        chosen = stratified_subset(data["label"], 60, 0)
        pixels = processor([image.convert("L") for image in data[chosen]["image"]], return_tensors="pt")
        labels = np.array(data["label"])[chosen]
        with torch.no_grad():
            features = network.timm_model.forward_head(
                network.timm_model.forward_features(pixels["pixel_values"]), pre_logits=True
            )
            logits = network(**pixels).logits.double()
        measured = model.layers["timm_model.fc"][role]
        centred = features.double() - features.double().mean(0)
        expected = (centred**2).sum() / 60
        assert float(measured.eigenvalues.sum()) == pytest.approx(float(expected), rel=1e-5) and expected > 0
        scores = model.scores[role]
        assert scores["accuracy"] == pytest.approx(np.mean(logits.argmax(-1).numpy() == labels))
        probabilities = (logits - logits.max(1, keepdim=True).values).exp()
        probabilities /= probabilities.sum(1, keepdim=True)
        loss = -np.mean([np.log(float(probabilities[i, label])) for i, label in enumerate(labels)])
        assert scores["loss"] == pytest.approx(loss, rel=1e-6)


def test_both_splits_are_measured_at_one_gamma(report):
    _, found = report
    layer = found.models[0].layers["timm_model.fc"]
    assert layer["train"].gamma == layer["test"].gamma == layer["train"].normalised_gamma
    assert layer["test"].normalised_gamma != layer["train"].normalised_gamma, "else the test compares nothing"


def test_labels_are_matched_to_the_head_by_name_else_by_position():
    class Head(nn.Module):
        def __init__(self, names):
            super().__init__()
            self.config = type("Config", (), {"id2label": dict(enumerate(names)), "num_labels": len(names)})()

    assert list(head_classes(Head(["dog", "cat", "cow"]), ["Cat", "dog"])) == [1, 0]
    assert list(head_classes(Head(["LABEL_0", "LABEL_1"]), ["cat", "dog"])) == [0, 1]
    assert list(head_classes(Head(["negative", "positive"]), ["0", "1"])) == [0, 1]
    assert head_classes(Head(["negative", "positive"]), ["cat", "dog"]) is None
    assert head_classes(Head(["LABEL_0", "LABEL_1", "LABEL_2"]), ["cat", "dog"]) is None


def test_a_shuffled_head_scores_the_same(folder, report, tmp_path):
    """The same network with its outputs in another order, and their names with them."""
    names = load_embedded()["train"].features["label"].names
    model = image_folder(tmp_path / "shuffled", labels=names)
    order = list(reversed(range(10)))
    with torch.no_grad():
        model.timm_model.fc.weight.copy_(model.timm_model.fc.weight[order].clone())
        model.timm_model.fc.bias.copy_(model.timm_model.fc.bias[order].clone())
    model.config.id2label = {i: names[order[i]] for i in range(10)}
    model.save_pretrained(tmp_path / "shuffled")
    found = probe(str(tmp_path / "shuffled"), ProbeSettings(dataset="embedded", **SMALL), progress=False)
    for role, scores in found.models[0].scores.items():
        assert scores == pytest.approx(report[1].models[0].scores[role])


def test_labels_that_do_not_fit_are_said_and_layers_measured_all_the_same(tmp_path):
    image_folder(tmp_path / "four", classes=4)
    found = probe(str(tmp_path / "four"), ProbeSettings(dataset="embedded", **SMALL), progress=False)
    assert not found.models[0].scores and "10 classes" in found.models[0].why_no_scores
    assert any("Loss and accuracy were not measured" in finding.text for finding in found.findings)
    assert found.models[0].layers["timm_model.fc"]["test"].num_units == 96


def test_all_layers_and_those_left_out(folder, tmp_path):
    settings = ProbeSettings(dataset="embedded", layers=("timm_model.layer1.**", "timm_model.f?"), **SMALL)
    found = probe(str(folder), settings, tmp_path / "out", progress=False)
    [model] = found.models
    assert {"timm_model.layer1.0", "timm_model.layer1.0.conv1"} <= set(model.layers)
    assert len(model.layers) > 4 and all(set(by_role) == {"train", "test"} for by_role in model.layers.values())
    assert not set(model.left_out) & set(model.layers)
    assert "output head" in model.left_out["timm_model.fc"], "found by a pattern; by name it would be measured"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<details open") == 0, "many layers are folded"
    assert "At a glance" in page and "mean_similarity_normalised.png" in str(found.to_dict()["figures"])


def test_a_training_run_brings_its_layers_and_gamma(tmp_path):
    image_folder(tmp_path / "run" / "checkpoint-7")
    config = DiversityConfig(layers=["timm_model.layer3"], diversity_weight=0.5)
    config.to_json_file(tmp_path / "run" / "checkpoint-7" / "diversity_config.json")
    # The running average of log2 of the median distance: -1, so m = 1/2 and gamma = 1 / (2 m^2) = 2
    state = {"gamma": {"timm_model.layer3": [-2.0, 2.0]}}
    (tmp_path / "run" / "checkpoint-7" / "diversity_state.json").write_text(json.dumps(state))
    found = probe(str(tmp_path / "run"), ProbeSettings(dataset="embedded", **SMALL), progress=False)
    [model] = found.models
    assert model.name == "run/checkpoint-7" and "checkpoint-7" in model.notes[0]
    assert list(model.layers) == ["timm_model.layer3"] and model.training.diversity_weight == 0.5
    assert {d.gamma for d in model.layers["timm_model.layer3"].values()} == {2.0}


def test_compared_models_see_the_same_and_share_the_gamma_of_training(folder, tmp_path):
    other = tmp_path / "a" / "mine"  # the same name: told apart by a number
    image_folder(other, seed=1, labels=load_embedded()["train"].features["label"].names)
    DiversityConfig(gamma=3.0).to_json_file(other / "diversity_config.json")
    settings = ProbeSettings(dataset="embedded", **SMALL)
    found = probe([str(folder), str(other)], settings, tmp_path / "out", progress=False)
    assert [model.name for model in found.models] == ["mine", "mine (2)"]
    gammas = {d.gamma for model in found.models for d in model.layers["timm_model.fc"].values()}
    assert gammas == {3.0}
    means = [model.layers["timm_model.fc"]["test"].mean_similarity for model in found.models]
    assert means[0] != means[1]
    compared = [f for f in found.findings if f.model == "mine (2)" and "against" in f.text]
    assert len(compared) == 2, "the layer and the accuracy"
    assert f"At the same gamma, 3, the similarity is {means[1]:.3f} against {means[0]:.3f}" in compared[0].text
    twins = probe([str(folder), str(folder)], settings, progress=False)
    first, second = (model.layers["timm_model.fc"]["test"] for model in twins.models)
    assert torch.equal(first.similarity, second.similarity) and "do not agree" in twins.findings[0].text


def test_a_processor_of_another_model_is_named(tmp_path):
    image_folder(tmp_path / "vit", name="test_vit")
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [1, 28, 28]
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cannot run a batch of pixel_values \(20, 1, 28, 28\).*type --processor"):
        probe(str(tmp_path / "vit"), ProbeSettings(dataset="embedded", **SMALL), progress=False)


def test_layers_that_only_one_has_are_named(folder, tmp_path):
    image_folder(tmp_path / "vit", name="test_vit", classes=10)
    with pytest.raises(ValueError, match="compared by name: only one of them has.*'timm_model.fc'"):
        probe([str(folder), str(tmp_path / "vit")], ProbeSettings(dataset="embedded", **SMALL), progress=False)


def sentences(path, rows=40):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["remark", "target"])
        for index in range(rows):
            word = ("good", "bad")[index % 2]
            writer.writerow([f"the film was {' '.join([word] * (1 + index % 5))}", word])
    return path


def test_texts_from_a_csv_file_cut_in_two(tmp_path):
    folder = bert_folder(tmp_path / "bert")
    settings = ProbeSettings(
        dataset=str(sentences(tmp_path / "films.csv")), train_split="train[:50%]", test_split="train[50%:]",
        layers=("**.layer.*", "pooler.dense"), **SMALL,
    )  # fmt: skip
    found = probe(str(folder), settings, progress=False)
    assert found.data["columns"] == ["remark"] and found.data["classes"] == ["bad", "good"]
    [model] = found.models
    layer = next(iter(model.layers.values()))
    lengths = [
        len(tiny_tokenizer()(text)["input_ids"]) for text in datasets.Dataset.from_csv(settings.dataset)["remark"]
    ]
    assert layer["train"].num_samples == sum(lengths[:20]), "padding is no sample"
    assert "no head" in model.why_no_scores


def test_scores_of_a_text_classifier_and_its_gap(tmp_path):
    """Against the loss that the model itself gives for each sentence alone, without padding."""
    folder = bert_folder(tmp_path / "bert")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    data = text_folder(tmp_path / "data", train=30, test=20)
    found = probe(str(folder), ProbeSettings(dataset=str(data), **SMALL), progress=False)
    tokenizer, scores = tiny_tokenizer(), found.models[0].scores
    for role in ("train", "test"):
        split = datasets.load_dataset(str(data), split=role)
        with torch.no_grad():
            outputs = [
                model(**tokenizer(text, return_tensors="pt"), labels=torch.tensor([label]))
                for text, label in zip(split["sentence"], split["label"], strict=True)
            ]
        right = [int(o.logits.argmax()) == label for o, label in zip(outputs, split["label"], strict=True)]
        assert scores[role]["loss"] == pytest.approx(np.mean([float(o.loss) for o in outputs]), rel=1e-5)
        assert scores[role]["accuracy"] == pytest.approx(np.mean(right)) and 0 < np.mean(right) < 1


def test_a_causal_language_model_is_scored_by_its_next_tokens(tmp_path):
    tokenizer = tiny_tokenizer(end="[END]")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    data = text_folder(tmp_path / "data", train=20, test=10)
    found = probe(str(tmp_path / "llama"), ProbeSettings(dataset=str(data), **SMALL), progress=False)
    loss, count = 0.0, 0
    for text in datasets.load_dataset(str(data), split="test")["sentence"]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    [measured] = found.models
    assert measured.counts["test"] == count and measured.scores["test"]["loss"] == pytest.approx(
        loss / count, rel=1e-5
    )
    assert found.findings[0].text.count("tokens") >= 1, "no examples are right, tokens are"


def test_a_folder_of_images_by_class(folder, tmp_path):
    for role in ("train", "test"):
        for index, image in enumerate(load_embedded()[role].select(range(12))["image"]):
            path = tmp_path / "images" / role / ("shirt", "shoe")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    found = probe(str(folder), ProbeSettings(dataset=str(tmp_path / "images"), **SMALL), progress=False)
    assert found.data["classes"] == ["shirt", "shoe"] and found.data["splits"]["test"]["measured"] == 12
    assert "the data have 2 classes" in found.models[0].why_no_scores


# ---- what goes wrong


def test_a_processor_that_does_not_normalise_may_have_any_channels(tmp_path):
    image_folder(tmp_path / "mine")
    processor = ViTImageProcessor(size={"height": 28, "width": 28}, do_normalize=False)
    processor.save_pretrained(tmp_path / "processor")
    settings = ProbeSettings(dataset="embedded", processor=str(tmp_path / "processor"), **SMALL)
    assert probe(str(tmp_path / "mine"), settings, progress=False).models[0].layers


def test_a_processor_of_other_channels_than_the_models_is_refused(tmp_path):
    image_folder(tmp_path / "mine")
    ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "processor")
    settings = ProbeSettings(dataset="embedded", processor=str(tmp_path / "processor"), **SMALL)
    with pytest.raises(ValueError, match=r"takes images of 1 channel\(s\), and its image processor normalises 3"):
        probe(str(tmp_path / "mine"), settings, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "./nowhere"}, "no such folder or file"),
        ({"train_split": "training"}, "no train split 'training': it has 'train', 'test'; type --train-split NAME"),
        ({"test_split": "dev"}, "no test split 'dev'"),
        ({"test_split": "train"}, "there would be nothing to compare"),
        ({"image_column": "picture"}, "there is no column 'picture'.*type --image-column NAME"),
        ({"label_column": "lable"}, "did you mean 'label'"),
        ({"layers": ("timm_model.layer9",)}, "'timm_model.layer9' matches no module"),
        ({"layers": ("timm_model.fc_norm*",)}, "matches no"),
        ({"max_examples": 1}, "max_examples is 1"),
        ({"weights": "w.safetensors"}, "weights belongs to a timm name"),
        ({"text_columns": ("a", "b", "c")}, "a pair of two"),
    ],
)
def test_what_is_not_there_is_named(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        probe(str(folder), ProbeSettings(**{"dataset": "embedded", **SMALL, **settings}), progress=False)


def test_the_wrong_modality_is_named(folder, tmp_path):
    text = str(sentences(tmp_path / "films.csv"))
    cut = {"train_split": "train[:50%]", "test_split": "train[50%:]"}
    with pytest.raises(ValueError, match="the model takes images, and of .*films.csv: none of the columns"):
        probe(str(folder), ProbeSettings(dataset=text, **cut), progress=False)
    bert = bert_folder(tmp_path / "bert")
    with pytest.raises(ValueError, match="the model takes texts, and of embedded: none of the columns"):
        probe(str(bert), ProbeSettings(dataset="embedded"), progress=False)
    with pytest.raises(ValueError, match="images and others texts"):
        probe([str(folder), str(bert)], ProbeSettings(dataset="embedded"), progress=False)


def test_one_file_without_a_test_split_says_how_to_cut_it(folder, tmp_path):
    with pytest.raises(ValueError, match=r"--train-split 'train\[:80%\]' --test-split 'train\[80%:\]'"):
        probe(str(folder), ProbeSettings(dataset=str(sentences(tmp_path / "films.csv"))), progress=False)


def test_only_an_earlier_report_is_replaced(report, folder, tmp_path, capsys):
    words = ["probe", str(folder), "--dataset", "embedded", "--max-examples", "20", "--out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main([*words, str(tmp_path / "mine")]) == 1
    assert "thesis.txt" in capsys.readouterr().err and (tmp_path / "mine" / "thesis.txt").exists()
    assert main([*words, str(tmp_path / "mine"), "--overwrite"]) == 0
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "again"
    assert main([*words, str(out)]) == 0
    (out / "figures" / "stale.png").write_bytes(b"")
    capsys.readouterr()
    assert main([*words, str(out)]) == 0
    said = capsys.readouterr().out
    assert "earlier report, which will be replaced" in said and not (out / "figures" / "stale.png").exists()
    assert (
        "hf-diversity probe mine --dataset embedded --max-examples 20 --out again"
        in (json.loads((out / "report.json").read_text())["how"]["command"])
    )


def test_an_output_head_is_measured_where_it_is_named(folder):
    found = probe(str(folder), ProbeSettings(dataset="embedded", layers=("timm_model.fc",), **SMALL), progress=False)
    assert found.models[0].layers["timm_model.fc"]["train"].num_units == 10
