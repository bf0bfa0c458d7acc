"""Every snippet and command of every Markdown page: run, or, where it takes long, shown to start."""

import contextlib
import importlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import study
import yaml
from commands import check
from common.arguments import parse_arguments, parse_values
from documents import (
    ENDS,
    NOT_TRACKED,
    ROOT,
    block_commands,
    blocks,
    commands,
    inline_code,
    inline_commands,
    pages,
)
from image_classification import TYPES, run
from tiny import Images, arguments, tiny_timm

from hf_diversity import citations, cli
from hf_diversity.data import load_embedded

pytest.importorskip("matplotlib").use("Agg")
LANGUAGES = {"python", "bash", "diff", "bibtex", "yaml", "text"}
# Blocks in no language, by the beginning of their text
NOT_CODE = {"s_nm = (1/N) sum_i": "a formula"}
# What makes a command that is run short
SHORT = {"probe": ["--max-examples", "60"]}
SMALL = "--max_steps 20 --save_strategy steps --save_steps 20 --max_train_samples 64 --max_validation_samples 40 "
SMALL += "--max_test_samples 50 --per_device_train_batch_size 16 --eval_strategy no --disable_tqdm true --use_cpu true"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository with outputs of its own: runs of recipes/configs/demo.yaml, short, and the finished studies."""
    root = tmp_path_factory.mktemp("checkout")
    for entry in ROOT.iterdir():
        if entry.name not in NOT_TRACKED and not entry.name.startswith("."):
            (root / entry.name).symlink_to(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        line = f"--config recipes/configs/demo.yaml {SMALL} --output_dir outputs/demo/diversity-0"
        run(*parse_arguments(TYPES, line.split()))
    load_embedded()["test"][0]["image"].save(root / "outputs/demo/diversity-0/picture.png")
    shutil.copytree(root / "outputs/demo/diversity-0", root / "outputs/run")
    shutil.copytree(ROOT / "recipes/results", root / "outputs/study")
    return root


@pytest.fixture
def here(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    return checkout


def test_there_are_pages_with_blocks_and_commands():
    assert {"README.md", "docs/theory.md", "recipes/README.md", "benchmarks/README.md"} <= set(pages())
    assert {block.language for block in blocks()} == LANGUAGES | {""}
    assert len(block_commands()) > 50 and len(inline_commands()) > 10


# ---- Python


def names_of_a_trainer(folder):
    """What the first lines of a page take for granted."""
    return {
        "model": tiny_timm(), "args": arguments(folder / "outputs" / "page"), "train": Images(),
        "validation": Images(8, seed=1),
    }  # fmt: skip


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}))
def test_python_runs(page, here, monkeypatch):
    """The blocks of a page one after another; a block of text after one is what it prints."""
    if page == "docs/other_trainers.md":
        pytest.importorskip("sentence_transformers.sentence_transformer", reason="older ones have other modules")
    if page.startswith("model_cards/"):
        monkeypatch.chdir("outputs/demo/diversity-0")  # a card lies in the run's folder
    names = names_of_a_trainer(here) if page == "README.md" else {}
    printed = ""
    for block in blocks("python", "text"):
        if block.page == page and block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
            printed = out.getvalue()
        elif block.page == page:
            assert printed == block.text, block


def test_text_follows_python():
    """So that it is compared."""
    order = [(block.page, block.language) for block in blocks()]
    for place, (page, language) in enumerate(order):
        assert language != "text" or order[place - 1] == (page, "python")


@pytest.mark.parametrize("block", blocks("diff"), ids=str)
def test_both_sides_of_a_difference_run(block, here):
    for other in "+-":
        lines = [line[1:] for line in block.text.splitlines() if not line.startswith(other)]
        names = names_of_a_trainer(here)
        exec(compile("\n".join(lines), str(block), "exec"), names)
        assert type(names["trainer"]).__name__ == {"+": "Trainer", "-": "DiversityTrainer"}[other]


@pytest.mark.parametrize(("page", "line", "code"), [c for c in inline_code() if c[2].startswith("hf_diversity.")])
def test_names_within_sentences_exist(page, line, code):
    parts = re.match(r"[\w.]+", code).group().split(".")
    found = importlib.import_module(parts[0])
    for place, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:place]))
        found = getattr(found, part)


# ---- the shell


def push(words, hub):
    """To the Hub on this machine."""
    hub.users = {token: ("me", right) for token, (_, right) in hub.users.items()}
    assert cli.main(words) == 0
    assert ("me/model" in hub.repositories) == ("--dry-run" not in words)


def report(words):
    """What is in the repository is what the command writes from the results beside it."""
    study.main(words)
    written = Path(words[1], "report.md").read_text(encoding="utf-8")
    kept = (ROOT / "recipes" / "results" / Path(words[1]).name / "report.md").read_text(encoding="utf-8")
    libraries = re.compile("^Statistics: .*$", re.MULTILINE)
    if libraries.search(written)[0] == libraries.search(kept)[0]:
        assert written == kept
    else:  # others draw other bootstrap samples
        assert re.findall("^#.*|^[|] [a-z, -]+ [|]", written, re.M) == re.findall(
            "^#.*|^[|] [a-z, -]+ [|]", kept, re.M
        )


def start(words, request):
    """Run what is short; the rest would start."""
    match words:
        case "hf-diversity", "push", *_:
            push(words[1:], request.getfixturevalue("hub"))
        case "hf-diversity", name, *_:
            assert cli.main([*words[1:], *SHORT.get(name, [])]) == 0
        case "python", "recipes/study.py", "report", *_:
            report(words[2:])
        case "python", "recipes/study.py", "status", *_:
            study.main(words[2:])
        case _:
            check(words, request.getfixturevalue("monkeypatch"))


@pytest.mark.parametrize("command", block_commands(), ids=str)
def test_commands_start(command, here, request):
    start(command.words, request)


@pytest.mark.parametrize("words", sorted(set(commands()) - {c.words for c in block_commands()}))
def test_commands_within_sentences_start(words, here, request):
    start(words, request)


def test_folders_that_are_compared_are_written_by_commands_before():
    """Up to the seed at their ends."""
    written = {}
    for command in block_commands():
        folders = written.setdefault(command.page, set())
        if "recipes/compare.py" in command.words:
            assert {re.sub(r"-\d+$", "", word) for word in command.words[2:]} <= folders, command
        elif "--output_dir" in command.words:
            folders.add(re.sub(r"-\d+$", "", command.words[command.words.index("--output_dir") + 1]))


# ---- other languages


@pytest.mark.parametrize("block", blocks("bibtex"), ids=str)
def test_citations_are_the_packages(block):
    assert block.text.strip() in vars(citations).values()


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_understood_by_the_recipe(block):
    parse_values(TYPES, yaml.safe_load(block.text), str(block))


def test_nothing_is_left_out():
    """Each block is of a language above, or named as no code; and what is named is there."""
    strange = {block: next((text for text in NOT_CODE if block.text.startswith(text)), None)
               for block in blocks() if block.language not in LANGUAGES}  # fmt: skip
    assert None not in strange.values(), f"no test for {[str(b) for b, known in strange.items() if known is None]}"
    assert set(strange.values()) == set(NOT_CODE)
    typed = [*block_commands(), *inline_commands()]
    assert {shlex.join(command.words) for command in typed} >= set(ENDS)
    assert {command.words[1] for command in typed if command.words[0] == "hf-diversity"} >= set(SHORT)
