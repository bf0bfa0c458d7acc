"""What a run leaves on disk and in the model, file by file and attribute by attribute, beside what Trainer leaves."""

import copy
import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from parity import without_times
from safetensors.torch import load_file
from tiny import Images, Sentences, arguments, tiny_bert, tiny_timm
from transformers import Trainer, TrainerCallback

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.timm_models import wrap_timm_model

ZERO = DiversityConfig(diversity_weight=0.0)
ACTIVE = DiversityConfig(diversity_weight=0.5, activation_weight=0.01, layers=["bert.encoder.layer.*"])
OURS = {"diversity_config.json", "diversity_state.json"}


class SavedMidway(TrainerCallback):
    """In the middle of training: the model, a copy and a pickle of it, and the names that its modules hold."""

    def __init__(self, folder):
        self.folder, self.attributes = folder, []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.attributes.append(attributes(model))
        self.attributes.append(attributes(copy.deepcopy(model)))
        torch.save(model, self.folder / f"model-{state.global_step}.pt")
        (self.folder / f"model-{state.global_step}.pickle").write_bytes(pickle.dumps(model))


def attributes(model):
    """Names of all that every module holds, and how many hooks there are of each kind."""
    return {
        name: [(key, len(value) if "hooks" in key else None) for key, value in sorted(vars(module).items())]
        for name, module in model.named_modules()
    }


def run(cls, folder, model, data, **kwargs):
    """Train with a checkpoint in the middle, in a folder of the same name each time: it stands in the files."""
    folder.mkdir()
    saved = SavedMidway(folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        args = arguments("out", save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
                         optim="adamw_torch")  # fmt: skip
        trainer = cls(
            model=model, args=args, train_dataset=data, eval_dataset=data, callbacks=[saved], **kwargs
        )  # fmt: skip
        trainer.train()
        trainer.save_model("out/final")
    finally:
        os.chdir(before)
    return saved.attributes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    kept = {
        "plain": run(Trainer, folder / "plain", tiny_bert(dropout=0.1), Sentences()),
        "zero": run(DiversityTrainer, folder / "zero", tiny_bert(dropout=0.1), Sentences(), diversity=ZERO),
        "active": run(DiversityTrainer, folder / "active", tiny_bert(dropout=0.1), Sentences(), diversity=ACTIVE),
    }
    run(DiversityTrainer, folder / "timm", tiny_timm("test_resnet"), Images(), diversity=DiversityConfig(gamma=1.0))
    return folder, kept


def files(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def content(path):
    """The bytes of a file; of an archive those of its members, of a state the records without times."""
    if path.suffix == ".json":
        state = json.loads(path.read_bytes())
        if "log_history" in state:
            state["log_history"] = [without_times(record) for record in state["log_history"]]
        return state
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return path.read_bytes()


def test_with_weights_zero_every_file_is_that_of_trainer_byte_for_byte(runs):
    folder, kept = runs
    plain, zero = files(folder / "plain"), files(folder / "zero")
    assert plain.keys() == zero.keys()
    assert {"out/checkpoint-2/model.safetensors", "out/checkpoint-4/optimizer.pt", "model-1.pt"} <= plain.keys()
    for name in plain:
        if not name.endswith(".pickle"):  # pickles of tensors hold their addresses
            assert content(plain[name]) == content(zero[name]), name
    assert kept["plain"] == kept["zero"]


def test_with_a_weight_only_two_files_are_added_and_only_numbers_differ(runs):
    folder, kept = runs
    plain, active = files(folder / "plain"), files(folder / "active")
    added = active.keys() - plain.keys()
    assert not plain.keys() - active.keys()
    assert added == {f"out/{where}/{name}" for where in ("checkpoint-2", "checkpoint-4", "final") for name in OURS}
    for name in plain:
        kind = name.rpartition("/")[2]
        if kind in ("config.json", "training_args.bin", "scheduler.pt", "rng_state.pth"):
            assert content(plain[name]) == content(active[name]), name
        elif kind == "model.safetensors":
            tensors = [load_file(path) for path in (plain[name], active[name])]
            assert shapes(tensors[0]) == shapes(tensors[1])
            assert any(not torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])
        elif kind == "optimizer.pt":
            assert shapes(*load(plain[name])) == shapes(*load(active[name]))
        elif kind == "trainer_state.json":
            assert content(plain[name]).keys() == content(active[name]).keys()
    assert kept["plain"] == kept["active"]


def load(path):
    state = torch.load(path, weights_only=True)
    return {f"{i}.{key}": value for i, parts in state["state"].items() for key, value in parts.items()}, state[
        "param_groups"
    ]


def shapes(tensors, *more):
    return {key: (value.shape, value.dtype) for key, value in tensors.items()}, more


READS_ALL = """
import pathlib, pickle, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_diversity":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

def outputs(model):
    values = torch.arange(1, 7)[None] if "Bert" in type(model).__name__ else torch.ones(1, 1, 32, 32)
    return model.eval()(values).logits

root = pathlib.Path(sys.argv[1])
for run, auto in (("active", AutoModelForSequenceClassification), ("timm", AutoModelForImageClassification)):
    for step in (2, 4):
        model = auto.from_pretrained(root / run / "out" / f"checkpoint-{step}")
        whole = torch.load(root / run / f"model-{step}.pt", weights_only=False)
        pickled = pickle.loads((root / run / f"model-{step}.pickle").read_bytes())
        assert torch.equal(outputs(model), outputs(whole)) and torch.equal(outputs(model), outputs(pickled))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in whole.modules())
    for path in sorted((root / run / "out").rglob("*")):
        if path.suffix in (".bin", ".pt", ".pth"):
            loaded = torch.load(path, weights_only=False)
    assert torch.load(root / run / "out" / "final" / "training_args.bin", weights_only=False).learning_rate == 0.1
assert not any(name.partition(".")[0] == "hf_diversity" for name in sys.modules)
try:
    import hf_diversity
except ModuleNotFoundError:
    print("all read without it")
"""


def test_everything_loads_where_this_package_is_not_installed(runs):
    folder, _ = runs
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READS_ALL, str(folder)], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "all read without it", done.stderr[-3000:]


def test_no_file_but_the_two_names_this_package(runs):
    folder, _ = runs
    for name, path in {**files(folder / "active"), **files(folder / "timm")}.items():
        if path.name not in OURS:
            held = content(path)
            for part in held.values() if isinstance(held, dict) and path.suffix != ".json" else [path.read_bytes()]:
                assert b"hf_diversity" not in part and b"diversity_weight" not in part, name


def test_a_trainer_changes_neither_the_arguments_nor_the_model_it_is_given(tmp_path):
    args, model = arguments(tmp_path), tiny_bert()
    plain_args, plain_model = arguments(tmp_path), tiny_bert()
    Trainer(model=plain_model, args=plain_args, train_dataset=Sentences())
    DiversityTrainer(model=model, args=args, train_dataset=Sentences(), diversity=ACTIVE)
    assert args.to_dict() == plain_args.to_dict() and vars(args).keys() == vars(plain_args).keys()
    assert attributes(model) == attributes(plain_model)
    assert model.config.to_dict() == plain_model.config.to_dict()


def test_a_raw_timm_model_is_saved_as_its_wrapper_would_be_by_trainer(tmp_path):
    raw = DiversityTrainer(model=tiny_timm("test_resnet"), args=arguments(tmp_path / "raw"), diversity=ZERO)
    wrapped = Trainer(model=wrap_timm_model(tiny_timm("test_resnet")), args=arguments(tmp_path / "wrapped"))
    raw.save_model()
    wrapped.save_model()
    first, second = files(tmp_path / "raw"), files(tmp_path / "wrapped")
    assert first.keys() == second.keys() and "model.safetensors" in first
    for name in first.keys() - {"training_args.bin"}:  # which holds the folder
        assert content(first[name]) == content(second[name]), name
