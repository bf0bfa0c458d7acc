"""Each kind of text file without local paths and names, and still of its kind."""

from __future__ import annotations

import codecs
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from .local_names import LocalNames
from .secrets import secret_key_in

# Every character counts in these: they are published as they are, or refused
TOKENIZERS = (
    "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.codes", "*.tokenizer", "tokenizer.json", "tokenizer_config.json",
    "*vocab*.json", "*vocab*.txt", "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "normalizer.json", "chat_template.json", "dict.txt", "emoji.json", "byte_maps.json", "word_shape.json",
    "word_pronunciation.json", "idf.json",
)  # fmt: skip
# Here only what says where things are; special tokens may look like paths
TOKENIZER_CONFIG = "tokenizer_config.json"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one
_OF_TOKENS = ("tokenizer_config.json", "processor_config.json")
_FRONT_MATTER = re.compile(r"(---\r?\n)(.*?)(\r?\n---\r?\n)", re.DOTALL)
_PLACES = ("name_or_path", "tokenizer_file", "vocab_file", "merges_file")


def is_verbatim(name: str) -> bool:
    """Whether a file of this name is published as it is."""
    return name != TOKENIZER_CONFIG and any(fnmatch(name, pattern) for pattern in TOKENIZERS)


def read_text(content: bytes) -> tuple[str, str] | None:
    """The text of a file and its encoding, or None if it is no text. Line ends stay, and bytes that are no UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace"), "utf-16"
    return None if b"\0" in content else (content.decode("utf-8", errors="surrogateescape"), "utf-8")


def clean_file(path: Path, content: bytes, names: LocalNames) -> tuple[bytes, int, str | None]:
    """The content without local names, how many there were, and the first key in it that holds a secret.

    JSON and YAML are cleaned value by value where they would be something else afterwards.

    Args:
        path: for its name.
        content: of a text file; what is no text is left as it is.
        names: takes them out.
    """
    read = read_text(content)
    if read is None or is_verbatim(path.name):
        return content, 0, None
    text, encoding = read
    value: Any = None
    if path.suffix == ".json":
        cleaned, removed, value = _clean_json(path.name, text, names)
    elif path.suffix in (".yaml", ".yml"):
        cleaned, removed, value = _clean_yaml(text, names)
    elif path.suffix == ".md" and (parts := _FRONT_MATTER.match(text)):
        head, in_head, value = _clean_yaml(parts[2], names)
        body, in_body = names.remove(text[parts.end() :])
        cleaned, removed = f"{parts[1]}{head.rstrip()}{parts[3]}{body}", in_head + in_body
    else:
        cleaned, removed = names.remove(text)
    # Those of tokenizers and processors have many tokens, of texts
    key = None if path.name.endswith(_OF_TOKENS) else secret_key_in(value)
    return cleaned.encode(encoding, errors="surrogateescape") if removed else content, removed, key


def _clean_json(name: str, text: str, names: LocalNames) -> tuple[str, int, Any]:
    try:
        value = json.loads(text)
        if name == TOKENIZER_CONFIG:
            places = {key: item for key, item in value.items() if key in _PLACES}
            cleaned, removed = names.remove_from_value(places)
            cleaned = {**value, **cleaned}
        else:
            cleaned, removed = names.remove_from_value(value)
        return (json.dumps(cleaned, indent=2) + "\n" if removed else text), removed, value
    except (ValueError, AttributeError, RecursionError):  # no JSON, no mapping, or numbers and depths beyond Python's
        return *names.remove(text), None


def _clean_yaml(text: str, names: LocalNames) -> tuple[str, int, Any]:
    """As text, which keeps comments, unless the values would not be the cleaned ones then."""
    cleaned, removed = names.remove(text)
    try:
        value = yaml.load(text, _LOADER)
        expected, count = names.remove_from_value(value)
    except (yaml.YAMLError, RecursionError):
        return cleaned, removed, None
    try:
        if yaml.load(cleaned, _LOADER) == expected:
            return cleaned, removed, value
    except yaml.YAMLError:
        pass
    return yaml.safe_dump(expected, sort_keys=False, allow_unicode=True), max(removed, count), value
