"""Local paths, and the names of user and machine, in texts that are about to be published: they are taken out."""

from __future__ import annotations

import getpass
import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Beside the folders at the root of this machine's disk: a run may come from another one
_USUAL_ROOTS = """
    afs app cluster content data databricks datasets dbfs efs export fsx gpfs home hpc kaggle lambda lus lustre media
    mnt net nfs notebooks opt private project projects raid root scratch shared srv storage teamspace tmp users Users
    usr var vol Volumes work workspace workspaces
""".split()
_PART = r"[^\s\"'<>|,;)\]}`]"
_HOMES = {"home", "users"}
_NAMES_OF_NOBODY = {"root", "user", "admin", "ubuntu", "runner", "jovyan", "localhost", ""}
_EMBEDDED = r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+"  # an image inside a page, where anything may look like a path
# Behind these a name is the owner of something on the net
_SITES = (r"huggingface\.co", r"hf\.co", r"github\.com", "datasets", "spaces")
_NO_SITE = "".join(rf"(?<!{site}/)" for site in _SITES)
_USER_KEYS = "user(?:_?name)?|login|owner|author"
_MACHINE_KEYS = "host(?:_?name)?|node(?:_?name)?|machine"
# Of configurations: labels of data sets may look like paths (/m/09x0r), and templates are code
_VERBATIM_KEYS = {"id2label", "label2id", "chat_template"}


class LocalNames:
    """Takes local paths, the user's and the machine's name out of texts.

    A path becomes its last part: `/home/me/run/checkpoint-20` is `checkpoint-20`, and a home folder is `~`. The names
    of user and machine are replaced where they are a whole word that is no ordinary one (it holds a digit, dot or
    hyphen), where they stand beside an `@`, and as the value of a key such as `host` or `user`.

    Args:
        *folders: paths that are local whatever their form; the home, working and temporary folders are added, and all
            folders at the root of the disk.
        keep: a name to leave in place, the owner of the repository, which may be the user's.
    """

    def __init__(self, *folders: str | os.PathLike[str], keep: str = ""):
        """See the class."""
        local = {str(Path(folder).absolute()) for folder in (*folders, Path.home(), Path.cwd(), tempfile.gettempdir())}
        local |= {str(Path(folder).resolve()) for folder in local}
        known = sorted((re.escape(folder) for folder in local if folder != "/"), key=len, reverse=True)
        tops = sorted({re.escape(name) for name in (*_USUAL_ROOTS, *_folders_at_the_root())}, key=len, reverse=True)
        begin = "|".join([
            *(rf"{folder}(?![\w.-])" for folder in known),
            rf"/(?:{'|'.join(tops)})(?=/+[^\s/])",
            r"~[\w.-]*(?=/\w)",
            r"\b(?:[A-Za-z]:(?=\\+\w)|[A-Z]:(?=/\w))",
            r"\\\\[\w.-]+(?=\\\w)",
        ])  # fmt: skip
        # Not behind a letter or an address's colon: https://example.org/home/page and s3://data/x are no local paths
        begin = rf"(?<![\w.~-])(?<!:/)(?:{begin})"
        self._path = re.compile(
            rf"(?P<embedded>{_EMBEDDED})|(?<=(?P<quote>[\"'`])){begin}[^\"'`\n]*(?=(?P=quote))|{begin}{_PART}*"
        )
        self._whole = re.compile(rf"(?:file://)?{begin}[^\n]*")
        self._home = str(Path.home())
        machine = socket.gethostname()
        self._user = _user()
        self._keep = keep
        self._machine_names = {machine, machine.split(".")[0]} - _NAMES_OF_NOBODY - {keep}
        self._user_names = {self._user} - _NAMES_OF_NOBODY - {keep}
        self._names = [
            *_patterns(self._machine_names, _MACHINE_KEYS, "host"),
            *_patterns(self._user_names, _USER_KEYS, "user"),
        ]

    def remove(self, text: str) -> tuple[str, int]:
        """`text` without them, and how many there were."""
        total = 0

        def shorten(match: re.Match[str]) -> str:
            nonlocal total
            if match["embedded"]:
                return match[0]
            total += 1
            return self._last_part(match[0])

        text = self._path.sub(shorten, text)
        for pattern, replacement in self._names:
            text, count = pattern.subn(replacement, text)
            total += count
        return text, total

    def remove_from_value(self, value: Any, key: str = "") -> tuple[Any, int]:
        """What JSON may hold, without them, and how many there were.

        A text that begins like a path is one, with its spaces. Labels of a configuration and chat templates are left
        as they are.

        Args:
            value: numbers, texts, None, and lists and mappings of them.
            key: under which it stands.
        """
        if key in _VERBATIM_KEYS:
            return value, 0
        if isinstance(value, str):
            return self._from_text(value, key)
        if isinstance(value, list | tuple):
            cleaned = [self.remove_from_value(item, key) for item in value]
            return [item for item, _ in cleaned], sum(count for _, count in cleaned)
        if isinstance(value, Mapping):
            return self._from_mapping(value)
        return value, 0

    def are_in_file_name(self, path: str) -> bool:
        """Whether the name of a file, a path within a run, holds the name of the user or the machine as a word."""
        words = (re.escape(name) for name in self._machine_names | self._user_names if not name.isalpha())
        return any(re.search(rf"(?<![^\W_]){word}(?![^\W_])", path) for word in words)

    def _from_text(self, text: str, key: str) -> tuple[str, int]:
        if self._whole.fullmatch(text):
            return self._last_part(text), 1
        for names, keys, replacement in (
            (self._machine_names, _MACHINE_KEYS, "host"),
            (self._user_names, _USER_KEYS, "user"),
        ):
            if text in names and re.fullmatch(keys, key, re.IGNORECASE):
                return replacement, 1
        return self.remove(text)

    def _from_mapping(self, value: Mapping[Any, Any]) -> tuple[dict[Any, Any], int]:
        result: dict[Any, Any] = {}
        total = 0
        for name, item in value.items():
            new, count = self._from_text(name, "") if isinstance(name, str) else (name, 0)
            copy = 1
            while new in result:  # two paths with one last part
                copy += 1
                new = f"{new} ({copy})"
            result[new], inner = self.remove_from_value(item, str(name))
            total += count + inner
        return result, total

    def _last_part(self, path: str) -> str:
        *parents, last = [part for part in re.split(r"[\\/]+", path) if part]
        is_home = bool(parents) and parents[-1].lower() in _HOMES or path.rstrip("/") == self._home
        return "~" if is_home or (last == self._user and last != self._keep) else last


def _folders_at_the_root() -> list[str]:
    try:
        return [entry.name for entry in os.scandir("/") if entry.is_dir()]
    except OSError:  # Windows, or not allowed
        return []


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user
        return ""


# What is looked for, and what takes its place
_Pattern = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def _patterns(names: set[str], keys: str, replacement: str) -> list[_Pattern]:
    patterns: list[_Pattern] = []
    for name in sorted(names, key=len, reverse=True):
        word = re.escape(name)
        if not name.isalpha():
            # Not as the owner in a Hub id, quillon7/model
            ending = r"(?![\w-])"
            found = rf"(?<=/){_NO_SITE}{word}{ending}|(?<![\w/-]){word}{ending}(?!/\w)"
            patterns.append((re.compile(found), replacement))
        patterns.append((re.compile(rf"(?<![\w-]){word}(?=@)|(?<=@){word}(?![\w-])"), replacement))
        key = rf"(?i:(\b(?:{keys})[\"']?\s*[:=]\s*[\"']?))"
        patterns.append((re.compile(rf"{key}{word}(?![\w-])"), rf"\g<1>{replacement}"))
    return patterns
