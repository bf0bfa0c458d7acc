"""What the site needs beside the pages in this folder: pages from elsewhere in the repository, and drawn formulas."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# What the site has of the repository outside this folder: pages, and what they show or link
OUTSIDE = (
    "README.md", "CHANGELOG.md", "recipes/README.md", "recipes/RESULTS.md", "recipes/paper_index.md",
    "recipes/results/*/report.md", "recipes/results/*/*.png", "benchmarks/README.md", "benchmarks/*.png",
    "model_cards/*.md", "model_cards/*/*.png", "hf_diversity/data/NOTICE", "CONTRIBUTING.md",
    "examples/by_feature/*.md", "examples/by_feature/*.py",
)  # fmt: skip
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>([.,;:]?)', re.DOTALL)
_BAR = re.compile(r"<mo[^>]*>(&#x(?:0007C|02016|02223|02225);)")


def in_site(path: str) -> str:
    """Where a file of the repository is in the site: the README in front, `docs/` left out, a folder by its README."""
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def in_repository(path: str) -> str:
    """The inverse of `in_site`."""
    if path == "index.md":
        return "README.md"
    return path if (ROOT / path).is_file() else f"docs/{path}"


def moved_links(text: str, path: str) -> str:
    """The text of a page with its relative links as they have to be in the site.

    Args:
        text: Markdown.
        path: of the page in the repository.
    """

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        return posixpath.relpath(in_site(target), posixpath.dirname(in_site(path)) or ".")

    return _LINK.sub(moved, text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and images from elsewhere."""
    for pattern in OUTSIDE:
        for found in sorted(ROOT.glob(pattern)):
            path = in_site(found.relative_to(ROOT).as_posix())
            files.append(File.generated(config, path, abs_src_path=str(found)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to where the files are in the site."""
    return moved_links(markdown, in_repository(page.file.src_uri))


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers draw without a script."""

    def drawn(match: re.Match[str]) -> str:
        formula = convert(html.unescape(match[2]), display="inline" if match[1] == "span" else "block")
        # Bars are taken for operators between two terms, with space around them, and grow by themselves
        formula = _BAR.sub(r'<mo lspace="0" rspace="0" stretchy="false">\1', formula)
        # One that is too wide scrolls; no line may begin with the comma after a formula
        return f'<{match[1]} class="formula">{formula}{match[3]}</{match[1]}>'

    return _FORMULA.sub(drawn, content)
