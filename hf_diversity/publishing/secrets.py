"""Secrets: those that this process knows, whether a file holds one, and a command line without them."""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import quote, quote_plus

from huggingface_hub import get_token

HIDDEN = "..."
_SHORTEST = 8  # "false" and "1" are values of settings such as TOKENIZERS_PARALLELISM
_WORD_ENDS = ("token", "secret", "password", "passwd", "passphrase", "pwd", "credential", "apikey")
_WORDS = {"auth", "credentials", "key", "keys", "pass", "passwords", "pat", "pats", "secrets"}
# What says where a secret is, or something about it, and not what it is
_ABOUT_SECRETS = {"count", "dir", "file", "files", "folder", "id", "length", "name", "path", "sock", "type", "url"}
# pad_token and the like
_OF_TEXTS = {"bos", "cls", "eos", "image", "mask", "next", "pad", "per", "sep", "unk"}
_WORKING_FOLDERS = {"PWD", "OLDPWD"}
_TOKEN_FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}|\bsk-[\w-]{32,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bxox[abpr]-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# The password of scheme://user:password@host; not $PASSWORD, <password> and the like, which are examples
_IN_URL = re.compile(r"(?<=://)([^\s/:@\"'<>]*):([^\s/@\"'<>${*][^\s/@\"'<>]{2,})@")
_EXAMPLES = {"pass", "passwd", "password", "secret", "token", "xxx"}
_IN_JSON = re.compile(r"([\"']([\w.-]+)[\"']\s*:\s*)(\"[^\"]*\"|'[^']*')")


def is_secret_name(name: str) -> bool:
    """Whether an option, a key or a variable of this name holds a secret, as far as names tell."""
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])", name) if word]
    if not words or name in _WORKING_FOLDERS or words[-1] in _ABOUT_SECRETS:
        return False
    return any(
        (word in _WORDS or word.endswith(_WORD_ENDS)) and not (i and words[i - 1] in _OF_TEXTS)
        for i, word in enumerate(words)
    )


def known_secrets(*tokens: str | None) -> dict[str, str]:
    """The secrets of this process: value by what it is called, for `find_secret`.

    Args:
        *tokens: further Hub tokens, such as `TrainingArguments.hub_token`.

    Returns:
        The tokens, the one that the Hub's client would use, each environment variable and each option of the command
        line whose name says that it is a token, password or key, and passwords in addresses among their values.
    """
    secrets: dict[str, str] = {}
    for name, value in os.environ.items():
        if is_secret_name(name) and not os.path.exists(value):
            secrets[f"the environment variable {name}"] = value
        for _, password in _IN_URL.findall(value):
            secrets[f"the password in the environment variable {name}"] = password
    for i, value in enumerate(_mask(sys.argv)[1]):
        secrets[f"secret {i + 1} of the command line"] = value
    for i, token in enumerate(filter(None, (get_token(), *tokens))):
        secrets["the Hub token" if i == 0 else f"Hub token {i + 1}"] = token
    return {name: value for name, value in secrets.items() if len(value) >= _SHORTEST}


def find_secret(content: bytes, secrets: Mapping[str, str]) -> str | None:
    """What the first secret in `content` is called (never its value); None if there is none.

    A secret is also found as JSON, HTML or an address writes it.
    """
    found = next((name for name, value in secrets.items() if any(f in content for f in _forms(value))), None)
    if found is not None:
        return found
    text = content.decode("utf-8", errors="replace")
    if _TOKEN_FORMS.search(text):
        return "something that looks like a token or a private key"
    if any(password.lower() not in _EXAMPLES for _, password in _IN_URL.findall(text)):
        return "an address with a password"
    return None


def mask_arguments(words: Sequence[str]) -> list[str]:
    """A command line with `...` in place of the values of options that are named like a secret.

    Known are `--hub_token x`, `--hub_token=x`, `hub_token=x`, several values of one option, JSON arguments, passwords
    in addresses, `-p`, and every word that holds a secret of this process.
    """
    masked = _mask(words)[0]
    for secret in known_secrets().values():
        masked = [word.replace(secret, HIDDEN) for word in masked]
    return masked


def _mask(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without secrets, and the secrets."""
    masked: list[str] = []
    secrets: list[str] = []

    def hide(value: str) -> str:
        secrets.append(value)
        return HIDDEN

    of_secret = False  # whether the values that follow belong to an option that holds a secret
    for word in words:
        name, equals, value = word.partition("=")
        is_option = word.startswith("-") and not re.fullmatch(r"-[\d.].*", word)
        if is_option or (equals and re.fullmatch(r"[\w.+~/@-]+", name)):
            secret = is_secret_name(name.lstrip("-+~").rpartition(".")[2]) or name == "-p"
            of_secret = secret and is_option and not equals
            masked.append(f"{name}={hide(value)}" if secret and equals else _without_inner(word, hide))
        else:
            masked.append(hide(word) if of_secret else _without_inner(word, hide))
    return masked, secrets


def _without_inner(word: str, hide) -> str:
    """A word without secrets inside it: in JSON, in an address, or known by their form."""
    word = _IN_JSON.sub(lambda m: f"{m[1]}{hide(m[3][1:-1])!r}" if is_secret_name(m[2]) else m[0], word)
    word = _IN_URL.sub(lambda m: f"{m[1]}:{hide(m[2])}@", word)
    return _TOKEN_FORMS.sub(lambda m: hide(m[0]), word)


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
