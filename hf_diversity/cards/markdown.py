"""Any text as Markdown that shows it and does nothing else: names of data sets and labels are a stranger's."""

from __future__ import annotations

import math
import re

# What begins or ends markup anywhere in a line; "&" begins an entity, "$" mathematics
_SPECIAL = re.compile(r"([\\`*_\[\]#!|~$&<>])")
# What begins a list or a rule at the start of a line
_LIST = re.compile(r"^(\d*)([-+=.)])")
# What becomes a link by itself
_LINK = re.compile(r"(?<=\w):(?=//)|(?<=www)\.|(?<=[\w.+-])@(?=\w)", re.IGNORECASE)


def plain_text(value: object) -> str:
    """Running text or a table cell: one line, all markup escaped, HTML as entities."""
    text = _SPECIAL.sub(r"\\\1", one_line(value))
    text = _LIST.sub(r"\1\\\2", text)
    text = text.replace(r"\&", "&amp;").replace(r"\<", "&lt;").replace(r"\>", "&gt;")
    return _LINK.sub(lambda match: f"&#{ord(match.group())};", text)


def code(value: object) -> str:
    """A code span, which a table cell can hold as well: one line between more backticks than it has in a row."""
    text = one_line(value).replace("|", "\\|")
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def block(value: str, language: str = "") -> str:
    """A block of code between more backticks than it has in a row."""
    fence = "`" * max(3, _longest_run(value) + 1)
    return f"{fence}{language}\n{value.strip()}\n{fence}"


def as_float(value: object) -> float | None:
    """A finite number as a Python float; None for everything else."""
    try:
        number = float(value)  # type: ignore[arg-type]  # what has no such form raises
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, str) else None


def number(value: object, digits: int = 4) -> str:
    """A number for a table with so many decimals; a dash where there is none."""
    found = as_float(value)
    if found is None:
        return "–" if value is None else plain_text(value)
    return f"{found:,.0f}" if found.is_integer() and abs(found) >= 10 else f"{found:.{digits}f}"


def significant(value: object) -> str:
    """A number for a table, with four significant digits."""
    found = as_float(value)
    return plain_text("" if value is None else value) if found is None else f"{found:.4g}"


def one_line(value: object) -> str:
    """A text on one line: of several, one that is `---` would end a card's metadata."""
    return " ".join(str(value).split())


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
