"""Secrets and local names in files that are about to be published: the first are refused, the second taken out."""

from __future__ import annotations

import getpass
import os
import re
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import get_token

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(?:PATH|FILE|DIR|URL)$", re.IGNORECASE)  # where a secret is, not what it is
_HUB_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
_SHORTEST_SECRET = 8  # "false" and "1" are values of settings such as TOKENIZERS_PARALLELISM

_USUAL_ROOTS = ("home", "root", "Users", "tmp", "mnt", "media", "scratch", "data", "workspace", "var", "opt", "srv")
_REST_OF_PATH = r"(?:/[^\s\"'<>|,;)\]}`]*)?"
_WINDOWS_PATH = r"\b[A-Za-z]:[\\/]+Users[\\/][^\s\"'<>|,;)\]}`]*"
_NAMES_OF_NOBODY = {"root", "user", "admin", "ubuntu", "runner", "jovyan", "localhost", ""}


def known_secrets(*tokens: str | None) -> dict[str, str]:
    """The secrets of this process: value by what it is called, for `find_secret`.

    Args:
        *tokens: further Hub tokens, such as `TrainingArguments.hub_token`.

    Returns:
        The tokens, the one that the Hub's client would use, and each environment variable whose name says that it is a
        token, password or key.
    """
    secrets = {
        f"the environment variable {name}": value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name)
    }
    found = filter(None, (get_token(), *tokens))
    secrets |= {"the Hub token" if i == 0 else f"Hub token {i + 1}": token for i, token in enumerate(found)}
    return {name: value for name, value in secrets.items() if len(value) >= _SHORTEST_SECRET}


def find_secret(content: bytes, secrets: Mapping[str, str]) -> str | None:
    """What the first secret in `content` is called (never its value); None if there is none."""
    found = next((name for name, value in secrets.items() if value.encode() in content), None)
    return found or ("something that looks like a Hub token" if _HUB_TOKEN.search(content) else None)


class LocalNames:
    """Takes local paths, the user's and the machine's name out of texts.

    A path becomes its last part: `/home/me/run/checkpoint-20` is `checkpoint-20`. The names of user and machine are
    replaced where they are a whole word that is no ordinary one (it holds a digit, dot or hyphen), where they stand
    beside an `@`, and as the value of a key such as `host` or `user`.

    Args:
        *folders: paths that are local whatever their form; the home, working and temporary folders are added.
        keep: a name to leave in place, the owner of the repository, which may be the user's.
    """

    def __init__(self, *folders: str | os.PathLike[str], keep: str = ""):
        """See the class."""
        local = {str(Path(folder).absolute()) for folder in (*folders, Path.home(), Path.cwd(), tempfile.gettempdir())}
        local |= {str(Path(folder).resolve()) for folder in local}
        roots = sorted((re.escape(root) for root in local if root != "/"), key=len, reverse=True)
        usual = rf"/(?:{'|'.join(_USUAL_ROOTS)})(?=/)"
        # Not behind a letter: https://example.org/home/page is no local path
        self._path = re.compile(rf"(?<![\w.-])(?:{'|'.join(roots)}|{usual}){_REST_OF_PATH}|{_WINDOWS_PATH}")
        machine = socket.gethostname()
        self._names = [
            *_patterns({machine, machine.split(".")[0]}, keep, "host(?:name)?|node|machine", "host"),
            *_patterns({_user()}, keep, "user(?:name)?|login|owner|author", "user"),
        ]

    def remove(self, text: str) -> tuple[str, int]:
        """`text` without them, and how many there were."""
        text, total = self._path.subn(lambda match: re.split(r"[\\/]+", match[0].rstrip("\\/"))[-1], text)
        for pattern, replacement in self._names:
            text, count = pattern.subn(replacement, text)
            total += count
        return text, total


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user
        return ""


def _patterns(names: set[str], keep: str, keys: str, replacement: str) -> list[tuple[re.Pattern[str], str]]:
    patterns = []
    for name in sorted(names - _NAMES_OF_NOBODY - {keep}, key=len, reverse=True):
        word = re.escape(name)
        if not name.isalpha():
            patterns.append((re.compile(rf"(?<![\w-]){word}(?![\w-])"), replacement))
        patterns.append((re.compile(rf"(?<![\w-]){word}(?=@)|(?<=@){word}(?![\w-])"), replacement))
        key = rf"(?i:(\b(?:{keys})[\"']?\s*[:=]\s*[\"']?))"
        patterns.append((re.compile(rf"{key}{word}(?![\w-])"), rf"\g<1>{replacement}"))
    return patterns
