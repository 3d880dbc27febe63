"""The HTML page: self-contained, escaped, complete, and whole when a plot is not."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from report_samples import SAMPLES, failed, inconclusive, passed, stopped

from mmdeploy.record.build_report import RecipeRecord, StepRecord
from mmdeploy.report import html, plots

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module", params=SAMPLES, ids=SAMPLES)
def sample(request):
    report = SAMPLES[request.param]()
    return report, html.render(report)


def test_nothing_is_loaded_from_anywhere(sample):
    _, text = sample
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import", text)
    for tag, name, value in page.attributes:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.findall(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_every_gate_check_and_step_is_on_the_page(sample):
    report, text = sample
    words = Page(text).text
    for gate in report.gates:
        assert gate.gate in words
        assert all(check.name in words for check in gate.checks)
    for step in report.steps:
        assert step.id in words
        assert step.why in words


def test_ids_are_unique_and_references_resolve(sample):
    page = Page(sample[1])
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for _, name, value in page.attributes if name == "href"}
    used |= set(re.findall(r"url\(#([^)]+)\)", sample[1]))
    assert used <= set(ids)


def test_tables_and_plots_are_accessible(sample):
    page = Page(sample[1])
    assert page.tags.count("h1") == 1
    assert page.tags.count("th") == len([name for tag, name, _ in page.attributes if (tag, name) == ("th", "scope")])
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags.count("svg")
    assert all(labels)


def test_plots_take_their_colours_from_the_page():
    svg = plots.size_panel("sizes", passed().sizes)
    ET.fromstring(svg)
    assert "var(--candidate)" in svg
    assert "#0101" not in svg


def test_a_substitute_is_loud():
    words = Page(html.render(inconclusive())).text
    assert words.count("SUBSTITUTE, not the real engine") >= 2
    assert "Gates (judged on a substitute)" in words
    assert "a substitute's latency says nothing about the tensorrt_rtx engine" in words


def test_missing_figures_are_called_not_measured():
    words = Page(html.render(stopped())).text
    for section in ("Where accuracy went", "Size", "Latency"):
        assert f"{section} Not measured" in words
    assert "Not measured: the build stopped before the gates." in words


def test_hostile_text_is_only_text():
    hostile = "<script>alert(1)</script>\"'&\x1b[0m"
    report = failed()
    step = StepRecord(
        id=hostile,
        component=hostile,
        kind="export",
        method=hostile,
        status="ran",
        metadata={hostile: hostile},
    )
    stages = tuple(one.model_copy(update={"component": one.component and hostile}) for one in report.stages)
    text = html.render(
        report.model_copy(
            update={
                "recipe": RecipeRecord(name=hostile, path="x", sha256="0"),
                "steps": (step,),
                "stages": stages,
                "notes": (hostile,),
                "libraries": {hostile: hostile},
            }
        )
    )
    page = Page(text)
    assert "script" not in page.tags
    assert "\x1b" not in text
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_a_plot_that_cannot_be_drawn_leaves_the_page_whole(monkeypatch):
    def broken(*_):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(plots, "size_panel", broken)
    words = Page(html.render(passed())).text
    assert "could not be drawn (RuntimeError: no fonts here)" in words
    assert "363 KiB" in words
