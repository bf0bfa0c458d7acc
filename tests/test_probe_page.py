"""The page of a report: in a real browser at the width of a desk and of a phone, and with hostile names."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from browser import browse, console, find_browser

from hf_diversity.diagnostics import DiagnosticsMeter
from hf_diversity.probe.figures import draw_figures, file_stem
from hf_diversity.probe.findings import advice, findings
from hf_diversity.probe.measuring import ModelReport
from hf_diversity.probe.report import ProbeReport

pytest.importorskip("matplotlib").use("Agg")
HOSTILE = "<script>document.title='broken'</script>\"'$&{{ 7 * 7 }}"
needs_browser = pytest.mark.skipif(
    find_browser() is None, reason="no chromium: type apt-get install chromium to test the page in a browser"
)
# Appended to a copy of the page: tells what the browser made of it. The page itself holds no script.
MEASURE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const wide = [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll, svg")
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + "." + e.className);
  document.title = JSON.stringify({
    width: innerWidth, scroll: document.documentElement.scrollWidth, wide: wide, scripts: document.scripts.length,
    images: [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width, i.alt.length]),
    small: Math.min(...[...document.querySelectorAll("p, li, td, th, dd, figcaption")]
      .map(e => parseFloat(getComputedStyle(e).fontSize)))
  });
})</script>"""


def diagnostics(seed, units=24):
    generator = torch.Generator().manual_seed(seed)
    meter = DiagnosticsMeter()
    rows = torch.relu(torch.randn(200, 6, generator=generator) @ torch.randn(6, units, generator=generator))
    rows[:, 0] = 0
    meter.update({"layer": rows})
    return meter.compute()["layer"]


def make_report(layers, models=1, name="model"):
    measured = []
    for index in range(models):
        found = {
            layer: {"train": diagnostics(10 * index + 2 * n), "test": diagnostics(10 * index + 2 * n + 1)}
            for n, layer in enumerate(layers)
        }
        scores = {"train": {"accuracy": 0.95, "loss": 0.2}, "test": {"accuracy": 0.8 - index / 10, "loss": 0.6}}
        measured.append(
            ModelReport(
                f"{name} {index}", "source", "Net", 1234, found, dict.fromkeys(layers, "output"), scores,
                {"train": 200, "test": 200}, left_out={f"{name}.left": "it gives what it receives"}, notes=(name,),
            )
        )  # fmt: skip
    split = {"name": name, "measured": 200, "of": 200}
    data = {
        "name": f"data {name}", "config": None, "columns": [name], "label_column": name, "classes": [name, "b"],
        "splits": {"train": split, "test": split},
    }  # fmt: skip
    how = {"command": f"hf-diversity probe {name}", "settings": {"seed": 0}, "versions": {"torch": "1"}}
    report = ProbeReport(measured, findings(measured), advice(measured), data, how)
    report.figures = draw_figures(measured)
    return report


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return make_report([HOSTILE, "encoder.layer.0.output." + "very_long_name" * 8], name=HOSTILE).save(
        tmp_path_factory.mktemp("hostile") / "out"
    )


def seen(page, tmp_path, width):
    """What the browser made of a page, and its complaints."""
    copy = tmp_path / "copy.html"
    text = page.read_text()
    # The page forbids every script, so the copy allows this one
    text = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    copy.write_text(text + MEASURE)
    # A browser's window cannot be as narrow as a phone: the page is looked at in a frame of this width
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f width={width} height=4000 src=copy.html></iframe><script>onload = () => setTimeout(() => {{"
        "document.title = f.contentDocument.title}, 500)</script>"
    )
    out, err = browse(frame, "--dump-dom", "--allow-file-access-from-files", folder=tmp_path / "profile")
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", out, re.S).group(1))), console(err)


@needs_browser
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("models", [1, 2])
def test_in_a_browser(tmp_path, width, models):
    page = make_report(["encoder.layer.0", "head"], models).save(tmp_path / "out")
    found, complaints = seen(page, tmp_path, width)
    assert not complaints
    assert found["width"] == width and found["scroll"] <= width and not found["wide"]
    assert len(found["images"]) == page.read_text().count("<img ") >= 12
    for natural, shown, alternative in found["images"]:
        assert natural > 300 and shown > 250 and alternative > 10
    assert found["small"] >= 13


@needs_browser
def test_hostile_names_are_text_in_a_browser(hostile, tmp_path):
    found, complaints = seen(hostile, tmp_path, 390)
    assert not complaints and found["scripts"] == 1, "the measuring one alone"
    assert found["scroll"] <= 390 and not found["wide"]


@needs_browser
def test_the_browser_test_sees_what_is_wrong(tmp_path):
    """Guard: a wide element, a broken figure, a request and a script must show."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<main><p style='width: 900px'>wide</p><img src='data:image/png;base64,AAAA' alt='x'>"
        "<img src='http://127.0.0.1:9/x.png' alt='y'><script>console.error('complaint')</script></main>"
    )
    found, complaints = seen(bad, tmp_path, 390)
    assert found["scroll"] > 390 and found["wide"] and found["images"][0][0] == 0 and found["scripts"] == 2
    assert any("complaint" in line for line in complaints)


class Links(HTMLParser):
    """Tags, and whatever could make a request or run."""

    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.events = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href", "srcset", "action", "data", "poster")]
        self.events += [k for k, _ in attributes if k.startswith("on")]


def test_the_page_asks_for_nothing_and_runs_nothing(hostile):
    text = hostile.read_text()
    links = Links()
    links.feed(text)
    assert links.tags.count("img") >= 8 and not {"script", "iframe", "link", "object", "form"} & set(links.tags)
    assert not links.events and all(source.startswith(("data:image/png;base64,", "#")) for source in links.sources)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    assert html.escape(HOSTILE, quote=False)[:20] in text and "49" not in re.findall(r"\$&amp;(.{4})", text)
    assert f"id={'layers'!r}".replace("'", '"') in text


def test_links_within_the_page_lead_somewhere(hostile):
    text = hostile.read_text()
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert targets and all(f'id="{target}"' in text for target in targets)


def test_findings_come_first_and_how_it_was_measured_last(hostile):
    text = hostile.read_text()
    order = [text.index(f'id="{name}"') for name in ("findings", "overview", "layers", "thresholds", "how")]
    assert order == sorted(order)


def test_files_stay_in_the_folder_whatever_layers_are_called(tmp_path):
    report = make_report(["../../up", "a/b", "a b", "a_b", ".", "x" * 300])
    report.save(tmp_path / "out")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all((tmp_path / "out") in path.parents for path in written)
    names = [figure.name for figure in report.figures]
    assert len(set(names)) == len(names) == len(list((tmp_path / "out" / "figures").iterdir()))
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name) for name in names) and file_stem("..") == "layer"
