"""Which files of a run are published, and in which form."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from .cleaning import TOKENIZERS, clean_file, is_verbatim, read_text
from .local_names import LocalNames
from .secrets import find_secret

WEIGHTS = (".safetensors",)
# Others of these kinds may be data: files are published by name
NAMES = (
    *TOKENIZERS,
    "LICENSE*", "NOTICE*", "CITATION*", "README*.md", "requirements.txt",
    "*config*.json", "*config*.y*ml", "modules.json", "*.index.json", "diversity_*.json", "trainer_state.json",
    "*results*.json", "*results*.csv", "*metrics*.json", "*metrics*.csv", "*history*.json", "*history*.csv",
    "*report*.json", "*report*.md", "*report*.html",
)  # fmt: skip
FIGURES = (".png", ".svg", ".jpg", ".jpeg", ".webp")
PAGES = (".md", ".html")
FIGURE_FOLDERS = ("*figure*", "*plot*", "*report*", "*probe*")
MODULE_FOLDERS = re.compile(r"(?:\w+_)?\d+_\w+")  # of sentence-transformers
ADAPTER = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib")
# What Trainer resumes from; it reads them with weights_only=True
TRAINER_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
EVAL_RESULTS = ".eval_results"  # the only hidden folder that is published, see `cards.eval_results`
LOCAL_FOLDERS = ("checkpoint-*", "runs", "wandb", "mlruns", "__pycache__")
BY_NAME = "its name or folder is that of no model, card, figure or result: name it with --include"


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
        ValueError: a file that would be published holds a secret, weights are a link or no safetensors, or their
            metadata hold local paths or names.
    """
    folder = Path(folder)
    files: list[OutgoingFile] = []
    left_out: dict[str, str] = {}
    found = {path.relative_to(folder).as_posix(): path for path in _walk(folder, left_out)}
    reasons = {inside: _reason_against(path, inside, resumable, include) for inside, path in found.items()}
    named = _named_figures({inside: path for inside, path in found.items() if reasons[inside] is None})
    for inside, source in found.items():
        reason = None if reasons[inside] is BY_NAME and inside in named else reasons[inside]
        is_weights = source.suffix in WEIGHTS
        if reason is None and not is_weights and names.are_in_file_name(inside):
            reason = "its name holds that of the user or the machine"
        if reason is not None:
            left_out[inside] = reason
            continue
        path = f"{path_in_repo}/{inside}" if path_in_repo else inside
        file = _weights(source, path, names) if is_weights else _other(source, path, names)
        if secret := find_secret(inside.encode() + b"\n" + _searched(file), secrets):
            raise ValueError(_holds_secret(inside, secret, source))
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


def _reason_against(source: Path, inside: str, resumable: bool, include: Sequence[str]) -> str | None:
    if source.is_symlink():
        if source.suffix in WEIGHTS:
            raise ValueError(
                f"{source} is a link (as in the cache of the Hub), and links are not published: copy the folder with "
                f"its files, cp -rL {source.parent} NEW, and push NEW"
            )
        return "is a link"
    if source.name.startswith(("_", ".")):
        return "is hidden"
    if any(source.match(pattern) for pattern in TRAINER_FILES):
        return None if resumable else "is needed to resume only"
    if source.suffix in PICKLES:
        return "may be a pickle, which runs code when it is loaded"
    if any(fnmatch(inside, pattern) for pattern in include):
        return None
    *folders, name = inside.split("/")
    if folders == [EVAL_RESULTS]:
        return None if source.suffix == ".yaml" else BY_NAME
    if folders and any(fnmatch(folders[0], pattern) for pattern in FIGURE_FOLDERS):
        return None if source.suffix in FIGURES or any(fnmatch(name, p) for p in NAMES) else BY_NAME
    if folders and not _is_part_of_model(source, folders):
        return BY_NAME
    kinds = WEIGHTS if folders else (*WEIGHTS, *FIGURES)
    return None if source.suffix in kinds or any(fnmatch(name, pattern) for pattern in NAMES) else BY_NAME


def _is_part_of_model(source: Path, folders: Sequence[str]) -> bool:
    root = source.parents[len(folders)]
    has_modules = (root / "modules.json").is_file()  # of sentence-transformers
    return (
        (source.parent / ADAPTER).is_file()
        or folders == ["additional_chat_templates"]
        or (has_modules and all(MODULE_FOLDERS.fullmatch(folder) for folder in folders))
    )


def _named_figures(published: Mapping[str, Path]) -> set[str]:
    """Figures that a published page shows, by their path."""
    named = set()
    for inside, path in published.items():
        if path.suffix not in PAGES:
            continue
        text, _ = read_text(path.read_bytes()) or ("", "")
        for target in re.findall(r"\]\(\s*<?([^)>\s]+)|src=[\"']([^\"']+)", text):
            place = PurePosixPath(inside).parent / "".join(target)
            if place.suffix.lower() in FIGURES:
                named.add(os.path.normpath(place.as_posix()))
    return named


def _other(source: Path, path: str, names: LocalNames) -> OutgoingFile:
    is_text = source.suffix not in FIGURES or source.suffix == ".svg"
    if not is_text or is_verbatim(source.name) or any(source.match(pattern) for pattern in TRAINER_FILES):
        return OutgoingFile(path, source)
    # Also unchanged ones are kept, for the state of a run may be written again while it is uploaded
    content, removed, key = clean_file(source, source.read_bytes(), names)
    if key is not None:
        raise ValueError(_holds_secret(path, f"a value under the key {key!r}", source))
    return OutgoingFile(path, source, content, removed)


def _weights(source: Path, path: str, names: LocalNames) -> OutgoingFile:
    if names.remove_from_value(safetensors_metadata(source))[1]:
        raise ValueError(
            f"the metadata of {source} hold a local path or name, so nothing was sent: save the model again without "
            "them (save_pretrained, or safetensors.torch.save_file)"
        )
    return OutgoingFile(path, source)


def _searched(file: OutgoingFile) -> bytes:
    """Where a secret could be: everything, but for the numbers of tensors."""
    if any(file.source.match(pattern) for pattern in TRAINER_FILES):
        return b""
    if file.source.suffix in WEIGHTS:
        return json.dumps(safetensors_metadata(file.source)).encode()
    content = file.source.read_bytes() if file.content is None else file.content
    text, encoding = read_text(content) or ("", "utf-8")
    return content if encoding == "utf-8" else text.encode("utf-8", errors="replace")


def _holds_secret(inside: str, secret: str, source: Path) -> str:
    return f"{inside} holds {secret}, so nothing was sent: take it out of {source}, or delete the file, and push again"


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The free texts in the header of a file of weights, which is read no further.

    Raises:
        ValueError: it is no safetensors file, or not a whole one.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return dict(weights.metadata() or {})
    except (SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            is_pointer = stream.read(40).startswith(b"version https://git-lfs")
        raise ValueError(
            f"{path} is no whole safetensors file ({error}): "
            + ("it is a pointer of Git LFS; type git lfs pull" if is_pointer else "save the model again")
        ) from error


def holds_weights(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a model in safetensors in the folder, or one of modules in folders of their own."""
    folder = Path(folder)
    if not folder.is_dir():
        return False
    modules = (folder / "modules.json").is_file() and any(folder.glob("*/*.safetensors"))
    adapters = any(folder.glob(f"*/{ADAPTER}")) and (folder / "README.md").is_file()  # of PEFT, with names
    return modules or adapters or any(entry.suffix in WEIGHTS for entry in folder.iterdir())
