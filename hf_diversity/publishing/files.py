"""Which files of a run are published, and in which form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .cleaning import LocalNames, find_secret

WEIGHTS = (".safetensors",)
FIGURES = (".png", ".svg", ".jpg", ".jpeg", ".webp")
TEXTS = (".json", ".md", ".yaml", ".yml", ".csv", ".html")
TOKENIZERS = (".model", ".jinja", ".tiktoken")
# Every character counts in these: they are published as they are, or refused
VERBATIM = {"tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "vocab.txt", "merges.txt"}
NAMED_TEXTS = {"vocab.txt", "merges.txt", "spiece.model", "LICENSE", "NOTICE", "requirements.txt"}
# What Trainer resumes from; it reads them with weights_only=True
TRAINER_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
LOCAL_FOLDERS = ("checkpoint-*", "runs", "wandb", "mlruns", "__pycache__")


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
) -> Selection:
    """Choose what is published of a folder: safetensors, configurations, tokenizer, card, results and figures.

    Never published: pickles, and `training_args.bin` among them (it holds the token and local paths, and loading it
    runs code), the events of TensorBoard (named after the machine), logs, scripts, data, hidden files, names that
    begin with `_`, links, and the checkpoints of the run.

    Args:
        folder: a finished run, or one of its checkpoints.
        secrets: from `known_secrets`.
        names: takes local paths and names out of texts.
        path_in_repo: the folder in the repository.
        resumable: whether what a resumed training reads belongs to it: the optimiser, the schedule, the random state.

    Raises:
        ValueError: a file that would be published holds a secret.
    """
    folder = Path(folder)
    files: list[OutgoingFile] = []
    left_out: dict[str, str] = {}
    for source in _walk(folder, left_out):
        inside = source.relative_to(folder).as_posix()
        if reason := _reason_against(source, resumable):
            left_out[inside] = reason
            continue
        file = _outgoing(source, inside, path_in_repo, names)
        if secret := find_secret(_searched(file), secrets):
            raise ValueError(
                f"{inside} holds {secret}, so nothing was sent: take it out of {source}, or delete the file, and push "
                "again"
            )
        files.append(file)
    return Selection(tuple(files), left_out)


def _walk(folder: Path, left_out: dict[str, str]) -> list[Path]:
    """The files under `folder`, in order, but for hidden and local folders, which are noted in `left_out`."""
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if entry.name.startswith(("_", ".")) or any(entry.match(pattern) for pattern in LOCAL_FOLDERS):
                left_out[f"{entry.name}/"] = "stays with the run"
            else:
                inner: dict[str, str] = {}
                found += _walk(entry, inner)
                left_out |= {f"{entry.name}/{name}": reason for name, reason in inner.items()}
        else:
            found.append(entry)
    return found


def _reason_against(source: Path, resumable: bool) -> str | None:
    if source.is_symlink():
        return "is a link"
    if source.name.startswith(("_", ".")):
        return "is hidden"
    if source.name in NAMED_TEXTS or source.suffix in (*WEIGHTS, *FIGURES, *TEXTS, *TOKENIZERS):
        return None
    if any(source.match(pattern) for pattern in TRAINER_FILES):
        return None if resumable else "is needed to resume only"
    if source.suffix in (".bin", ".pt", ".pth", ".pkl", ".pickle"):
        return "is a pickle, which runs code when it is loaded"
    return "is no model, card, figure or result"


def _outgoing(source: Path, inside: str, path_in_repo: str, names: LocalNames) -> OutgoingFile:
    path = f"{path_in_repo}/{inside}" if path_in_repo else inside
    if source.suffix not in TEXTS or source.name in VERBATIM:
        return OutgoingFile(path, source)
    # Not read_text, which would change line ends
    text, removed = names.remove(source.read_bytes().decode("utf-8", errors="surrogateescape"))
    # Also unchanged ones, for the state of a run may be written again while it is uploaded
    return OutgoingFile(path, source, text.encode("utf-8", errors="surrogateescape"), removed)


def _searched(file: OutgoingFile) -> bytes:
    """Where a secret could be: everything, but for the numbers of tensors."""
    if file.content is not None:
        return file.content
    if any(file.source.match(pattern) for pattern in TRAINER_FILES):
        return b""
    with open(file.source, "rb") as stream:
        if file.source.suffix in WEIGHTS:
            return stream.read(int.from_bytes(stream.read(8), "little"))  # the header, which has free metadata
        return stream.read()


def holds_weights(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a model in safetensors directly in the folder."""
    folder = Path(folder)
    return folder.is_dir() and any(entry.suffix in WEIGHTS for entry in folder.iterdir())
