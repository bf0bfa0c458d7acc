"""`hf-diversity push`, and what may leave: chosen files, no secret, no local path or name."""

import json
import os
import re
import socket
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from hub_server import AwaitPush
from named_machine import HOST, USER
from safetensors.torch import save_file
from tiny import Images, arguments, tiny_timm
from transformers import AutoModelForImageClassification

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.cli import main
from hf_diversity.publishing.commit import HERE, Destination, PushError, publish
from hf_diversity.publishing.files import NAMES
from hf_diversity.timm_models import wrap_timm_model

REPO = "someone/run"
SECRET = "planted-in-the-environment"


@pytest.fixture
def run(machine, monkeypatch):
    """The folder of a finished run, with files that are to leave, and more that are not; a secret is around."""
    monkeypatch.setenv("SERVICE_API_KEY", SECRET)
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


def test_json_stays_json_and_labels_stay(hub, run, machine):
    (run / "results.json").write_text(json.dumps({"said": f'in "{machine}/a b/c", \\n or \\u', "n": [1.5, None]}))
    config = json.loads((run / "config.json").read_text())
    config["id2label"] = {"0": "/home/one", "1": "/home/two"}
    (run / "config.json").write_text(json.dumps(config))
    assert main(["push", str(run), REPO]) == 0
    files = hub.repositories[REPO].files()
    assert json.loads(files["results.json"]) == {"said": 'in "c", \\n or \\u', "n": [1.5, None]}
    assert json.loads(files["config.json"])["id2label"] == config["id2label"]


def test_texts_in_utf_16_are_cleaned_too(hub, run, machine):
    (run / "report.md").write_bytes(f"of {machine}/x\r\n".encode("utf-16"))
    assert main(["push", str(run), REPO]) == 0
    assert hub.repositories[REPO].files()["report.md"].decode("utf-16") == "of x\r\n"
    (run / "report.md").write_bytes(f"of {SECRET}".encode("utf-16"))
    assert main(["push", str(run), REPO]) == 1


def test_data_stay_unless_they_are_named(hub, run, capsys):
    (run / "data").mkdir()
    for name in ("data/cat.png", "data/people.csv", "people.json", "page.html", "notes.txt"):
        (run / name).write_text("data")
    (run / "eval_results.json").write_text("{}")
    (run / ".eval_results").mkdir()
    (run / ".eval_results" / "bench.yaml").write_text("[]")
    (run / ".eval_results" / "other.txt").write_text("stays")
    (run / "README.md").write_text("![](drawn/curve.png)")
    (run / "drawn").mkdir()
    (run / "drawn" / "curve.png").write_text("a figure")
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    assert "people.csv  (its name or folder is that of no model, card, figure or result" in capsys.readouterr().out
    assert main(["push", str(run), REPO]) == 0
    also = {"eval_results.json", "drawn/curve.png", ".eval_results/bench.yaml"}
    assert hub.repositories[REPO].files().keys() == LEAVES | also
    assert main(["push", str(run), REPO, "--include", "data/*.csv", "--include", "train.log"]) == 0
    assert hub.repositories[REPO].files().keys() == LEAVES | also | {"data/people.csv", "train.log"}
    assert main(["push", str(run), REPO, "--include", "*"]) == 0
    left = {"training_args.bin", "optimizer.pt", ".env", "_notes.md", "link.md"}
    assert not left & hub.repositories[REPO].files().keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"", "save the model again"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{", "save the model again"),
    ],
)
def test_what_is_no_whole_safetensors_file_is_refused(hub, run, capsys, content, message):
    (run / "model.safetensors").write_bytes(content)
    assert main(["push", str(run), REPO]) == 1
    error = capsys.readouterr().err
    assert "no whole safetensors file" in error and message in error and REPO not in hub.repositories


@pytest.mark.parametrize(("note", "message"), [(SECRET, "SERVICE_API_KEY"), ("/home/me/base", "local path")])
def test_metadata_of_weights_are_searched(hub, run, capsys, note, message):
    save_file({"w": torch.zeros(2)}, run / "model.safetensors", metadata={"note": note})
    assert main(["push", str(run), REPO]) == 1
    assert message in capsys.readouterr().err and REPO not in hub.repositories


def test_yaml_stays_yaml(hub, run):
    original = {"a": "/home/me/x: y", "b": "/home/me/123", "c": "/home/me/true", "d": "/home/me", "e": "plain"}
    (run / "run_config.yaml").write_text(yaml.safe_dump(original))
    (run / "my_config.yaml").write_text("# a comment\nmodel: /home/me/base\n")
    (run / "README.md").write_text("---\nbase_model: '/home/me/x: y'\nname: '/home/me/12'\n---\n\n# /home/me/z\n")
    assert main(["push", str(run), REPO]) == 0
    files = hub.repositories[REPO].files()
    assert yaml.safe_load(files["run_config.yaml"]) == {"a": "x: y", "b": "123", "c": "true", "d": "~", "e": "plain"}
    assert files["my_config.yaml"] == b"# a comment\nmodel: base\n"
    _, head, body = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head)["name"] == "12" and body == "\n# z\n"


def test_tokenizers_are_left_as_they_are_but_for_their_places(hub, run):
    config = {"name_or_path": "/home/me/base", "eos_token": "/home/x/tok", "pad_token": "[PADDING]"}
    (run / "tokenizer_config.json").write_text(json.dumps(config))
    assert main(["push", str(run), REPO]) == 0
    pushed = json.loads(hub.repositories[REPO].files()["tokenizer_config.json"])
    assert pushed == {**config, "name_or_path": "base"}


@pytest.mark.parametrize("name", ["dict.txt", "vocab-src.json", "bpe.codes", "a.tiktoken", "chat_template.jinja"])
def test_words_of_a_tokenizer_are_no_paths(hub, run, name):
    (run / name).write_text('{"/home/word": 12}')
    assert main(["push", str(run), REPO]) == 0
    assert hub.repositories[REPO].files()[name] == b'{"/home/word": 12}'


def test_tokens_of_a_processor_are_no_secrets(hub, run):
    tokens = {"image_break_token": "[IMG_BREAK]", "tile_global_token": "TILE_GLOBAL", "split_token": "a split 1"}
    (run / "processor_config.json").write_text(json.dumps(tokens))
    elsewhere = {"api_key_env": "MY_API_KEY_1", "password": "{{ password }}", "two_pass": "butter2x"}
    (run / "my_config.json").write_text(json.dumps(elsewhere))
    assert main(["push", str(run), REPO]) == 0


def test_every_file_of_a_tokenizer_is_published():
    """Of all that transformers has, by its source: most need libraries of their own to be imported."""
    found = set()
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for table in re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", path.read_text(encoding="utf-8"), re.DOTALL):
            found |= set(re.findall(r":\s*\"([^\"]+)\"", table))
    assert {"vocab.txt", "spiece.model", "bpe.codes", "source.spm"} <= found
    assert [name for name in found if not any(fnmatch(name, pattern) for pattern in NAMES)] == []


def test_folders_that_are_no_part_of_the_model_stay(hub, run):
    for name in ("other/model.safetensors", "other/config.json", "data/README.md", "data/train_config.json",
                 "data/1.png", "query_0_Static/model.safetensors", "1_Pooling/config.json",
                 "lora/adapter_model.safetensors", "lora/adapter_config.json",
                 "additional_chat_templates/tool.jinja"):  # fmt: skip
        (run / name).parent.mkdir(exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({"w": torch.zeros(2)}, run / name)
        else:
            (run / name).write_text("{}")
    (run / "01_raw").mkdir()
    (run / "01_raw" / "cat.png").write_text("data")
    (run / "README.md").write_text("![](1.png)")  # of the root
    assert main(["push", str(run), REPO]) == 0
    adapter = {"lora/adapter_model.safetensors", "lora/adapter_config.json", "additional_chat_templates/tool.jinja"}
    assert hub.repositories[REPO].files().keys() == LEAVES | adapter
    (run / "modules.json").write_text("[]")
    assert main(["push", str(run), REPO]) == 0
    modules = {"query_0_Static/model.safetensors", "1_Pooling/config.json", "modules.json"}
    assert hub.repositories[REPO].files().keys() == LEAVES | adapter | modules


def test_modules_in_folders_of_their_own_are_a_model(hub, run):
    (run / "query_0_Static").mkdir()
    (run / "model.safetensors").rename(run / "query_0_Static" / "model.safetensors")
    assert main(["push", str(run), REPO]) == 1
    (run / "modules.json").write_text("[]")
    assert main(["push", str(run), REPO]) == 0
    assert "query_0_Static/model.safetensors" in hub.repositories[REPO].files()


def test_links_of_weights_are_refused_and_others_stay(hub, run, capsys):
    os.symlink("/nowhere", run / "broken.md")
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    (run / "model.safetensors").rename(run.parent / "blob")
    os.symlink(run.parent / "blob", run / "model.safetensors")
    assert main(["push", str(run), REPO]) == 1
    assert "cp -rL" in capsys.readouterr().err and REPO not in hub.repositories


def test_a_shard_is_never_left_out_by_its_name(hub, run, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "00002")
    (run / "model.safetensors").rename(run / "model-00002-of-00007.safetensors")
    assert main(["push", str(run), REPO]) == 0
    assert "model-00002-of-00007.safetensors" in hub.repositories[REPO].files()


def test_drawings_and_included_texts_are_cleaned(hub, run, machine):
    (run / "gap.svg").write_text(f"<svg><title>{machine}/x</title></svg>")
    (run / "train.log").write_text(f"in {machine}/y")
    assert main(["push", str(run), REPO, "--include", "*.log"]) == 0
    files = hub.repositories[REPO].files()
    assert files["gap.svg"] == b"<svg><title>x</title></svg>" and files["train.log"] == b"in y"


def test_a_value_under_the_name_of_a_secret_stops_the_push(hub, run, capsys):
    (run / "my_config.json").write_text('{"wandb": {"api_key": "s3cret-unknown"}}')
    assert main(["push", str(run), REPO]) == 1
    error = capsys.readouterr().err
    assert "'api_key'" in error and "s3cret-unknown" not in error and REPO not in hub.repositories


def test_the_card_names_the_repository(hub, run, capsys):
    (run / "README.md").write_text(f"---\nlicense: mit\n---\nfolder = {HERE}\n")
    assert main(["push", str(run), REPO, "--message", "Say so"]) == 0
    repository = hub.repositories[REPO]
    assert (
        repository.files()["README.md"].decode().endswith(f'folder = "{REPO}"\n') and repository.titles[-1] == "Say so"
    )
    assert "note" not in capsys.readouterr().out
    (run / "README.md").write_text("no metadata")
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    assert "names no licence" in capsys.readouterr().out
    (run / "README.md").unlink()
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    assert "will have no card" in capsys.readouterr().out


def test_a_folder_outside_of_the_repository_is_refused(hub, run, capsys):
    assert main(["push", str(run), REPO, "--path-in-repo", "../x", "--dry-run"]) == 1
    assert "must be a folder in the repository" in capsys.readouterr().err


def test_names_of_files_are_searched(hub, run, capsys):
    (run / f"results-{HOST}.json").write_text("{}")
    assert main(["push", str(run), REPO, "--dry-run"]) == 0
    assert "its name holds that of the user or the machine" in capsys.readouterr().out
    (run / f"results-{SECRET}.json").write_text("{}")
    assert main(["push", str(run), REPO, "--dry-run"]) == 1


def test_a_trainer_says_what_it_does_not_publish(hub, tmp_path, caplog):
    trainer = DiversityTrainer(
        model=wrap_timm_model(tiny_timm("test_resnet")), args=arguments(tmp_path, hub_model_id=REPO),
        train_dataset=Images(8), diversity=DiversityConfig(),
    )  # fmt: skip
    (tmp_path / "people.csv").write_text("data")
    trainer.push_to_hub()
    assert "not published: people.csv" in caplog.text and "--include" in caplog.text
    assert "people.csv" not in hub.repositories[REPO].files()


def test_nothing_that_reaches_the_server_tells_of_the_machine(hub, machine, monkeypatch):
    """Each strategy's files, from a run whose base model, arguments, logs and card hold paths, names and the token."""
    monkeypatch.setenv("SERVICE_API_KEY", SECRET)
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
