"""Checkpoints of any origin are loaded whole, or refused with what to type."""

import json

import pytest
import timm
import torch
from architectures import tiny_transformer
from safetensors.torch import load_file, save_file
from timm.data.loader import adapt_to_chs
from tiny import timm_folder, tiny_timm
from tiny_text_folders import bert_folder, take_a_tensor_out
from transformers import AutoModelForSequenceClassification, BertForMaskedLM

from hf_diversity.data import load_embedded
from hf_diversity.probe import ProbeSettings, load_model
from hf_diversity.timm_models import wrap_timm_model

EMBEDDED = ProbeSettings(dataset="embedded")


def same(model, expected):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["{}", "local-dir:{}"])
def test_folder_of_a_wrapped_timm_model(tmp_path, form):
    model = wrap_timm_model(tiny_timm("test_resnet"))
    model.save_pretrained(tmp_path / "mine")
    loaded = load_model(form.format(tmp_path / "mine"), EMBEDDED)
    same(loaded.model, model)
    assert (loaded.name, loaded.modality, loaded.mode) == ("mine", "image", "L") and not loaded.model.training


def test_grey_pictures_are_normalised_by_the_average_over_channels(tmp_path):
    """As timm's loader does where a model made with in_chans=1 keeps mean and std of three channels."""
    picture = load_embedded()["test"][0]["image"]
    wrap_timm_model(tiny_timm("test_resnet")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def seen(mean, std):
        """The picture as the model would see it, back in [0, 1] by what timm makes of mean and std; and the notes."""
        config["pretrained_cfg"] |= {"mean": mean, "std": std}
        (tmp_path / "config.json").write_text(json.dumps(config))
        loaded = load_model(str(tmp_path), EMBEDDED)
        pixels = loaded.processor(picture, return_tensors="pt")["pixel_values"]
        [mean], [std] = adapt_to_chs(mean, 1), adapt_to_chs(std, 1)
        return pixels * std + mean, loaded.notes

    pixels, [note] = seen((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pixels.shape == (1, 1, 160, 160) and pixels.min() > -1e-6 and 0.5 < pixels.max() < 1 + 1e-6
    assert "averages, 0.449 and 0.226, were taken, as timm does" in note and '"mean": [...]' in note
    for mean, std in (((0.25,), (0.5,)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))):
        same_pixels, notes = seen(mean, std)
        torch.testing.assert_close(same_pixels, pixels, rtol=0, atol=1e-5)
        assert notes == ()


def test_folder_in_timms_own_layout(tmp_path):
    folder, model = timm_folder(tmp_path / "own")
    loaded = load_model(str(folder), EMBEDDED)
    same(loaded.model.timm_model, model)
    assert loaded.mode == "RGB"


def test_timm_name_with_a_file_of_weights(tmp_path):
    torch.manual_seed(5)
    model = timm.create_model("test_resnet")
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    loaded = load_model("test_resnet", ProbeSettings(dataset="embedded", weights=str(tmp_path / "mine.safetensors")))
    same(loaded.model.timm_model, model)
    assert loaded.name == "test_resnet" and "file" not in loaded.model.config.pretrained_cfg


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [(None, "BertModel"), (AutoModelForSequenceClassification, "BertForSequenceClassification")],
)
def test_folder_of_a_text_model_takes_the_class_of_its_configuration(tmp_path, architecture, kind):
    folder = bert_folder(tmp_path / "bert")
    if architecture is not None:
        architecture.from_pretrained(folder).save_pretrained(folder)
    loaded = load_model(str(folder), EMBEDDED)
    assert type(loaded.model).__name__ == kind and loaded.modality == "text"
    assert next(loaded.model.parameters()).dtype == torch.float32


def test_half_precision_weights_are_widened(tmp_path):
    model = wrap_timm_model(tiny_timm("test_resnet"))
    model.half().save_pretrained(tmp_path / "half")
    loaded = load_model(str(tmp_path / "half"), EMBEDDED)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


def test_a_checkpoint_takes_the_processor_of_its_run(tmp_path):
    folder = bert_folder(tmp_path / "run")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    for step in (5, 20):
        model.save_pretrained(folder / f"checkpoint-{step}")
    loaded = load_model(str(folder), EMBEDDED)
    assert loaded.name == "run/checkpoint-20" and "checkpoint-20" in loaded.notes[0]
    assert load_model(str(folder / "checkpoint-5"), EMBEDDED).name == "run/checkpoint-5"


def test_missing_tensors_are_no_random_ones(tmp_path):
    folder = bert_folder(tmp_path / "bert")
    take_a_tensor_out(folder)
    with pytest.raises(ValueError, match="lacks 1 tensors of BertModel .*random values"):
        load_model(str(folder), EMBEDDED)


def spoiled(path, kind):
    """A folder that cannot be probed."""
    folder = bert_folder(path)
    weights = folder / "model.safetensors"
    if kind == "none":
        weights.unlink()
    elif kind == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    elif kind == "broken":
        weights.write_bytes(weights.read_bytes()[:500])
    elif kind == "tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()
    elif kind == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif kind == "empty":
        for file in folder.iterdir():
            file.unlink()
    elif kind == "code":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text(f"open({str(folder / 'it_ran')!r}, 'w')\n")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", "a config.json and no weights"),
        ("pickle", r"weights only as a pickle \(pytorch_model.bin\).*model.save_pretrained"),
        ("broken", "could not be loaded as BertModel"),
        ("tokenizer", "no tokenizer.*type --processor"),
        ("adapter", "PEFT adapter alone: merge it"),
        ("empty", "neither config.json nor checkpoint-N folders"),
        ("code", "Python code from its repository.*--trust-remote-code"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_type(tmp_path, kind, message):
    folder = spoiled(tmp_path / "bert", kind)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder), EMBEDDED)
    assert not (folder / "it_ran").exists()


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("./nowhere", {}, "no such folder"),
        ("resnet1", {}, "neither a timm name nor a folder: did you mean .*resnet1"),
        ("test_resnet", {"weights": "nowhere.safetensors"}, "must be such a file"),
        ("test_resnet", {}, "pretrained weights of timm's 'test_resnet' could not be had; type --weights FILE"),
    ],
)
def test_names_that_lead_nowhere(source, settings, message):
    with pytest.raises(ValueError, match=message):
        load_model(source, ProbeSettings(dataset="embedded", **settings))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file: type its folder, or a timm name with --weights"):
        load_model(str(tmp_path / "model.safetensors"), EMBEDDED)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CLIPModel", "takes images and texts at once"),
        ("Wav2Vec2ForSequenceClassification", "takes input_values.*measure_diagnostics"),
        ("T5ForConditionalGeneration", "needs two texts"),
    ],
)
def test_models_of_other_kinds_of_data(tmp_path, name, message):
    tiny_transformer(name).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / "model"), EMBEDDED)


def test_masked_language_model_has_no_class_to_score(tmp_path):
    from hf_diversity.probe.scores import why_no_scores

    folder = bert_folder(tmp_path / "bert")
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    assert "no head that classifies" in why_no_scores(load_model(str(folder), EMBEDDED), ["a", "b"], "")
