"""Which files of a run are published, and in which form."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .local_names import LocalNames
from .secrets import find_secret

WEIGHTS = (".safetensors",)
TOKENIZERS = (".model", ".jinja", ".tiktoken")
# Others of these kinds may be data: they are published by name only
TEXTS = (".json", ".md", ".yaml", ".yml", ".csv", ".html", ".txt")
NAMES = (
    "LICENSE*", "NOTICE*", "CITATION*", "README*.md", "requirements.txt",
    "*config*.json", "*config*.y*ml", "modules.json", "*.index.json", "diversity_*.json", "trainer_state.json",
    "tokenizer.json", "vocab*.json", "added_tokens.json", "special_tokens_map.json", "normalizer.json",
    "chat_template.json", "vocab.txt", "merges.txt",
    "*results*.json", "*results*.csv", "*metrics*.json", "*metrics*.csv", "*history*.json", "*history*.csv",
    "*report*.json", "*report*.md", "*report*.html",
)  # fmt: skip
FIGURES = (".png", ".svg", ".jpg", ".jpeg", ".webp")
FIGURE_FOLDERS = ("*figure*", "*plot*", "*report*", "*probe*")
# Every character counts in these: they are published as they are, or refused
VERBATIM = {"tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "vocab.txt", "merges.txt"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
# What Trainer resumes from; it reads them with weights_only=True
TRAINER_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
EVAL_RESULTS = ".eval_results"  # the only hidden folder that is published, see `cards.eval_results`
LOCAL_FOLDERS = ("checkpoint-*", "runs", "wandb", "mlruns", "__pycache__")
BY_NAME = "its name is that of no model, card, figure or result: name it with --include"


@dataclass(frozen=True)
class OutgoingFile:
    """A file that is published.

    Attributes:
        path: its place in the repository.
        source: where it is now.
        content: what is sent in its place, without local names; None where that is the file itself.
        removed: how many local paths and names were taken out.
    """

    path: str
    source: Path
    content: bytes | None = None
    removed: int = 0

    @property
    def size(self) -> int:
        """Bytes that are sent."""
        return self.source.stat().st_size if self.content is None else len(self.content)


@dataclass(frozen=True)
class Selection:
    """The files of a folder that are published, and why the others are not (by their path in the folder)."""

    files: tuple[OutgoingFile, ...]
    left_out: dict[str, str]


def select_files(
    folder: str | os.PathLike[str],
    secrets: Mapping[str, str],
    names: LocalNames,
    path_in_repo: str = "",
    resumable: bool = False,
    include: Sequence[str] = (),
) -> Selection:
    """Choose what is published of a folder: safetensors, configurations, tokenizer, card, results and figures.

    Never published: pickles, and `training_args.bin` among them (it holds the token and local paths, and loading it
    runs code), the events of TensorBoard (named after the machine), hidden files, names that begin with `_`, links,
    and the checkpoints of the run. Other files (data, logs, scripts) are where `include` names them.

    Args:
        folder: a finished run, or one of its checkpoints.
        secrets: from `known_secrets`.
        names: takes local paths and names out of texts.
        path_in_repo: the folder in the repository.
        resumable: whether what a resumed training reads belongs to it: the optimiser, the schedule, the random state.
        include: patterns of further files, by their path in the folder.

    Raises:
        ValueError: a file that would be published holds a secret, weights are no safetensors, or their metadata hold
            local paths or names.
    """
    folder = Path(folder)
    files: list[OutgoingFile] = []
    left_out: dict[str, str] = {}
    found = list(_walk(folder, left_out))
    pages = "".join(_text(path.read_bytes())[0] for path in found if path.suffix in (".md", ".html"))
    for source in found:
        inside = source.relative_to(folder).as_posix()
        if reason := _reason_against(source, inside, pages, resumable, include):
            left_out[inside] = reason
            continue
        if names.are_in_file_name(inside):
            left_out[inside] = "its name holds that of the user or the machine"
            continue
        file = _outgoing(source, inside, path_in_repo, names)
        if secret := find_secret(inside.encode() + b"\n" + _searched(file, names), secrets):
            raise ValueError(
                f"{inside} holds {secret}, so nothing was sent: take it out of {source}, or delete the file, and push "
                "again"
            )
        files.append(file)
    return Selection(tuple(files), left_out)


def _walk(folder: Path, left_out: dict[str, str]) -> Iterator[Path]:
    """The files under `folder`, in order, but for hidden and local folders, which are noted in `left_out`."""
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.is_symlink():
            yield entry
        elif entry.name != EVAL_RESULTS and _is_local(entry):
            left_out[f"{entry.name}/"] = "stays with the run"
        else:
            inner: dict[str, str] = {}
            yield from _walk(entry, inner)
            left_out |= {f"{entry.name}/{name}": reason for name, reason in inner.items()}


def _is_local(folder: Path) -> bool:
    return folder.name.startswith(("_", ".")) or any(folder.match(pattern) for pattern in LOCAL_FOLDERS)


def _reason_against(source: Path, inside: str, pages: str, resumable: bool, include: Sequence[str]) -> str | None:
    if source.is_symlink():
        return "is a link"
    if source.name.startswith(("_", ".")):
        return "is hidden"
    if any(source.match(pattern) for pattern in TRAINER_FILES):
        return None if resumable else "is needed to resume only"
    if source.suffix in PICKLES:
        return "may be a pickle, which runs code when it is loaded"
    if inside.startswith(f"{EVAL_RESULTS}/") and source.suffix == ".yaml":
        return None
    if source.suffix in (*WEIGHTS, *TOKENIZERS) or any(fnmatch(source.name, pattern) for pattern in NAMES):
        return None
    if source.suffix in FIGURES and (
        "/" not in inside or any(fnmatch(part, p) for part in inside.split("/") for p in FIGURE_FOLDERS)
        or source.name in pages
    ):  # fmt: skip
        return None
    return None if any(fnmatch(inside, pattern) for pattern in include) else BY_NAME


def _outgoing(source: Path, inside: str, path_in_repo: str, names: LocalNames) -> OutgoingFile:
    path = f"{path_in_repo}/{inside}" if path_in_repo else inside
    if source.suffix not in TEXTS or source.name in VERBATIM:
        return OutgoingFile(path, source)
    # Also unchanged ones are kept, for the state of a run may be written again while it is uploaded
    content = source.read_bytes()
    text, encoding = _text(content)
    cleaned, removed = _cleaned(text, source.suffix, names)
    if removed:
        content = cleaned.encode(encoding, errors="surrogateescape")
    return OutgoingFile(path, source, content, removed)


def _cleaned(text: str, suffix: str, names: LocalNames) -> tuple[str, int]:
    """The text without local names, and how many there were. JSON is cleaned value by value and stays JSON."""
    if suffix == ".json":
        try:
            value, removed = names.remove_from_value(json.loads(text))
        except json.JSONDecodeError:
            return names.remove(text)
        return (json.dumps(value, indent=2) + "\n" if removed else text), removed
    return names.remove(text)


def _text(content: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding. Line ends stay, and so do bytes that are no UTF-8."""
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if utf_16 else "utf-8"
    return content.decode(encoding, errors="replace" if utf_16 else "surrogateescape"), encoding


def _searched(file: OutgoingFile, names: LocalNames) -> bytes:
    """Where a secret could be: everything, but for the numbers of tensors."""
    if any(file.source.match(pattern) for pattern in TRAINER_FILES):
        return b""
    if file.source.suffix in WEIGHTS:
        metadata = safetensors_metadata(file.source)
        if names.remove_from_value(metadata)[1]:
            raise ValueError(
                f"the metadata of {file.source} hold a local path or name, so nothing was sent: save the model again "
                "without them (save_pretrained, or safetensors.torch.save_file)"
            )
        return json.dumps(metadata).encode()
    content = file.source.read_bytes() if file.content is None else file.content
    return _text(content)[0].encode("utf-8", errors="surrogateescape")


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The free texts in the header of a file of weights, which is read no further.

    Raises:
        ValueError: it is no safetensors file, or not a whole one.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return dict(weights.metadata() or {})
    except (SafetensorError, OSError) as error:
        pointer = path.open("rb").read(40).startswith(b"version https://git-lfs")
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): "
            + ("it is a pointer of Git LFS; type git lfs pull" if pointer else "save the model again")
        ) from error


def holds_weights(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a model in safetensors directly in the folder."""
    folder = Path(folder)
    return folder.is_dir() and any(entry.suffix in WEIGHTS for entry in folder.iterdir())
