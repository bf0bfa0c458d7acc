"""`hf-diversity push`, and what may leave: chosen files, no secret, no local path or name."""

import json
import os
import socket

import pytest
import torch
from hub_server import AwaitPush
from tiny import Images, arguments, tiny_timm
from transformers import AutoModelForImageClassification

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.cli import main
from hf_diversity.publishing.cleaning import LocalNames, find_secret, known_secrets
from hf_diversity.publishing.commit import Destination, PushError, publish
from hf_diversity.timm_models import wrap_timm_model

REPO = "someone/run"
SECRET = "planted-in-the-environment"
HOST, USER = "node-17.cluster", "quillon7"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A home, a user and a machine with names to look for, and a secret in the environment; gives the home."""
    home = tmp_path / "home" / USER
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", USER)
    monkeypatch.setenv("SERVICE_API_KEY", SECRET)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    return home


@pytest.fixture
def run(machine):
    """The folder of a finished run, with files that are to leave, and more that are not."""
    folder = machine / "my run"
    wrap_timm_model(tiny_timm("test_resnet")).save_pretrained(folder)
    DiversityConfig().to_json_file(str(folder / "diversity_config.json"))
    (folder / "README.md").write_text(f"---\ntags: [hf_diversity]\n---\nFrom {machine}/models/base, on {HOST}.\n")
    (folder / "results.json").write_text(
        json.dumps({"accuracy": 0.5, "model": f"{folder}/checkpoint-2", "user": USER})
    )
    (folder / "figures").mkdir()
    (folder / "figures" / "gap.png").write_bytes(b"\x89PNG\r\n")
    for name in ("training_args.bin", "optimizer.pt", ".env", "_notes.md", "train.log", "script.py", "data.parquet"):
        (folder / name).write_text("stays")
    for name in ("checkpoint-2", "runs", "wandb", "_incomplete", ".git"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    os.symlink("/etc/hostname", folder / "link.md")
    return folder


LEAVES = {
    "README.md", "config.json", "diversity_config.json", "figures/gap.png", "model.safetensors", "results.json"
}  # fmt: skip


def test_dry_run_lists_what_would_leave_and_sends_nothing(hub, run, capsys):
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    leaves = {line.split("B  ", 1)[1].split("  (")[0]: line for line in lines if "B  " in line}
    assert leaves.keys() == LEAVES and hub.requests == []
    size = (run / "config.json").stat().st_size
    assert f"{size} B" in leaves["config.json"] or f"{size / 1000:.1f} kB" in leaves["config.json"]
    assert "2 local paths or names taken out" in leaves["results.json"]
    stays = {line.split()[1]: line for line in lines if line.strip().startswith("stays")}
    assert {"training_args.bin", "optimizer.pt", ".env", "runs/", "link.md", "checkpoint-2/"} <= stays.keys()
    assert "pickle" in stays["training_args.bin"]


def test_push_is_one_private_commit_and_the_second_is_none(hub, run, capsys):
    assert main(["push", str(run), REPO, "--private"]) == 0
    repository = hub.repositories[REPO]
    assert repository.private and len(repository.titles) == 2 and repository.files().keys() == LEAVES
    assert f"{REPO}/commit/" in capsys.readouterr().out
    loaded = AutoModelForImageClassification.from_pretrained(REPO)
    before = tiny_timm("test_resnet").state_dict()
    assert all(torch.equal(value, before[name.removeprefix("timm_model.")]) for name, value in
               loaded.timm_model.state_dict().items())  # fmt: skip
    assert main(["push", str(run), REPO]) == 0
    assert "Nothing has changed" in capsys.readouterr().out and len(repository.titles) == 2
    (run / "results.json").write_text("{}")
    assert main(["push", str(run), REPO]) == 0
    assert len(repository.titles) == 3 and repository.files()["results.json"] == b"{}"


def test_push_to_a_branch_and_as_a_pull_request(hub, run, capsys):
    assert main(["push", str(run), REPO, "--revision", "trial"]) == 0
    assert main(["push", str(run), REPO, "--create-pr"]) == 0
    repository = hub.repositories[REPO]
    assert repository.files() == {} and repository.files("trial").keys() == LEAVES
    assert repository.files("refs/pr/1").keys() == LEAVES and "discussions/1" in capsys.readouterr().out
    assert main(["push", str(run), REPO, "--create-pr", "--revision", "trial"]) == 1
    assert "leave out one of the two" in capsys.readouterr().err


def test_push_says_what_to_type_when_it_fails(hub, run, capsys):
    hub.stop()
    assert main(["push", str(run), REPO, "--private"]) == 1
    error = capsys.readouterr().err
    assert "was not reached" in error and f"hf-diversity push '{run}' {REPO} --private" in error
    hub.start()
    assert main(["push", str(run.parent), REPO]) == 1
    assert f"did you mean {run}?" in capsys.readouterr().err
    assert main(["push", str(run / "none"), REPO]) == 1
    assert "no such folder" in capsys.readouterr().err and REPO not in hub.repositories


def test_a_lost_answer_is_made_good_by_the_same_command(hub, run):
    hub.fail("POST .*/commit/", "lost")
    with pytest.raises(PushError):
        publish(run, Destination(REPO))
    assert not publish(run, Destination(REPO)).changed and hub.repositories[REPO].files().keys() == LEAVES


@pytest.mark.parametrize("secret", [SECRET, "hf_loopbackwrite", "hf_" + "aB3" * 12])
@pytest.mark.parametrize("file", ["README.md", "tokenizer.json", "figures/gap.png"])
def test_a_secret_in_a_file_stops_the_push_and_is_not_repeated(hub, run, capsys, secret, file):
    (run / file).write_text(f'{{"key": "{secret}"}}')
    assert main(["push", str(run), REPO]) == 1
    error = capsys.readouterr().err
    assert file in error and secret not in error and REPO not in hub.repositories


def test_names_and_paths_are_taken_out_and_words_are_not(machine):
    names = LocalNames(machine / "my run", keep="someone")
    kept = "direct, 17 nodes: https://example.org/home/page, /ratio/a, a/tmp/b, node-170, hf.co/someone/run"
    assert names.remove(kept) == (kept, 0)
    for text, expected in (
        (f'"{machine}/my run/checkpoint-2"', '"checkpoint-2"'),
        (f"in {machine}/a/b.json, at", "in b.json, at"),
        ("(/home/else/model)", "(model)"),
        (r'"C:\\Users\\me\\run"', '"run"'),
        ("[](https://huggingface.co//home/else/model)", "[](https://huggingface.co/model)"),
        (f"{USER}@{HOST}", "user@host"),
        (f"on {HOST.split('.')[0]}", "on host"),
    ):
        assert names.remove(text)[0] == expected


def test_settings_are_no_secrets(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("HF_TOKEN_PATH", "/somewhere/token")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    secrets = known_secrets("hf_given_token")
    assert find_secret(b"false /somewhere/token", secrets) is None
    assert "WANDB_API_KEY" in find_secret(b"...0123456789abcdef...", secrets)
    assert find_secret(b"hf_given_token", secrets) is not None


def test_nothing_that_reaches_the_server_tells_of_the_machine(hub, machine, monkeypatch):
    """Each strategy's files, from a run whose base model, arguments, logs and card hold paths, names and the token."""
    pytest.importorskip("tensorboard")
    base, output = machine / "models" / "base", machine / "work" / "run"
    wrap_timm_model(tiny_timm("test_resnet")).save_pretrained(base)
    model = AutoModelForImageClassification.from_pretrained(base)
    settings = {
        "push_to_hub": True, "hub_model_id": REPO, "hub_token": "hf_loopbackwrite", "hub_strategy": "all_checkpoints",
        "save_steps": 2, "save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "report_to": "tensorboard", "run_name": str(output),
    }  # fmt: skip
    wait = AwaitPush()
    wait.trainer = trainer = DiversityTrainer(
        model=model, args=arguments(output, **settings), train_dataset=Images(), eval_dataset=Images(8),
        callbacks=[wait], diversity=DiversityConfig(),
    )  # fmt: skip
    trainer.train()
    trainer.push_to_hub(finetuned_from=str(base), dataset=str(machine / "data"))
    local = b"".join(path.read_bytes() for path in output.rglob("*") if path.is_file())
    folders = str(machine.parent)  # without the user's name, which is taken out by itself
    planted = [folders, USER, HOST, SECRET, "hf_loopbackwrite"]
    assert folders.encode() in local and b"hf_loopbackwrite" not in local
    received = hub.everything_received()
    received += b"".join(hub.objects.values())
    for content in (commit[path].content for commit in hub.repositories[REPO].commits.values() for path in commit):
        received += content
    assert b"diversity_weight" in received and b"best_model_checkpoint" in received
    assert [text for text in planted if text.encode() in received] == []
    assert not any(name.endswith((".bin", ".0")) for name in hub.repositories[REPO].files())
