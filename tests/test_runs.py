"""`load_run`: everything of a finished run, from its folder, and nothing that runs code."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from tiny import Sentences, arguments, tiny_bert, tiny_timm
from tiny_text_folders import bert_folder, take_a_tensor_out
from transformers import GPT2Config, GPT2DoubleHeadsModel

from hf_diversity import DiversityConfig, DiversityTrainer, load_run
from hf_diversity.timm_models import wrap_timm_model


def test_a_run_of_the_trainer(tmp_path):
    config = DiversityConfig(measure="logdet", diversity_weight=0.125)
    trainer = DiversityTrainer(
        model=tiny_bert(), args=arguments(tmp_path, max_steps=1), train_dataset=Sentences(8), diversity=config
    )
    trainer.train()
    trainer.save_model()
    (tmp_path / "results.json").write_text(json.dumps({"name": "mine"}))
    run = load_run(tmp_path)
    assert type(run.model).__name__ == "BertForSequenceClassification" and not run.model.training
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value)
    assert run.diversity == config and run.results == {"name": "mine"} and run.processor is None
    assert run.folder == tmp_path


def test_a_timm_model_and_a_tokenizer(tmp_path):
    wrap_timm_model(tiny_timm("test_resnet")).save_pretrained(tmp_path / "image")
    run = load_run(str(tmp_path / "image"))
    assert type(run.model).__name__ == "TimmWrapperForImageClassification"
    assert run.diversity is None and run.results is None and "ImageProcessor" in type(run.processor).__name__
    assert hasattr(load_run(bert_folder(tmp_path / "text")).processor, "decode")


def test_what_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_run(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json"):
        load_run(tmp_path)
    folder = bert_folder(tmp_path / "text")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(OSError, match=r"the weights of .*text are cut off"):
        load_run(folder)
    (folder / "model.safetensors").write_bytes(whole)
    torch.save(load_run(folder).model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_run(folder)


def test_weights_that_lack_a_tensor_are_no_run(tmp_path):
    folder = bert_folder(tmp_path / "text")
    take_a_tensor_out(folder)
    with pytest.raises(ValueError, match="lacks 1 tensors of Bert.* random values"):
        load_run(folder)


def test_code_of_a_model_is_not_run_unless_asked(tmp_path):
    folder = tmp_path / "custom"
    shutil.copytree(bert_folder(tmp_path / "text"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_run(folder)
    assert not (tmp_path / "ran").exists()


MINE = """from transformers import BertConfig, BertForSequenceClassification
class Config(BertConfig):
    model_type = "mine"
class Model(BertForSequenceClassification):
    config_class = Config
"""


def test_code_of_a_model_on_the_hub_is_fetched_only_when_asked(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "custom"
    tiny_bert().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": own}))
    (folder / "mine.py").write_text(MINE)
    HfApi().create_repo("someone/custom")
    HfApi().upload_folder(repo_id="someone/custom", folder_path=str(folder))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_run("someone/custom")
    assert not list((tmp_path / "hub_cache").rglob("mine.py"))
    run = load_run("someone/custom", trust_remote_code=True)
    assert type(run.model).__name__ == "Model"


def test_an_architecture_that_is_not_known_is_named(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["MyNetForNothing"]}))
    with pytest.raises(ValueError, match="MyNetForNothing"):
        load_run(tmp_path)


def test_the_class_is_the_one_that_the_configuration_names(tmp_path):
    """An auto class would drop the second head, or not know the model."""
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 20}
    GPT2DoubleHeadsModel(GPT2Config(**sizes, num_labels=1)).save_pretrained(tmp_path / "two")
    assert type(load_run(tmp_path / "two").model) is GPT2DoubleHeadsModel


@pytest.mark.parametrize("architectures", [["pipeline"], ["Trainer"], ["AutoConfig"], ["BertTokenizer"]])
def test_architectures_that_are_no_models_are_refused(tmp_path, architectures):
    tiny_bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    with pytest.raises(ValueError, match="architecture"):
        load_run(tmp_path)


def test_results_that_are_cut_off_are_named(tmp_path):
    tiny_bert().save_pretrained(tmp_path)
    (tmp_path / "results.json").write_text("")
    with pytest.raises(ValueError, match="results.json is no JSON"):
        load_run(tmp_path)
