"""Models by name: which class a configuration gives, and what leads nowhere says what to type."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from tiny import timm_folder, tiny_bert, tiny_timm
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, TimmWrapperConfig

from hf_diversity import load_run
from hf_diversity.models import build_timm_model, is_timm_name, load_config, model_class, untrained_model
from hf_diversity.paths import is_path

REMOTE = {"AutoConfig": "mine.Config", "AutoModel": "mine.Trunk", "AutoModelForCausalLM": "mine.Model"}


@pytest.mark.parametrize(
    ("values", "trusted", "expected"),
    [
        ({"architectures": ["BertForMaskedLM"]}, False, transformers.BertForMaskedLM),
        ({}, False, AutoModel),
        ({"architectures": ["MyBertForSequenceClassification"]}, False, AutoModelForSequenceClassification),
        ({"architectures": ["MyBert"]}, True, None),
        ({"architectures": ["pipeline"]}, False, None),
        ({"architectures": ["BertTokenizer"]}, False, None),
        ({"architectures": ["Model"], "auto_map": REMOTE}, True, transformers.AutoModelForCausalLM),
        ({"architectures": ["Other"], "auto_map": REMOTE}, True, AutoModel),
        ({"architectures": ["BertForMaskedLM"], "auto_map": REMOTE}, False, transformers.BertForMaskedLM),
    ],
)
def test_class_of_a_configuration(values, trusted, expected):
    assert model_class(BertConfig(**values), trusted) is expected


@pytest.mark.parametrize(("labels", "kind"), [(3, "TimmWrapperForImageClassification"), (0, "TimmWrapperModel")])
def test_class_of_a_timm_configuration_that_names_none(labels, kind):
    config = TimmWrapperConfig.from_dict({"architecture": "test_resnet", "num_classes": labels})
    assert model_class(config).__name__ == kind


def test_every_door_finds_the_classifier_of_a_folder_in_timms_own_layout(tmp_path):
    folder, model = timm_folder(tmp_path / "own")
    loaded, untrained = load_run(folder).model, untrained_model(str(folder))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.timm_model.state_dict()[name], value)
    assert not torch.equal(untrained.timm_model.fc.weight, model.fc.weight) and untrained.config.num_labels == 4


def test_architectures_of_this_package_are_known_in_a_fresh_process(tmp_path):
    import hf_diversity.small_models  # noqa: F401
    from hf_diversity.timm_models import wrap_timm_model

    wrap_timm_model(timm.create_model("small_cnn", num_classes=4, in_chans=1)).save_pretrained(tmp_path)
    code = "import sys, hf_diversity; print(type(hf_diversity.load_run(sys.argv[1]).model.timm_model).__name__)"
    root = str(Path(__file__).parent.parent)
    found = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=root, capture_output=True, text=True)
    assert found.stdout.strip() == "SmallCNN", found.stderr[-1000:]


def test_timm_weights_come_from_a_file_of_which_nothing_is_kept(tmp_path):
    model = tiny_timm("test_resnet")
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    built = build_timm_model(
        "test_resnet", weights=tmp_path / "mine.safetensors", model_args={"num_classes": 4, "in_chans": 1}
    )
    assert torch.equal(built.conv1[0].weight, model.conv1[0].weight)
    assert str(tmp_path) not in str(built.pretrained_cfg)
    fresh = build_timm_model("test_resnet", model_args={"num_classes": 4, "in_chans": 1})
    assert not torch.equal(fresh.conv1[0].weight, model.conv1[0].weight)


def test_a_model_without_numbers_has_the_size_of_its_images():
    with torch.device("meta"):
        model, convolutions = untrained_model("test_vit", 64), untrained_model("test_resnet", 64)
    assert model.patch_embed.img_size == (64, 64) and {p.device.type for p in model.parameters()} == {"meta"}
    assert convolutions.num_classes == 1000


def test_a_folder_goes_before_a_timm_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_timm_name("test_resnet") and is_timm_name("small_cnn") and not is_timm_name("test_bert")
    tiny_bert().save_pretrained("test_resnet")
    assert not is_timm_name("test_resnet")
    assert type(untrained_model("test_resnet")).__name__ == "BertForSequenceClassification"


def test_a_configuration_with_other_values_and_one_that_cannot_be_used(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    assert load_config(tmp_path, settings={"num_labels": 7}).num_labels == 7
    for text in ("{", json.dumps({"model_type": "nothing_like_this"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"has a config\.json that cannot be used"):
            load_config(tmp_path)


def test_what_leads_nowhere_says_what_to_type():
    with pytest.raises(ValueError, match="did you mean .*resnet18.*OWNER/resnet1"):
        load_config("resnet1")
    with pytest.raises(ValueError, match="nor on the Hub; type a path that exists, a Hub id or a bone"):
        load_config("nobody/nothing", instead="a bone")


def test_what_can_only_be_a_path():
    assert all(map(is_path, ("/a", "./a", "~/a", "..", "a/b/c")))
    assert not any(map(is_path, ("a", "a/b", "owner/na.me")))
