"""Any text as Markdown that shows it and does nothing else: names of data sets and labels are a stranger's."""

from __future__ import annotations

import re

# What begins or ends markup anywhere in a line; "&" begins an entity, "$" mathematics
_SPECIAL = re.compile(r"([\\`*_\[\]#!|~$&<>])")
# What begins a list or a rule at the start of a line
_LIST = re.compile(r"^(\d*)([-+=.)])")
# What becomes a link by itself
_LINK = re.compile(r"(?<=\w):(?=//)|(?<=www)\.|(?<=[\w.+-])@(?=\w)", re.IGNORECASE)


def plain_text(value: object) -> str:
    """Running text or a table cell: one line, all markup escaped, HTML as entities."""
    text = _SPECIAL.sub(r"\\\1", _one_line(value))
    text = _LIST.sub(r"\1\\\2", text)
    text = text.replace(r"\&", "&amp;").replace(r"\<", "&lt;").replace(r"\>", "&gt;")
    return _LINK.sub(lambda match: f"&#{ord(match.group())};", text)


def code(value: object) -> str:
    """A code span, which a table cell can hold as well: one line between more backticks than it has in a row."""
    text = _one_line(value).replace("|", "\\|")
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def block(value: str, language: str = "") -> str:
    """A block of code between more backticks than it has in a row."""
    fence = "`" * max(3, _longest_run(value) + 1)
    return f"{fence}{language}\n{value.strip()}\n{fence}"


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.{digits}f}"


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
