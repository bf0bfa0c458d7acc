"""Secrets: those that this process knows, whether a file holds one, and texts without them."""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

from huggingface_hub import get_token

HIDDEN = "..."
_SHORTEST = 8  # "false" and "1" are values of settings such as TOKENIZERS_PARALLELISM
_LONGEST_WORD = 15  # a shorter text of small letters alone is a word ("postgres"), and found everywhere

# A name is one of a secret if a word of it ...
_ENDS = (
    "secret", "secrets", "password", "passwords", "passwd", "passphrase", "passcode", "pwd", "credential",
    "credentials", "apikey", "apikeys", "authkey", "accesskey", "secretkey", "privatekey", "authorization", "bearer",
)  # fmt: skip
_WORDS = {"auth", "pat", "pats", "dsn", "pw", "pswd"}
_BEFORE_PASS = {"db", "ftp", "http", "mysql", "pg", "proxy", "smtp", "ssh", "user"}
_BEFORE_KEY = {
    "access",
    "account",
    "api",
    "auth",
    "encryption",
    "hf",
    "hub",
    "master",
    "private",
    "secret",
    "service",
    "ssh",
}
_BEFORE_NO_KEY = {"data", "image", "label", "metric", "model", "sort", "text"}
# ... but for what says where a secret is, or something about it
_ABOUT_SECRETS = {
    "count", "dir", "env", "field", "file", "files", "folder", "id", "length", "name", "path", "provider", "sock",
    "type", "url",
}  # fmt: skip
# pad_token and the like
_OF_TEXTS = {
    "assistant", "audio", "bos", "class", "cls", "end", "eos", "extra", "first", "image", "initial", "last", "mask",
    "next", "pad", "per", "placeholder", "prefix", "prompt", "register", "sep", "special", "start", "stop", "system",
    "tool", "unk", "user", "video",
}  # fmt: skip
_CONNECTIONS = ("CONNECTION_STRING", "WEBHOOK", "WEBHOOK_URL")
_WORKING_FOLDERS = {"PWD", "OLDPWD"}

# Well-known forms, each behind its first letters: looking for these first is 20 times faster
_FORMS = {
    b"hf_": rb"hf_[A-Za-z0-9]{30,}",
    b"gh": rb"gh[pousr]_[A-Za-z0-9]{30,}",
    b"github_pat_": rb"github_pat_\w{30,}",
    b"glpat-": rb"glpat-[\w-]{20,}",
    b"sk-": rb"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))sk-(?=[\w-]{0,40}\d)(?=[\w-]{0,40}[A-Z])[\w-]{32,}",
    b"AKIA": rb"AKIA[0-9A-Z]{16}(?![0-9A-Za-z])",
    b"xox": rb"xox[abpr]-[\w-]{20,}",
    b"PRIVATE KEY": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_TOKEN_FORMS = {begin: re.compile(form) for begin, form in _FORMS.items()}
_ANY_TOKEN = re.compile("|".join(form.decode() for form in _FORMS.values()))
# The password of scheme://user:password@host, or a token alone; not $PASSWORD, <password> and digests of containers
_IN_URL = re.compile(
    r"://(?:[^\s/:@\"'<>]*:(?P<password>[^\s/:@\"'<>${*][^\s/@\"'<>]{5,})|(?P<token>[^\s/:@\"'<>${*]{8,}))@(?!sha\d+:)[\w.-]+"
)
_EXAMPLES = {"password", "passwd", "secret", "your-token", "token", "username"}
_KEY_AND_VALUE = re.compile(
    r"(?P<key>(?P<quote>\\?[\"']|)(?P<name>[A-Za-z][\w.-]*)(?P=quote)\s*[:=]\s*)"
    r"(?P<value>\\\"(?:[^\"\\]|\\[^\"])*\\\"|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|\[[^\]]*\]|\{[^{}]*\}|"
    r"(?:(?i:Bearer|Basic|Token|ApiKey)\s+)?[^\s,;}\]]+)"
)
# An option within a text, which holds a whole command
_OPTION = re.compile(r"(?P<key>(?<!\S)--?(?P<name>[A-Za-z][\w-]*)\s+)(?P<value>[^\s-]\S*)")
# The value is somewhere else: "$TOKEN", "<HUB_TOKEN>", "{{ token }}", OPENAI_API_KEY, os.environ/X
_ELSEWHERE = re.compile(r"[$<{].*|\.\.\.|[A-Z][A-Z0-9_]*|os\.environ.*|\[.*\]", re.DOTALL)
# What may stand between a word and what is written before it: \\n and the like, %20, a colour of a terminal
_ESCAPE_BEFORE = re.compile(rb"(?:\\[nrtbf]|\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2}|\x1b\[[\d;]*m)$")


def is_secret_name(name: str, environment: bool = False) -> bool:
    """Whether an option, a key or a variable of this name holds a secret, as far as names tell.

    Args:
        name: in any form, `HF_TOKEN`, `--api-key`, `hubToken`.
        environment: whether it is a variable of the environment, where SOME_KEY is a secret; an option `--text_key` is
            none.
    """
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name) if word]
    while words and words[-1].isdigit():
        words.pop()
    if environment and (name.upper().endswith(_CONNECTIONS)):
        return True
    if not words or name in _WORKING_FOLDERS or words[-1] in _ABOUT_SECRETS:
        return False
    for before, word in zip(["", *words], words, strict=False):
        if word.endswith(_ENDS) or word in _WORDS or (word == "pass" and before in _BEFORE_PASS):
            return True
        if environment and (word.endswith(("pass", "token")) or word == "sas") and word != "compass":
            return before not in _OF_TEXTS
        if word in ("key", "keys") and before in _BEFORE_KEY:
            return True
    last, before_last = words[-1], words[-2] if len(words) > 1 else ""
    if last.endswith("token"):
        return before_last not in _OF_TEXTS
    if last == "tokens":
        return before_last in _BEFORE_KEY
    return environment and last == "key" and bool(before_last) and before_last not in _BEFORE_NO_KEY


def known_secrets(*tokens: str | None) -> dict[str, str]:
    """The secrets of this process: value by what it is called, for `find_secret`.

    Args:
        *tokens: further Hub tokens, such as `TrainingArguments.hub_token`.

    Returns:
        The tokens, the one that the Hub's client would use, each environment variable and each option of the command
        line whose name says that it is a token, password or key, and passwords in addresses among their values. Not
        what is short, an existing path or an ordinary word.
    """
    secrets: dict[str, str] = {}
    for name, value in os.environ.items():
        if is_secret_name(name, environment=True) and not os.path.exists(value):
            secrets[f"the environment variable {name}"] = value.strip()
        for i, password in enumerate(_passwords_in(value)):
            secrets[f"password {i + 1} in the environment variable {name}"] = password
    for i, value in enumerate(_mask(sys.argv)[1]):
        secrets[f"secret {i + 1} of the command line"] = value
    secrets = {name: value for name, value in secrets.items() if not _is_word(value)}
    for i, token in enumerate(filter(None, (get_token(), *tokens))):
        secrets["the Hub token" if i == 0 else f"Hub token {i + 1}"] = token
    return {name: value for name, value in secrets.items() if len(value) >= _SHORTEST}


def find_secret(content: bytes, secrets: Mapping[str, str]) -> str | None:
    """What the first secret in `content` is called (never its value); None if there is none.

    A secret is found also as JSON, HTML or an address writes it; one of up to 15 characters as a whole word only.
    """
    for name, value in secrets.items():
        if any(_holds_word(content, form) for form in _forms(value)):
            return name
    if any(begin in content and form.search(content) for begin, form in _TOKEN_FORMS.items()):
        return "something that looks like a token or a private key"
    if b"://" in content and b"@" in content and any(_passwords_in(content.decode("utf-8", errors="replace"))):
        return "an address with a password"
    return None


def secret_key_in(value: Any) -> str | None:
    """The first key in JSON that is named like a secret and has a text for a value; None if there is none."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if is_secret_name(str(key)) and any(map(_could_be_secret, _texts_in(item))):
                return str(key)
            if found := secret_key_in(item):
                return found
    if isinstance(value, list | tuple):
        return next(filter(None, map(secret_key_in, value)), None)
    return None


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_in(item)


def _could_be_secret(text: str) -> bool:
    return len(text) >= _SHORTEST and not _is_word(text) and not _ELSEWHERE.fullmatch(text)


def mask_arguments(words: Sequence[str]) -> list[str]:
    """A command line with `...` in place of the values of options that are named like a secret.

    Known are `--hub_token x`, `--hub_token=x`, `hub_token=x`, several values of one option, keys inside JSON, YAML and
    comma-separated arguments, passwords in addresses, well-known forms of tokens, and every word that holds a secret
    of this process.
    """
    masked = _mask(words)[0]
    for secret in known_secrets().values():
        masked = [word.replace(secret, HIDDEN) for word in masked]
    return masked


def mask_text(text: str) -> str:
    """One text without the secrets that `mask_arguments` knows."""
    return mask_arguments([text])[0]


def _mask(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without secrets, and the secrets."""
    masked: list[str] = []
    secrets: list[str] = []

    def hide(value: str) -> str:
        secrets.append(value)
        return HIDDEN

    of_secret = False  # whether the values that follow belong to an option that holds a secret
    for word in words:
        is_option = re.match(r"--?[A-Za-z]", word) is not None
        name, equals, value = word.partition("=")
        if is_option:
            secret = is_secret_name(name)
            of_secret = secret and not equals
            masked.append(f"{name}={hide(value)}" if secret and equals else _without_inner(word, hide))
        else:
            masked.append(hide(word) if of_secret else _without_inner(word, hide))
    return masked, secrets


def _without_inner(word: str, hide: Callable[[str], str]) -> str:
    """A word without secrets inside it: behind a key or an option, in an address, or known by their form."""
    for pattern in (_KEY_AND_VALUE, _OPTION):
        parts: list[str] = []
        place = 0
        while match := pattern.search(word, place):
            value = match["value"]
            end = match.end("key")
            parts.append(word[place:end])
            if is_secret_name(match["name"].rpartition(".")[2]):
                mark = (re.match(r"\\?[\"']", value) or [""])[0]
                parts.append(f"{mark}{hide(value.removeprefix(mark).removesuffix(mark))}{mark}")
                end += len(value)
            place = end  # the value may hold another key: model_args=token=x
        word = "".join([*parts, word[place:]])
    for password in _passwords_in(word):
        word = word.replace(password, hide(password))
    return _ANY_TOKEN.sub(lambda match: hide(match[0]), word)


def _passwords_in(text: str) -> Iterator[str]:
    for match in _IN_URL.finditer(text):
        found = match["password"] or match["token"]
        if found.lower() not in _EXAMPLES and not (match["token"] and _is_word(found)):
            yield found


def _is_word(value: str) -> bool:
    return value.isalpha() and value.islower() and len(value) <= _LONGEST_WORD


def _holds_word(content: bytes, word: bytes) -> bool:
    """Whether `word` stands there; a short one not as a part of a longer one."""
    start = content.find(word)
    while start >= 0:
        end = start + len(word)
        before, after = content[max(start - 8, 0) : start], content[end : end + 1]
        glued = before[-1:].isalnum() and word[:1].isalnum() and not _ESCAPE_BEFORE.search(before)
        if len(word) > _LONGEST_WORD or not (glued or (after.isalnum() and word[-1:].isalnum())):
            return True
        start = content.find(word, start + 1)
    return False


def _forms(value: str) -> set[bytes]:
    """How texts write it: as it is, in JSON, in HTML, in an address."""
    texts = {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
        quote(value, safe=""),
        quote_plus(value),
    }
    return {text.encode("utf-8", errors="surrogateescape") for text in texts}
