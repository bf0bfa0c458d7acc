"""Pushes of `DiversityTrainer` through the real client: each strategy, what lands, faults, and loading back."""

import json
import os
import re

import pytest
import timm
import torch
from hub_server import AwaitPush
from huggingface_hub import ModelCard
from tiny import Images, arguments, assert_same, tiny_timm, weights
from transformers import AutoModelForImageClassification
from transformers.trainer_utils import get_last_checkpoint

from hf_diversity import DiversityConfig, DiversityTrainer, load_run
from hf_diversity.cli import main
from hf_diversity.publishing.commit import PushError

REPO = "someone/run"
MODEL = {"config.json", "model.safetensors", "diversity_config.json"}
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "diversity_state.json"}


def make_trainer(path, diversity=None, **kwargs):
    settings = {
        "push_to_hub": True, "hub_model_id": REPO, "hub_private_repo": True, "hub_token": "hf_loopbackwrite",
        "save_strategy": "steps", "save_steps": 2, **kwargs,
    }  # fmt: skip
    callback = AwaitPush()
    trainer = DiversityTrainer(
        model=tiny_timm("test_resnet"), args=arguments(path, **settings), train_dataset=Images(), callbacks=[callback],
        diversity=diversity or DiversityConfig(),
    )  # fmt: skip
    callback.trainer = trainer
    return trainer


def trees(hub):
    """The files of each commit but the first, empty one."""
    return [set(files) for files in list(hub.repositories[REPO].commits.values())[1:]]


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("end", []),
        ("every_save", [set(), set()]),
        ("checkpoint", [{"last-checkpoint"}] * 2),
        ("all_checkpoints", [{"checkpoint-2"}, {"checkpoint-2", "checkpoint-4"}]),
    ],
)
def test_every_strategy_pushes_the_configuration_with_the_model(hub, tmp_path, strategy, folders):
    trainer = make_trainer(tmp_path, hub_strategy=strategy, hub_token=None, save_total_limit=1)
    trainer.train()
    assert hub.repositories[REPO].private
    trainer.push_to_hub()
    found = trees(hub)
    assert len(found) == (2 * len(folders) if folders and folders[0] else len(folders)) + 1
    assert all(tree >= MODEL and not any(name.endswith(".bin") for name in tree) for tree in found)
    after_each_save = [found[i] for i in range(len(found) - 1) if folders[0] == set() or i % 2 == 1]
    for tree, expected in zip(after_each_save, folders, strict=True):
        assert {name.split("/")[0] for name in tree if "/" in name} == expected
        for folder in expected:
            assert {name.split("/")[1] for name in tree if name.startswith(folder + "/")} == MODEL | STATE
    final = hub.repositories[REPO].files()
    assert "README.md" in final and json.loads(final["diversity_config.json"])["measure"] == "direct"
    assert not (tmp_path / "_outgoing").exists()
    loaded = AutoModelForImageClassification.from_pretrained(REPO)
    assert_same(weights(loaded), weights(trainer.model))
    assert_same(weights(timm.create_model(f"hf-hub:{REPO}", pretrained=True)), weights(trainer.model.timm_model))
    run = load_run(REPO)
    assert_same(weights(run.model), weights(trainer.model))
    assert run.diversity == trainer.diversity and run.processor is not None
    assert "within-layer-diversity" in ModelCard(final["README.md"].decode()).data.tags


def test_checkpoints_deleted_while_they_wait_for_their_upload_are_published_whole(hub, tmp_path):
    trainer = make_trainer(
        tmp_path, hub_strategy="all_checkpoints", hub_always_push=True, save_total_limit=1, save_steps=1, max_steps=3
    )
    trainer.callback_handler.remove_callback(AwaitPush)
    hub.fail("POST .*/commit/", "slow")
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-3"]
    files = hub.repositories[REPO].files()
    for step in (1, 2, 3):
        assert {f"checkpoint-{step}/{name}" for name in MODEL | STATE} <= files.keys()
    models = [files[f"checkpoint-{step}/model.safetensors"] for step in (1, 2, 3)]
    repository = hub.repositories[REPO]
    commits = dict(zip(repository.titles, repository.commits, strict=True))
    at_root = [
        repository.files(commits[f"Training in progress, step {step}"])["model.safetensors"] for step in (1, 2, 3)
    ]
    assert len(set(models)) == 3 and at_root == models
    assert not (tmp_path / "_outgoing").exists()


def test_training_resumes_from_a_pushed_checkpoint(hub, tmp_path):
    whole = make_trainer(tmp_path / "whole", push_to_hub=False, hub_strategy="checkpoint")
    whole.train()
    make_trainer(tmp_path / "first", hub_strategy="checkpoint", max_steps=2).train()
    files = hub.repositories[REPO].files()
    folder = tmp_path / "fetched" / "checkpoint-2"
    folder.mkdir(parents=True)
    for name in (name for name in files if name.startswith("last-checkpoint/")):
        (folder / name.split("/")[1]).write_bytes(files[name])
    resumed = make_trainer(tmp_path / "second", push_to_hub=False)
    resumed.train(resume_from_checkpoint=str(folder))
    assert resumed.state.global_step == 4
    assert_same(weights(resumed.model), weights(whole.model), rtol=0, atol=0)


def test_the_token_is_in_no_file_of_the_run_and_arguments_stay_loadable(hub, tmp_path):
    trainer = make_trainer(tmp_path, hub_strategy="checkpoint")
    trainer.train()
    trainer.push_to_hub()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "hub_cache" not in path.parts]
    assert {"training_args.bin"} <= {path.name for path in files}
    assert not [path for path in files if b"hf_loopbackwrite" in path.read_bytes()]
    saved = torch.load(tmp_path / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert saved.hub_token is None and saved.learning_rate == trainer.args.learning_rate
    assert trainer.args.hub_token == "hf_loopbackwrite"


# ---- faults


def test_a_refused_token_fails_before_training_and_says_what_to_type(hub, tmp_path):
    for token, why in (("hf_unknown1", "does not accept the token"), ("hf_loopbackread", "may not write")):
        with pytest.raises(PushError, match=why) as refused:
            make_trainer(tmp_path, hub_token=token)
        assert f"hf-diversity push {tmp_path} {REPO} --private" in str(refused.value)
        assert token not in str(refused.value)


@pytest.mark.parametrize(
    ("request_", "how", "times", "why"),
    [
        ("PUT /lfs/", "cut", 99, "connection broke"),
        ("POST .*/commit/", 500, 1, "500"),
        ("POST .*/commit/", "lost", 1, "connection broke"),
        ("POST .*/preupload/", 403, 99, "may not write"),
    ],
)
def test_a_failed_push_keeps_the_run_and_a_second_one_completes_it(hub, tmp_path, request_, how, times, why):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="no")
    trainer.train()
    hub.fail(request_, how, times)
    with pytest.raises(PushError, match=why) as failed:
        trainer.push_to_hub()
    assert f"type: hf-diversity push {tmp_path} {REPO}" in str(failed.value)
    assert MODEL <= set(os.listdir(tmp_path))
    hub.forgive()
    trainer.push_to_hub()
    repository = hub.repositories[REPO]
    assert set(repository.files()) >= MODEL | {"README.md"} and len(repository.titles) == 2
    assert repository.files()["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()


def test_one_answer_500_is_tried_again_by_the_client(hub, tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy="no")
    trainer.train()
    hub.fail("POST .*/preupload/", 500)
    trainer.push_to_hub()
    assert set(hub.repositories[REPO].files()) >= MODEL


def test_background_failures_surface_at_the_end_of_training(hub, tmp_path):
    trainer = make_trainer(tmp_path, hub_strategy="checkpoint", max_steps=2)
    hub.stop()
    with pytest.raises(PushError, match="was not reached") as failed:
        trainer.train()
    assert failed.value.train_output.global_step == 2
    hub.start()
    commands = re.findall(r"hf-diversity (push [^&\n]*)", str(failed.value))
    assert [command.split()[1] for command in commands] == [str(tmp_path), str(tmp_path / "checkpoint-2")]
    for command in commands:  # as the message says
        assert main(command.split()) == 0
    assert set(hub.repositories[REPO].files()) >= MODEL | {f"last-checkpoint/{name}" for name in MODEL | STATE}
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")


def test_a_background_failure_that_a_later_push_made_good_is_none(hub, tmp_path):
    trainer = make_trainer(tmp_path, hub_strategy="every_save")
    hub.fail("POST .*/commit/", 500)
    trainer.train()
    assert hub.repositories[REPO].titles[1:] == ["Training in progress, step 4"]
