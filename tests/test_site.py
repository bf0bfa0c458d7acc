"""The documentation site: built without a warning, whole, with links that lead somewhere, and readable offline."""

import ast
import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import browse, console, find_browser

for needed in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parent.parent
INTERNAL = {"hf_diversity.kernels"}
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """The anchors, links and files of a page, and its text outside of scripts."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in LOADED and values.get(LOADED[tag]) and values.get("rel") != "canonical":
            self.loads.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """By path; but for the error page, whose links are those of a server's root."""
    found = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    assert len(found) > 20
    return found


def targets(page, links):
    """The files and anchors to which the links of a page lead in the site."""
    for link in links:
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            yield path, unquote(parts.fragment)


def test_every_link_leads_to_a_file_and_an_anchor(pages):
    seen = 0
    for page, content in pages.items():
        for path, anchor in targets(page, content.links + content.loads):
            assert path.is_file(), f"{page.name}: {path}"
            if anchor and path in pages and anchor != "__codelineno-0":
                assert anchor in pages[path].anchors, f"{page.name}: {path.name}#{anchor}"
                seen += 1
    assert seen > 100


def test_every_page_is_reached_from_the_front_page(site, pages):
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in pages and page not in reached:
            reached.add(page)
            waiting += [path for path, _ in targets(page, pages[page].links)]
    assert reached == set(pages)
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert written <= {page.relative_to(site) for page in pages} and len(written) > 15


def modules_with_public_names():
    """Modules of the package that say what is public in them."""
    for path in sorted((ROOT / "hf_diversity").rglob("*.py")):
        assigned = [t.id for n in ast.parse(path.read_text()).body if isinstance(n, ast.Assign) for t in n.targets
                    if isinstance(t, ast.Name)]  # fmt: skip
        if "__all__" in assigned:
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_public_name_has_its_place_in_the_reference(pages):
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.parent.name == "reference"))
    modules = set(modules_with_public_names()) - INTERNAL
    assert {"hf_diversity", "hf_diversity.functional", "hf_diversity.callbacks", "hf_diversity.theory"} <= modules
    for module in modules:
        names = [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]
        # A function whose module has its name is shown under its own place
        missing = [name for name in names if not anchors & {f"{module}.{name}", f"{module}.{name}.{name}"}]
        assert not missing, f"{module}: {missing}"


def test_settings_are_explained_by_their_help(site):
    from hf_diversity import DiversityConfig

    text = " ".join(re.sub(r"<[^>]+>", "", (site / "reference/config.html").read_text()).split())
    for name, field in DiversityConfig.__dataclass_fields__.items():
        assert field.metadata["help"].split(":")[0][:30].split("(")[0].strip() in text, name
    assert "See the class" not in text


def test_formulas_are_drawn_without_a_script(site):
    theory = (site / "theory.html").read_text()
    assert theory.count("<math") > 30 and "arithmatex" not in theory and "\\frac" not in theory


def test_nothing_is_loaded_from_another_host(site, pages):
    for page, content in pages.items():
        assert not [link for link in content.loads if urlsplit(link).netloc], page
        assert 'class="mermaid"' not in page.read_text()  # the theme would fetch a library for it
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", sheet.read_text()), sheet


@pytest.mark.skipif(find_browser() is None, reason="needs chromium")
def test_pages_work_when_opened_as_files(site, tmp_path):
    """Also the search, for which a browser has to read a file from a file."""
    dom, stderr = browse(site / "index.html", "--dump-dom", folder=tmp_path, query="?q=decov")
    assert not console(stderr)
    assert re.search(r'<li class="md-search-result__item"><a href="[^"]*reference/functional.html', dom)
