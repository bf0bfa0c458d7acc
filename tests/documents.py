"""What the Markdown pages of the repository show and ask to be typed: fenced and indented blocks, and commands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
NOT_TRACKED = {"outputs", "build", "dist"}  # by .gitignore
# What commands within sentences begin with
PROGRAMS = ("accelerate", "git", "hf", "hf-diversity", "make", "pip", "pytest", "python", "ruff", "source")
PROGRAMS += (".venv/bin/python",)
# Commands of which a sentence gives the beginning, and an end
ENDS = {
    "hf-diversity layers": "resnet18",
    "hf-diversity probe": "outputs/demo/diversity-0 --dataset embedded --out outputs/probe",
    "accelerate launch": "recipes/image_classification.py --config recipes/configs/demo.yaml",
    "hf-diversity push": "outputs/run me/model --dry-run",
    "python recipes/study.py report": "outputs/study/fashion_mnist_1k_cnn",
    "accelerate launch --quiet": "recipes/image_classification.py --config recipes/configs/demo.yaml",
    "python recipes/study.py run --config ...": "recipes/configs/study/movie_minilm.yaml",
    "accelerate launch --config_file recipes/accelerate/cpu_2.yaml recipes/study.py run --config ...": (
        "recipes/configs/study/movie_minilm.yaml"
    ),
}


@dataclass(frozen=True)
class Block:
    """A block of code: its page, relative to the root; the line of its first word; its language, "" for none."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command to type."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self):
        return f"{self.page}:{self.line} {shlex.join(self.words)}"


def pages():
    """Every page, by its name relative to the root."""
    tops = [path for path in ROOT.iterdir() if path.name not in NOT_TRACKED and not path.name.startswith(".")]
    found = [path for top in tops for path in ([top] if top.suffix == ".md" else top.rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def _tokens(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    if text.startswith("---\n"):  # metadata, which are no Markdown; as many lines as before
        head, body = text[4:].split("---\n", 1)
        text = "\n" * (head.count("\n") + 2) + body
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(*languages):
    """Every block of code of every page, or those of some languages."""
    found = []
    for page in pages():
        for token in _tokens(page):
            if token.type in ("fence", "code_block"):
                words = token.info.split()
                first = token.map[0] + (2 if token.type == "fence" else 1)
                found.append(Block(page, first, words[0] if words else "", token.content))
    return [block for block in found if not languages or block.language in languages]


def inline_code():
    """Page, line and text of all code within sentences and tables."""
    found, line = [], 0
    for page in pages():
        for token in _tokens(page):
            line = token.map[0] + 1 if token.map else line
            codes = [child.content for child in token.children or () if child.type == "code_inline"]
            found += [(page, line, code) for code in codes]
    return found


def block_commands():
    """Every command of every block that is to be typed in a shell, without comments."""
    found = []
    for block in blocks("bash"):
        for number, line in enumerate(block.text.splitlines()):
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append(Command(block.page, block.line + number, tuple(words[:end])))
                words = words[end + 1 :]
    return found


def inline_commands():
    """Every command within sentences and tables: what begins with a program and has an argument."""
    found = []
    for page, line, code in inline_code():
        if code.split(" ")[0] in PROGRAMS and " " in code:
            found.append(Command(page, line, tuple(shlex.split(code))))
    return found


def whole(command):
    """The words of a command, with its end where a sentence gives the beginning."""
    typed = shlex.join(command.words)
    return tuple(shlex.split(f"{typed.removesuffix(' ...')} {ENDS.get(typed, '')}"))


def commands():
    """The words of every command of every page, each once."""
    return sorted({command.words for command in block_commands()} | {whole(command) for command in inline_commands()})
